"""The names that a chat template has for those who speak, read from its Jinja.

A reranker's template may take the roles `query` and `document` where others take `user` and
`assistant`. Nothing is rendered here: whether a mapping is right, `chat_format` tries.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import nodes

from assay.prompts import jinja_source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
OURS = (SYSTEM, USER, ASSISTANT)
_ASKS = frozenset({USER, "query", "question", "prompt", "human", "input", "request"})
_ANSWERS = frozenset(
    {
        *(ASSISTANT, "document", "passage", "doc", "response", "answer", "candidate"),
        *("model", "bot", "chatbot", "gpt", "ai", "output", "reply", "completion"),
    }
)
_INSTRUCTS = frozenset({"instruction", "instruct", "task"})
_FILTERS = frozenset({"selectattr", "rejectattr"})


def looked_for(chat: str) -> tuple[str, ...]:
    """Return the role names that a chat template compares with, as they first stand in it."""
    tree = jinja_source.parse(chat)
    if tree is None:
        return ()
    tables = {
        assignment.target.name: assignment.node
        for assignment in tree.find_all(nodes.Assign)
        if isinstance(assignment.target, nodes.Name) and isinstance(assignment.node, nodes.Dict)
    }
    kinds = (nodes.Compare, nodes.Test, nodes.Filter, nodes.Getitem)
    names = (name for node in tree.find_all(kinds) for name in _compared(node, tables))
    return tuple(dict.fromkeys(names))


def guess(names: Sequence[str]) -> dict[str, str]:
    """Return the template's name of each of our roles that it calls otherwise.

    Empty unless it is plain: one name for who asks, and one for who answers.
    """
    asks, answers, instructs = (
        [name for name in names if name.casefold() in synonyms]
        for synonyms in (_ASKS, _ANSWERS, _INSTRUCTS)
    )
    if not asks and SYSTEM in names:  # an instruction that is answered
        asks, instructs = instructs, []
    if len(asks) != 1 or len(answers) != 1:
        return {}
    guessed = {USER: asks[0], ASSISTANT: answers[0]}
    if SYSTEM not in names and len(instructs) == 1:
        guessed[SYSTEM] = instructs[0]
    return {ours: theirs for ours, theirs in guessed.items() if ours != theirs}


def listed(names: Iterable[str]) -> str:
    """Return role names as messages show them."""
    return ", ".join(f"'{name}'" for name in names) or "none by name"


def _compared(node: nodes.Node, tables: Mapping[str, nodes.Dict]) -> Iterator[str]:
    """Yield the texts that one node compares a role with."""
    match node:
        case nodes.Compare():
            sides = [node.expr, *(operand.expr for operand in node.ops)]
            if any(map(_is_role, sides)):
                yield from (text for side in sides for text in _texts(side))
        case nodes.Test() if node.node is not None and _is_role(node.node):
            yield from (text for argument in node.args for text in _texts(argument))
        case nodes.Filter() if node.name in _FILTERS and _is_const(node.args[:1], "role"):
            yield from (text for argument in node.args[2:] for text in _texts(argument))
        case nodes.Getitem() if _is_role(node.arg):
            table = tables.get(node.node.name) if isinstance(node.node, nodes.Name) else node.node
            if isinstance(table, nodes.Dict):
                yield from (text for pair in table.items for text in _texts(pair.key))


def _is_role(node: nodes.Node) -> bool:
    """Whether an expression is a turn's role, by its name."""
    match node:
        case nodes.Getattr():
            return node.attr == "role" or _is_role(node.node)
        case nodes.Getitem():
            return _is_const([node.arg], "role")
        case nodes.Name():
            return "role" in node.name
        case nodes.Call():
            return _is_const(node.args[:1], "role") or _is_role(node.node)
        case nodes.Filter():
            return node.node is not None and _is_role(node.node)
    return False


def _is_const(arguments: Sequence[nodes.Node], value: str) -> bool:
    return any(isinstance(node, nodes.Const) and node.value == value for node in arguments)


def _texts(node: nodes.Node) -> Iterator[str]:
    """Yield the texts of a constant, or of a list of them."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str) and node.value:
        yield node.value
    elif isinstance(node, nodes.List | nodes.Tuple):
        yield from (text for item in node.items for text in _texts(item))
