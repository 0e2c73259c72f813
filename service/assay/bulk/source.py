"""The file that is scored: read a line at a time, plain or gzipped, blank lines left out."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from assay.errors import MalformedBody

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Line = dict[str, Any]
_GZIP = b"\x1f\x8b"
_MOST_BYTES = 64 * 2**20  # of a line, as of an item of a request
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What is in a file: the SHA-256 of its text, its lines, and those with many responses."""

    digest: str
    lines: int
    groups: int


def survey(path: Path) -> Survey:
    """Read a file once through, before anything is scored.

    Raises:
        MalformedBody: A line isn't a JSON object, or the file can't be read; names the line.
    """
    if not path.is_file():
        raise MalformedBody(f"{path} is no file, and is to be read twice; save it as one first")
    digest = hashlib.sha256()
    count = groups = 0
    for number, text in _texts(path):
        digest.update(text)
        if text.strip():
            line = _parsed(text, number)
            count += 1
            groups += is_group(line)
    return Survey(digest.hexdigest(), count, groups)


def lines(path: Path) -> Iterator[tuple[int, Line]]:
    """Yield each line that isn't blank with its number in the file, from 1; raises as `survey`."""
    for number, text in _texts(path):
        if text.strip():
            yield number, _parsed(text, number)


def is_group(line: Line) -> bool:
    """Whether a line has responses, or chains of steps, to choose among."""
    return "responses" in line or "chains" in line


def _texts(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield every line's bytes, without the mark that some programs begin a file with."""
    with _opened(path) as file:
        number = 1
        while text := file.readline(_MOST_BYTES + 1):
            if len(text) > _MOST_BYTES:
                raise MalformedBody(f"line {number} has over {_MOST_BYTES // 2**20} MiB")
            yield number, text.removeprefix(codecs.BOM_UTF8) if number == 1 else text
            number += 1


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            is_packed = file.read(len(_GZIP)) == _GZIP
            file.seek(0)
            yield cast("BinaryIO", gzip.GzipFile(fileobj=file)) if is_packed else file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise MalformedBody(f"{path} can't be read: {reason}; give a JSONL file") from error


def _parsed(text: bytes, number: int) -> Line:
    try:
        line = json.loads(text.decode())
    except UnicodeDecodeError as error:
        raise MalformedBody(
            f"line {number} is not UTF-8: {error.reason} at its byte {error.start + 1}"
            + ("; the file looks like UTF-16" if b"\0" in text else "")
        ) from error
    except json.JSONDecodeError as error:
        raise MalformedBody(f"line {number} is not JSON: {error.msg} at {_place(error)}") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedBody(f"line {number} is not JSON that can be read: {reason}") from error
    if not isinstance(line, dict):
        raise MalformedBody(f"line {number} is not a JSON object, but {_kind(line)}")
    return line


def _place(error: json.JSONDecodeError) -> str:
    return "its end" if error.pos >= len(error.doc.rstrip()) else f"character {error.pos + 1}"


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
