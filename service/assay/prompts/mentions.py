"""Special tokens that callers wrote into the texts of a conversation: found, refused, set apart.

transformers makes `<|im_end|>` in what somebody says the token that ends a turn, as if the template
had written it. To tell the two apart, those in the texts are replaced by stand-ins, characters of
private use, before the template is applied; what they stand for is tokenized as text then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby, takewhile
from typing import TYPE_CHECKING, Any

from assay.errors import InvalidField
from assay.items import Contest, Ids, Solution, Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from assay.items import Message, Source

_SAID = 0xF0000  # the stand-in of the first special token where somebody says it
_BY_TEMPLATE = 0x100000  # and where the template writes it
_MOST = 0xFFFD  # so many of either


@dataclass(frozen=True, slots=True)
class Mention:
    """The first special token in an item's texts: in which field, which is called so."""

    field: str
    called: str
    token: str

    def refusal(self) -> InvalidField:
        """Return what an item is answered that may hold none."""
        return InvalidField(
            f"{self.called} holds the special token '{self.token}', which is refused in what is "
            "said",
            param=self.field,
            advice='; remove it, or send "special_tokens": "split" to have it read as text',
        )


class StandIns:
    """Which characters stand for which special tokens."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tokens = tokens[:_MOST]
        self._places = {token: place for place, token in enumerate(tokens)}
        self._any = _any_of(tokens)
        self._gap = chr(_SAID + len(tokens))  # between texts that make a token together
        self._as_text = {_SAID + place: token for place, token in enumerate(tokens)}
        self._as_text[ord(self._gap)] = ""
        last = len(tokens)
        ranges = ((start, start + last) for start in (_SAID, _BY_TEMPLATE))
        charset = "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in ranges) + "]"
        self._own = re.compile(charset)
        self._any_or_own = re.compile(f"{charset}|{self._any.pattern}")

    def set_apart(self, text: str) -> str:
        """Return a text with stand-ins for its special tokens.

        Raises:
            InvalidField: It has such characters itself.
        """
        if self._own.search(text):
            raise InvalidField(
                "the item holds special tokens and, beside them, characters of private use "
                "(U+F0000 or U+100000 and following), which can't be told from these; remove them"
            )
        return self._any.sub(lambda match: chr(_SAID + self._places[match.group()]), text)

    def apart(self, texts: Sequence[str]) -> list[str]:
        """Return texts of which no two can make a special token together."""
        return [self.set_apart(text) + self._gap for text in texts]

    def written(self, text: str) -> str:
        """Return a text with the special tokens that its stand-ins are for."""
        return text.translate(self._as_text)

    def swapped(self, text: str) -> str:
        """Return a text in which the template's special tokens have stand-ins, and the said none.

        What was said is text now.
        """
        return self._any_or_own.sub(lambda match: self._swap(match.group()), text)

    def places(self, text: str) -> list[int]:
        """Return where in a text each character of it swapped stands, and where it ends."""
        places: list[int] = []
        at = 0
        for match in self._any_or_own.finditer(text):
            places += range(at, match.start())
            places += [match.start()] * len(self._swap(match.group()))
            at = match.end()
        return [*places, *range(at, len(text) + 1)]

    def by_template(self, place: int) -> str:
        """Return the stand-in of a special token that a template writes, by its place."""
        return chr(_BY_TEMPLATE + place)

    def _swap(self, piece: str) -> str:
        if piece in self._places:
            return self.by_template(self._places[piece])
        return piece.translate(self._as_text)


class Mentions:
    """What one tokenizer has for special, in the texts of items. Text and ids aren't said."""

    def __init__(self, tokens: Sequence[str]) -> None:
        """`tokens` are the special ones."""
        self.stand_ins = StandIns(tokens)
        by_sign = groupby(sorted(tokens), key=lambda token: token[0])
        groups = [list(group) for _, group in by_sign]
        # A text is looked through for what a group begins with first, which takes hardly any time.
        self._groups = [(_in_common(group[0], group[-1]), _any_of(group)) for group in groups]

    def first(self, source: Source) -> Mention | None:
        """Return the first special token in an item's texts."""
        if isinstance(source, Ids | Text):
            return None
        for field, called, text in _texts(source):
            if (token := self._in(text)) is not None:
                return Mention(field, called, token)
        return None

    def set_apart(self, source: Source) -> Source:
        """Return an item with stand-ins for the special tokens in its texts.

        Raises:
            InvalidField: It has such characters itself.
        """
        if isinstance(source, Ids | Text):
            return source
        inputs = source.inputs
        fields = {
            name: self._apart(getattr(inputs, name)) for name in ("tools", "documents", "variables")
        }
        said: dict[str, Any] = {
            "messages": tuple(self._message(message) for message in source.messages),
            "inputs": replace(inputs, **fields) if inputs.names else inputs,
        }
        if isinstance(source, Solution):
            said["steps"] = tuple(map(self.stand_ins.set_apart, source.steps))
        if isinstance(source, Contest):
            said["first"] = self.stand_ins.set_apart(source.first)
            said["second"] = self.stand_ins.set_apart(source.second)
        return replace(source, **said)

    def _in(self, text: str) -> str | None:
        for prefix, pattern in self._groups:
            if prefix in text and (match := pattern.search(text)):
                return match.group()
        return None

    def _message(self, message: Message) -> Message:
        content = message.get("content")
        apart: Message = self._apart({key: message[key] for key in message if key != "content"})
        if isinstance(content, str):
            apart["content"] = self.stand_ins.set_apart(content)
        elif content is not None:
            texts = self.stand_ins.apart([part["text"] for part in content])
            apart["content"] = [
                {**part, "text": text} for part, text in zip(content, texts, strict=True)
            ]
        return apart

    def _apart(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.stand_ins.set_apart(value)
        if isinstance(value, dict):
            return {self._apart(key): self._apart(element) for key, element in value.items()}
        if isinstance(value, list | tuple):
            return [self._apart(element) for element in value]
        return value


def _in_common(first: str, other: str) -> str:
    """Return what two texts begin with; of the first and the last by letters, what all do."""
    pairs = zip(first, other, strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    """Return what matches any of some tokens, the longest first, as tokenizers do."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _texts(source: Any) -> Iterator[tuple[str, str, str]]:
    """Yield each text of an item with its field, and what that is called."""
    for place, message in enumerate(source.messages):
        called = f"turn {place + 1}"
        for name, value in message.items():
            field = f"messages[{place}].{name}"
            if isinstance(value, str):
                yield field, called, value
            elif name == "content":  # a template may join the parts
                yield field, called, "".join(part["text"] for part in value)
            else:
                yield from ((field, called, text) for text in _strings(value))
    if source.inputs.names:
        inputs = source.inputs
        for name, value in (
            ("tools", inputs.tools),
            ("documents", inputs.documents),
            ("chat_template_kwargs", inputs.variables),
        ):
            yield from ((name, f"'{name}'", text) for text in _strings(value))
    if isinstance(source, Solution):
        for place, step in enumerate(source.steps):
            yield f"steps[{place}]", f"step {place + 1}", step
    if isinstance(source, Contest):
        yield from (("responses", "a response", text) for text in (source.first, source.second))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, element in value.items():
            yield from _strings(key)
            yield from _strings(element)
    elif isinstance(value, list | tuple):
        for element in value:
            yield from _strings(element)
