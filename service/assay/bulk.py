"""A JSONL file of items and comparisons in, a JSONL file of answers out.

Order is kept and what is done is never done again: line i of the output answers line i of the
input, so a run that was cut off goes on after the last whole line it wrote. A line is an item of
`POST /score`, or a comparison (`prompt` with `chosen` and `rejected`, or `responses`); fields that
neither knows are carried over to the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from assay import wire
from assay.errors import InvalidField, MalformedBody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

IN_FLIGHT = 4
Line = dict[str, Any]


class Service(Protocol):
    """Whoever answers: the HTTP client, or a scorer in this process."""

    async def score(self, request: wire.ScoreRequest) -> wire.ScoreAnswer:
        """Score items."""

    async def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        """Compare responses."""


@dataclass(slots=True)
class Tally:
    """What a run did. Accuracy counts lines with `chosen`; a tie counts half."""

    lines: int = 0
    errors: int = 0
    tokens: int = 0
    pairs: int = 0
    correct: float = 0.0
    by_agreement: dict[float, list[float]] = field(default_factory=dict)
    codes: Counter[str] = field(default_factory=Counter)

    @property
    def accuracy(self) -> float | None:
        """Share of pairs whose chosen response won."""
        return self.correct / self.pairs if self.pairs else None

    def add(self, line: Line, answer: Line) -> None:
        """Count one answered line."""
        self.lines += 1
        if error := answer.get("error"):
            self.errors += 1
            self.codes[error["code"]] += 1
        elif "chosen" in line:
            won = {0: 1.0, None: 0.5}.get(answer["winner"], 0.0)
            self.pairs += 1
            self.correct += won
            if answer["agreement"] is not None:
                self.by_agreement.setdefault(round(answer["agreement"], 3), []).append(won)


async def run(
    source: Path,
    sink: Path,
    service: Service,
    *,
    model: str | None = None,
    batch_lines: int = 128,
    on_done: Callable[[int, int], None] | None = None,
) -> Tally:
    """Answer what the sink lacks of the source; `on_done` gets lines and tokens as they come.

    Raises:
        MalformedBody: A line isn't a JSON object; its number is named.
        AssayError: The service refuses everything (unknown model, wrong key).
    """
    done = finished_lines(sink)
    tally = Tally()
    pending: deque[tuple[list[Line], asyncio.Task[tuple[list[Line], int]]]] = deque()
    with (
        source.open("rb") as lines,
        # A lone surrogate of a carried field is written as JSON escapes it.
        sink.open("a", encoding="utf-8", errors="backslashreplace") as out,
    ):
        batches = _batches(lines, done, batch_lines)
        try:
            while True:
                for number, batch in islice(batches, IN_FLIGHT - len(pending)):
                    task = asyncio.create_task(_answer(batch, number, service, model))
                    pending.append((batch, task))
                if not pending:
                    return tally
                batch, task = pending.popleft()
                answers, tokens = await task
                for line, answer in zip(batch, answers, strict=True):
                    tally.add(line, answer)
                    out.write(json.dumps(answer, ensure_ascii=False) + "\n")
                out.flush()
                tally.tokens += tokens
                if on_done:
                    on_done(len(batch), tokens)
        finally:
            for _, task in pending:
                task.cancel()


def finished_lines(sink: Path) -> int:
    """Count the whole lines already written, and cut off a half-written one."""
    if not sink.exists():
        return 0
    with sink.open("r+b") as file:
        content_end, lines = 0, 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            content_end += len(line)
            lines += 1
        file.truncate(content_end)
    return lines


def _batches(lines: Iterable[bytes], done: int, size: int) -> Iterator[tuple[int, list[Line]]]:
    """Yield batches of parsed lines with the number of their first."""
    numbered = islice(enumerate(lines), done, None)
    while chunk := list(islice(numbered, size)):
        yield chunk[0][0], [_parse(text, number) for number, text in chunk]


def _parse(text: bytes, number: int) -> Line:
    try:
        line = json.loads(text)
    except UnicodeDecodeError as error:
        raise MalformedBody(f"line {number + 1} is not UTF-8: {error.reason}") from error
    except json.JSONDecodeError as error:
        raise MalformedBody(f"line {number + 1} is not JSON: {error.msg}") from error
    if not isinstance(line, dict):
        raise MalformedBody(f"line {number + 1} is not a JSON object")
    return line


async def _answer(
    batch: list[Line], first: int, service: Service, model: str | None
) -> tuple[list[Line], int]:
    """Return one answer a line, and the tokens they took."""
    answers: list[Line] = [{} for _ in batch]
    items: list[tuple[int, wire.Item]] = []
    comparisons: list[tuple[int, wire.Comparison]] = []
    for place, line in enumerate(batch):
        try:
            if "chosen" in line or "responses" in line:
                comparisons.append((place, wire.Comparison(**_known(line, wire.Comparison))))
            else:
                items.append((place, wire.Item(**_known(line, wire.Item))))
        except (ValidationError, TypeError) as error:
            answers[place] = {**_echoed(line), "error": _line_error(error)}
    tokens = 0
    named = {} if model is None else {"model": model}
    options: dict[str, Any] = {"on_error": "item", "priority": "batch", **named}
    if items:
        scored = await service.score(
            wire.ScoreRequest(inputs=[item for _, item in items], include=["members"], **options)
        )
        tokens += scored.usage.tokens
        for (place, _), entry in zip(items, scored.data, strict=True):
            answers[place] = entry.model_dump(mode="json")
    if comparisons:
        compared = await service.compare(
            wire.CompareRequest(comparisons=[one for _, one in comparisons], **options)
        )
        tokens += compared.usage.tokens
        for (place, _), compared_entry in zip(comparisons, compared.data, strict=True):
            answers[place] = compared_entry.model_dump(mode="json")
    return [
        {**_unknown(line), **answer, "index": first + place}
        for place, (line, answer) in enumerate(zip(batch, answers, strict=True))
    ], tokens


def _known(line: Line, kind: type[wire.Request]) -> Line:
    return {key: value for key, value in line.items() if key in kind.model_fields}


def _unknown(line: Line) -> Line:
    known = wire.Item.model_fields.keys() | wire.Comparison.model_fields.keys()
    return {key: value for key, value in line.items() if key not in known}


def _echoed(line: Line) -> Line:
    return {"id": line["id"]} if isinstance(line.get("id"), str) else {}


def _line_error(error: ValidationError | TypeError) -> Line:
    if isinstance(error, TypeError):
        return {"code": InvalidField.code, "message": "the line's fields can't be read"}
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return {"code": InvalidField.code, "message": f"{where}: {first['msg']}".lstrip(": ")}
