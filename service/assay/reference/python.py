"""docs/python.md: the client's arguments and calls, the adapters' functions and options."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from typing import TYPE_CHECKING, Any

from assay import AsyncClient, Client, wire
from assay.client import adapters
from assay.client.adapters.reward import Reward
from assay.reference.schema import code, default, table, words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_AS_THERE = "As in `wire.Options`."
_CALLS = ("score", "compare", "best_of_n", "stream", "models", "model")


def markdown() -> str:
    """Return the client, then the adapters."""
    return (
        "\n\n".join(
            [
                "### The client's arguments",
                table(("argument", "default", "meaning"), _arguments()),
                "### The client's calls",
                table(("call", "does"), _calls()),
                "### The adapters' functions",
                table(("function", "does"), _functions()),
                "### The adapters' options",
                table(("option", "type", "default", "meaning"), _options()),
            ]
        )
        + "\n"
    )


def _arguments() -> Iterator[list[str]]:
    """Yield the client's arguments, as its docstring describes them."""
    said = dict(_described(AsyncClient))
    for name, one in inspect.signature(Client).parameters.items():
        is_open = one.default is inspect.Parameter.empty
        yield [code(name), "" if is_open else code(one.default), said[name]]


def _described(documented: type) -> Iterator[tuple[str, str]]:
    """Yield the arguments of a docstring with what it says of each."""
    _, _, block = (inspect.getdoc(documented) or "").partition("Args:\n")
    for found in re.finditer(r"^    (\w+): ((?:.+\n?)(?:^     .*\n?)*)", block, re.MULTILINE):
        yield found[1], found[2]


def _calls() -> Iterator[list[str]]:
    for name in _CALLS:
        said = (inspect.getdoc(getattr(AsyncClient, name)) or "").partition("\n\n")[0]
        yield [code(name), said]


def _functions() -> Iterator[list[str]]:
    """Yield what each adapter offers: its public functions."""
    for found in pkgutil.iter_modules(adapters.__path__):
        module = importlib.import_module(f"{adapters.__name__}.{found.name}")
        for name, one in _public(module):
            said = (inspect.getdoc(one) or "").partition("\n\n")[0]
            yield [code(f"{found.name}.{name}"), said]


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield an adapter's functions; modules that adapters share have no `reward` to offer."""
    home = module.__name__
    offered = [
        (name, one)
        for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == home and not name.startswith("_")
    ]
    if any("Reward.of" in inspect.getsource(one) for _, one in offered):
        yield from offered


def _options() -> Iterator[list[str]]:
    schema = Reward.model_json_schema()
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        said = field.get("description", "")
        if said == _AS_THERE:
            said = wire.Options.model_fields[name].description or ""
        kind = words(field, has_null=False)
        yield [code(name), kind, default(field, is_required=name in required), said]
