"""A chat template's Jinja, looked at and never rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jinja2
import jinja2.meta
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import SandboxedEnvironment

from assay.prompts import sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jinja2.parser import Parser


class _Generation(Extension):
    """transformers' `{% generation %}`."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own way

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def parse(source: str) -> nodes.Template | None:
    """Return a template's tree; None where it can't be read."""
    # The sandbox's, for what is constant is computed while the names are looked up.
    sandbox.tighten()
    environment = SandboxedEnvironment(extensions=["jinja2.ext.loopcontrols", _Generation])
    try:
        return environment.parse(source)
    except (jinja2.TemplateError, RecursionError):
        return None


def variables(source: str) -> frozenset[str] | None:
    """Return the names that a template looks up; None where it can't be read."""
    tree = parse(source)
    return None if tree is None else frozenset(jinja2.meta.find_undeclared_variables(tree))


def literals(source: str) -> set[str]:
    """Return the texts that stand between a template's quotes."""
    tree = parse(source)
    constants = () if tree is None else tree.find_all(nodes.Const)
    return {constant.value for constant in constants if isinstance(constant.value, str)}


def refusals(source: str) -> list[tuple[str, ...]]:
    """Return the texts that stand in each of a template's own errors, in their order."""
    tree = parse(source)
    if tree is None:
        return []
    calls = (
        call
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "raise_exception"
    )
    texts = (
        (constant.value for arg in call.args for constant in _constants(arg)) for call in calls
    )
    return [
        tuple(text for text in some if isinstance(text, str) and text.strip()) for some in texts
    ]


def _constants(node: nodes.Node) -> Iterator[nodes.Const]:
    if isinstance(node, nodes.Const):
        yield node
    for child in node.iter_child_nodes():
        yield from _constants(child)
