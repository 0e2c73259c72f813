"""Special tokens that are in no text of an item and in what is made of it: put together from parts.

A template may join two texts, or remove what stands between the halves of a token; a normalizer may
make `<|im_end|>` of other letters. What is rendered of an item is compared with what is rendered of
its shape: the same item, in which no text says anything that could become part of a special token.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assay.errors import InvalidField
from assay.items import Contest, Ids, Solution, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from assay.items import Message, Source

_INERT = "x"
_NOTHING = re.compile("(?!)")
_LETTERS = re.compile(r"[\w -]")  # what any text has, too


def refusal() -> InvalidField:
    """Return what an item is answered in which a special token comes about."""
    return InvalidField(
        "the chat template or the tokenizer makes a special token of what the item's texts have in "
        "parts or in other letters, which is refused in what is said"
    )


class Shapes:
    """The shapes of one model's items."""

    def __init__(self, tokens: Sequence[str], literals: Iterable[str]) -> None:
        """`tokens` are the special ones; `literals` what the template may look for in a text."""
        signs = [_LETTERS.sub("", token) for token in tokens]
        some = f"[^\\x00-\\x7f]|[{re.escape(''.join(signs))}]"
        self._risky = re.compile(some if all(signs) else "(?s:.)") if tokens else _NOTHING
        kept = {text for text in literals if text and not any(text in token for token in tokens)}
        longest_first = sorted(kept, key=len, reverse=True)
        self._told = re.compile(rf"({'|'.join(map(re.escape, longest_first)) or '(?!)'})|\S")

    def may_form(self, source: Source) -> bool:
        """Whether an item has what a special token could be made of."""
        if isinstance(source, Ids | Text):
            return False
        inputs = source.inputs
        said: list[Any] = [source.messages, inputs.tools, inputs.documents, inputs.variables]
        if isinstance(source, Solution):
            said.append(source.steps)
        if isinstance(source, Contest):
            said += [source.first, source.second]
        return self._is_risky(said)

    def of(self, source: Source) -> Source:
        """Return an item's shape."""
        if isinstance(source, Ids | Text):
            return source
        inputs = source.inputs
        fields = {
            name: self._inert(getattr(inputs, name)) for name in ("tools", "documents", "variables")
        }
        said: dict[str, Any] = {
            "messages": tuple(map(self._message, source.messages)),
            "inputs": replace(inputs, **fields) if inputs.names else inputs,
        }
        if isinstance(source, Solution):
            said["steps"] = tuple(map(self._inert, source.steps))
        if isinstance(source, Contest):
            said["first"] = self._inert(source.first)
            said["second"] = self._inert(source.second)
        return replace(source, **said)

    def _message(self, message: Message) -> Message:
        content = message.get("content")
        shape: Message = {
            name: value if name in ("role", "content") else self._inert(value)
            for name, value in message.items()
        }
        if isinstance(content, str):
            shape["content"] = self._inert(content)
        elif content is not None:
            shape["content"] = [{**part, "text": self._inert(part["text"])} for part in content]
        return shape

    def _inert(self, value: Any) -> Any:
        """Return a value whose texts say nothing but what the template may look for."""
        if isinstance(value, str):
            return self._told.sub(lambda match: match.group() if match.lastindex else _INERT, value)
        if isinstance(value, dict):
            return {key: self._inert(element) for key, element in value.items()}
        if isinstance(value, list | tuple):
            return [self._inert(element) for element in value]
        return value

    def _is_risky(self, value: Any) -> bool:
        if isinstance(value, str):
            return self._risky.search(value) is not None
        if isinstance(value, dict):
            return any(
                self._is_risky(key) or self._is_risky(element) for key, element in value.items()
            )
        if isinstance(value, list | tuple):
            return any(map(self._is_risky, value))
        return False
