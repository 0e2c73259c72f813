"""A large JSON object or list parsed a piece at a time, while it comes.

The promise it keeps: no body, whatever is in it, holds up others for a tenth of a second
(`loadtest.attacks`).

One call of a parser holds the interpreter from beginning to end, a second or more for a body of
some hundred megabytes, and the whole body would be in memory beside what becomes of it. So a list
one level deep that doesn't end in the bytes it began in is cut between its elements, and what was
cut off is parsed at once. All the rest, the frame, is parsed at the end. The pieces of a document
and its frame are well-formed exactly where the document is.
"""

from __future__ import annotations

import secrets
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import from_json

from assay import validation
from assay.api.holdings import CONTAINER_BYTES, TEXT_FACTOR, VALUE_BYTES
from assay.errors import BodyTooLarge, MalformedBody
from assay.wire import MOST_ITEMS

# What one call of the parser may have to do: the frame's part, or that of one element of a list.
MOST_PART_BYTES = 32 * 1024**2
MOST_PART_KEYS = 32_768  # a parser's user may tell of each that it doesn't know it
MOST_PART_VALUES = 2_097_152
MOST_VALUES = 8_388_608  # in all, token ids apart: a value of a few bytes takes dozens in memory
_PACKED_FROM = 16  # token ids; a short list isn't worth it
_OPEN, _CLOSE, _COMMA, _COLON, _QUOTE, _BACKSLASH = range(1, 7)
_SIGNS = np.zeros(256, np.uint8)
for _kind, _bytes in enumerate((b"{[", b"}]", b",", b":", b'"', b"\\"), start=1):
    _SIGNS[list(_bytes)] = _kind
_DEPTHS = np.array([0, 1, -1, 0, 0, 0, 0], np.int64)  # what each sign adds


@dataclass(slots=True)
class _Signs:
    """Brackets, commas and colons outside of strings: where, which, and how deep after each."""

    places: np.ndarray
    kinds: np.ndarray
    depths: np.ndarray

    @property
    def worth(self) -> int:
        """About how many bytes the values around the signs take, beside their text."""
        opened = int(np.count_nonzero(self.kinds == _OPEN))
        closed = int(np.count_nonzero(self.kinds == _CLOSE))
        return CONTAINER_BYTES * opened + VALUE_BYTES * (len(self.kinds) - opened - closed)

    def last(self, kind: int, depth: int, begin: int) -> int:
        """Return the place of the last one of a kind and depth from a place on; -1 for none."""
        places = self.places[(self.kinds == kind) & (self.depths == depth) & (self.places >= begin)]
        return int(places[-1]) if len(places) else -1

    def first(self, kind: int, depth: int) -> int:
        """Return the place of the first one of a kind and depth; -1 for none."""
        places = self.places[(self.kinds == kind) & (self.depths == depth)]
        return int(places[0]) if len(places) else -1

    def count(self, kind: int, begin: int, end: int) -> int:
        """Return how many of a kind are between two places."""
        low, high = np.searchsorted(self.places, (begin, end))
        return int(np.count_nonzero(self.kinds[low:high] == kind))


class _Scanner:
    """Follows a document through its chunks: what is in a string, and how deep the rest is."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._is_escaped = False  # the first byte of the next chunk

    def scan(self, chunk: bytes) -> _Signs:
        """Return the signs of the next chunk."""
        kinds = _SIGNS[np.frombuffer(chunk, np.uint8)]
        places = np.flatnonzero(kinds)
        kinds = kinds[places]
        is_quote = kinds == _QUOTE
        escaped = self._escaped(places[kinds == _BACKSLASH], len(chunk))
        if len(escaped):
            is_quote &= ~np.isin(places, escaped)
        quotes = np.cumsum(is_quote)
        outside = (kinds < _QUOTE) & ((quotes + self._in_string) % 2 == 0)
        self._in_string ^= bool(len(quotes) and quotes[-1] % 2)
        places, kinds = places[outside], kinds[outside]
        depths = self._depth + np.cumsum(_DEPTHS[kinds])
        self._depth = int(depths[-1]) if len(depths) else self._depth
        return _Signs(places, kinds, depths)

    def _escaped(self, backslashes: np.ndarray, size: int) -> np.ndarray:
        """Return the places behind every other backslash of each run, and what the last was for."""
        escaped = np.array([0] if self._is_escaped else [], np.int64)
        if self._is_escaped and len(backslashes) and backslashes[0] == 0:
            backslashes = backslashes[1:]
        if len(backslashes):
            number = np.arange(len(backslashes))
            begins = np.flatnonzero(np.diff(backslashes, prepend=-2) != 1)
            in_run = number - begins[np.searchsorted(begins, number, side="right") - 1]
            escaped = np.append(escaped, backslashes[in_run % 2 == 0] + 1)
        self._is_escaped = bool(size and len(escaped) and escaped[-1] == size)
        return escaped


@dataclass(slots=True)
class _Part:
    """What the next call of the parser gets; whatever a chunk leaves of it is bounded."""

    content: bytearray = field(default_factory=bytearray)
    keys: int = 0
    values: int = 0

    def add(self, chunk: bytes, signs: _Signs, begin: int, end: int) -> None:
        """Append some bytes of a chunk."""
        self.content += memoryview(chunk)[begin:end]
        self.keys += signs.count(_COLON, begin, end)
        self.values += signs.count(_COMMA, begin, end)

    def check(self) -> None:
        """Refuse what would take the parser long, or those who look at what it found."""
        if len(self.content) > MOST_PART_BYTES:
            raise BodyTooLarge(
                f"one item, or all that is beside the items, exceeds {MOST_PART_BYTES} bytes"
            )
        if self.keys > MOST_PART_KEYS or self.values > MOST_PART_VALUES:
            raise BodyTooLarge(
                f"one item, or all that is beside the items, has more than {MOST_PART_KEYS} keys "
                f"or {MOST_PART_VALUES} values"
            )


class IncrementalParser:
    """One document. Lists of token ids come as `array('i')`, four bytes an id.

    Raises (every method):
        MalformedBody: It isn't JSON.
        BodyTooLarge: A part of it, or what it has in all, is more than one request may bring.
    """

    def __init__(self) -> None:
        self._scanner = _Scanner()
        self._frame = _Part()
        self._element: _Part | None = None  # where a list is open: what isn't parsed of it
        self._lists: list[list[Any]] = []
        self._mark = secrets.token_hex(16)  # stands in the frame for what was cut out
        self._values = 0
        self._worth = 0

    @property
    def worth(self) -> int:
        """About how many bytes is worth what came, parsed or about to be; see `holdings`."""
        return self._worth

    @property
    def lists(self) -> list[list[Any]]:
        """What is parsed of each list of the document so far."""
        return self._lists

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; those that end elements are parsed."""
        signs = self._scanner.scan(chunk)
        self._worth += TEXT_FACTOR * len(chunk) + signs.worth
        begin = 0
        if self._element is not None:
            end = signs.first(_CLOSE, 1)
            if end < 0:
                self._cut(self._element, chunk, signs, 0)
                return
            self._element.add(chunk, signs, 0, end)
            self._parse(self._element, is_last=True)
            self._element, begin = None, end
        start = signs.last(_OPEN, 2, begin)
        if start < signs.last(_CLOSE, 1, begin) or chunk[start : start + 1] != b"[":
            self._frame.add(chunk, signs, begin, len(chunk))
            self._frame.check()
            return
        self._frame.add(chunk, signs, begin, start + 1)
        self._frame.content += f'"{self._mark}{len(self._lists)}"'.encode()
        self._frame.check()
        self._lists.append([])
        self._element = _Part()
        self._cut(self._element, chunk, signs, start + 1)

    def end(self) -> Any:
        """Return the document."""
        if self._element is not None:
            raise MalformedBody("the body is not valid JSON: it ends within a list")
        document = _json(self._frame.content)
        if not isinstance(document, dict | list):
            return document
        marks = {f"{self._mark}{place}": elements for place, elements in enumerate(self._lists)}
        for place in document if isinstance(document, dict) else range(len(document)):
            value = document[place]
            if isinstance(value, list) and len(value) == 1 and type(value[0]) is str:
                document[place] = marks.get(value[0], value)
        return document

    def _cut(self, element: _Part, chunk: bytes, signs: _Signs, begin: int) -> None:
        """Parse a list up to its last comma in this chunk; what is behind waits for more."""
        comma = signs.last(_COMMA, 2, begin)
        if comma >= 0:
            element.add(chunk, signs, begin, comma)
            self._parse(element, is_last=False)
            begin = comma + 1
            self._element = element = _Part()
        element.add(chunk, signs, begin, len(chunk))
        element.check()

    def _parse(self, element: _Part, *, is_last: bool) -> None:
        """Add the elements of a piece of the list that is open."""
        parsed = _json(b"[" + element.content + b"]")
        elements = self._lists[-1]
        if not parsed and (elements or not is_last):
            raise MalformedBody("the body is not valid JSON: a comma in a list has no value")
        self._values += element.values + element.keys
        elements += map(self._packed, parsed)
        are_ids = bool(elements) and type(elements[0]) is int
        if self._values > MOST_VALUES or (len(elements) > MOST_ITEMS and not are_ids):
            raise BodyTooLarge(
                f"the request has more than {MOST_ITEMS} items, or {MOST_VALUES} values in all; "
                "send fewer at a time"
            )

    def _packed(self, value: Any) -> Any:
        """Return an element with its lists of token ids packed."""
        if isinstance(value, dict):
            for key, inner in value.items():
                if isinstance(inner, list) and len(inner) >= _PACKED_FROM:
                    value[key] = self._ids(inner)
        elif isinstance(value, list) and len(value) >= _PACKED_FROM:
            return self._ids(value)
        return value

    def _ids(self, values: list[Any]) -> list[Any] | array[int]:
        if type(values[0]) is not int or set(map(type, values)) != {int}:
            return values
        try:
            packed = array("i", values)
        except OverflowError:
            return values
        self._values -= len(values)
        self._worth -= VALUE_BYTES * len(values) + CONTAINER_BYTES
        return packed


def _json(content: bytes | bytearray) -> Any:
    try:
        return from_json(content)
    except ValueError as error:
        reason = str(error).partition(" at line ")[0]  # of a piece, which the caller never saw
        raise MalformedBody(validation.not_json(reason)) from None
