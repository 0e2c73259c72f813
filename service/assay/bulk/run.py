"""From the first line that has no answer yet to the last, some requests under way at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from pydantic import ValidationError

from assay import wire
from assay.bulk import record, source
from assay.bulk.record import Options, Record, Target
from assay.bulk.tally import Tally
from assay.client import route
from assay.errors import AssayError, BodyTooLarge, Draining, InvalidField, NotReady, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

IN_FLIGHT = 4
Line = dict[str, Any]
Numbered = tuple[int, Line]
_FIRST_LINES = 4
_SHORT_S = 2.0  # a request that took less is followed by a longer one
_LONG_S = 8.0
_AWAY = {kind.code for kind in (NotReady, Overloaded, Draining)}
_ROUTES: dict[type, route.Route[Any]] = {
    endpoint.one: endpoint for endpoint in (route.SCORE, route.COMPARE, route.BEST_OF_N)
}
_KINDS = (wire.Item, wire.Comparison, wire.Group)
# What a line is scored by, and what its answer has; of an input's columns the others are carried.
_INPUTS = frozenset(name for kind in _KINDS for name in kind.model_fields) - {"id"}
_ANSWERS = {
    wire.Item: frozenset(wire.ScoreEntry.model_fields) - {"rewards"},  # one target is asked
    wire.Comparison: frozenset(wire.CompareEntry.model_fields),
    wire.Group: frozenset(wire.BestOfNEntry.model_fields),
}
_OF_ALL = {"line", "model", "revision"}
_OPTIONS = frozenset({"activation", "aggregate", "normalize", "truncation"})  # move a score


class Service(Protocol):
    """Whoever answers: the HTTP client, or a scorer in this process."""

    async def target(self, model: str | None) -> Target:
        """Return who answers under a name, or by default."""

    async def score(self, request: wire.ScoreRequest) -> wire.ScoreAnswer:
        """Score items."""

    async def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        """Compare responses."""

    async def best_of_n(self, request: wire.BestOfNRequest) -> wire.BestOfNAnswer:
        """Pick the best responses."""


async def run(
    file: Path,
    sink: Path,
    service: Service,
    *,
    model: str | None = None,
    batch_lines: int = 128,
    options: Options | None = None,
    tally: Tally | None = None,
    on_done: Callable[[int, int], None] | None = None,
) -> Tally:
    """Answer what the sink lacks of a file; `on_done` gets lines and tokens as they come.

    A request has few lines at first, then as many as take some seconds, up to `batch_lines`: what
    is done is kept. `tally` grows meanwhile, for whoever is interrupted.

    Raises:
        MalformedBody: A line isn't a JSON object; its number is named. Nothing was asked.
        InvalidField: The sink holds something else, is written by another run, or can't be.
        AssayError: The service refuses everything (unknown model, wrong key), or went away.
    """
    tally = Tally() if tally is None else tally
    options = options or Options()
    seen = await asyncio.to_thread(source.survey, file)
    if options.rule and not seen.groups:
        raise InvalidField(f"--rule picks among responses, and no line of {file} has several")
    target = await service.target(model)
    ours = Record(target=target, input_sha256=seen.digest, lines=seen.lines, options=options)
    with _output(file, sink) as out:
        held, end = _whole_lines(out)
        with _writing(sink):
            record.settle(sink, held, ours)
            out.truncate(end)
        tally.total = seen.lines
        await asyncio.to_thread(_recount, file, out, held, tally)
        asking = _Asking(service, target, options, model)
        await _answer_all(source.lines(file), held, out, asking, batch_lines, tally, on_done)
    return tally


async def _answer_all(
    lines: Iterator[Numbered],
    done: int,
    out: BinaryIO,
    asking: _Asking,
    most: int,
    tally: Tally,
    on_done: Callable[[int, int], None] | None,
) -> None:
    """Write the answers of all lines but the first `done`, in their order."""
    rest, first, pace = islice(lines, done, None), done, _Pace(most)
    pending: deque[tuple[list[Numbered], asyncio.Task[tuple[list[Line], int]]]] = deque()
    try:
        while True:
            while len(pending) < IN_FLIGHT and (batch := list(islice(rest, pace.lines))):
                pending.append(
                    (batch, asyncio.create_task(pace.timed(asking.answer, batch, first)))
                )
                first += len(batch)
            if not pending:
                return
            batch, task = pending.popleft()
            answers, tokens = await task
            _write(out, answers)
            for (number, line), answer in zip(batch, answers, strict=True):
                tally.add(number, line, answer)
            tally.new += len(batch)
            tally.tokens += tokens
            if on_done:
                on_done(len(batch), tokens)
    finally:
        for _, task in pending:
            task.cancel()


@dataclass(slots=True)
class _Pace:
    """How many lines the next request has: what takes some seconds, so that little is lost."""

    most: int
    lines: int = 0

    def __post_init__(self) -> None:
        self.lines = min(self.most, _FIRST_LINES)

    async def timed(
        self,
        answer: Callable[[list[Numbered], int], Any],
        batch: list[Numbered],
        first: int,
    ) -> tuple[list[Line], int]:
        """Answer a batch, and learn from how long that took."""
        begin = time.monotonic()
        answered: tuple[list[Line], int] = await answer(batch, first)
        took_s = time.monotonic() - begin
        if took_s < _SHORT_S and len(batch) == self.lines:
            self.lines = min(self.most, 2 * self.lines)
        elif took_s > _LONG_S and len(batch) <= self.lines:
            self.lines = max(1, len(batch) // 2)
        return answered


# --- the output -------------------------------------------------------------------------------


@contextmanager
def _output(file: Path, sink: Path) -> Iterator[BinaryIO]:
    """Open the output for this run alone."""
    with _writing(sink):
        if sink.exists() and not sink.is_file():
            raise InvalidField(
                f"{sink} isn't a regular file: what is in it is read to go on; name another with "
                "--output"
            )
        if sink.exists() and sink.samefile(file):
            raise InvalidField(f"{sink} is the input itself; name another with --output")
        out = sink.open("a+b")
    with out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InvalidField(f"{sink} is being written by another run; wait for it") from error
        yield out


@contextmanager
def _writing(path: object) -> Iterator[None]:
    """Say what can't be written; what was written before is kept."""
    try:
        yield
    except OSError as error:
        raise InvalidField(
            f"{error.filename or path} can't be written: {error.strerror or error}; make room for "
            "it, or name another with --output"
        ) from error


def _whole_lines(out: BinaryIO) -> tuple[int, int]:
    """Count the whole lines of an output, and the bytes they take."""
    out.seek(0)
    end = count = 0
    for line in out:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        count += 1
    return count, end


def _recount(file: Path, out: BinaryIO, held: int, tally: Tally) -> None:
    """Count what earlier runs wrote."""
    out.seek(0)
    for (number, line), text in zip(source.lines(file), islice(out, held), strict=False):
        try:
            tally.add(number, line, json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidField(
                f"the output's line {tally.lines + 1} is no answer of `assay score`; move the file "
                "away, or name another with --output"
            ) from error


def _write(out: BinaryIO, answers: Sequence[Line]) -> None:
    """Append lines. A lone surrogate of a carried field is written as JSON escapes it."""
    with _writing(out.name):
        for answer in answers:
            text = json.dumps(answer, ensure_ascii=False) + "\n"
            out.write(text.encode("utf-8", "backslashreplace"))
        out.flush()


# --- the requests -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Asking:
    """Whom to ask, and how."""

    service: Service
    target: Target
    options: Options
    model: str | None

    async def answer(self, batch: list[Numbered], first: int) -> tuple[list[Line], int]:
        """Return one answer a line, and the tokens they took."""
        try:
            return await self._asked(batch, first)
        except BodyTooLarge as error:
            if len(batch) > 1:
                half = len(batch) // 2
                head, head_tokens = await self.answer(batch[:half], first)
                tail, tail_tokens = await self.answer(batch[half:], first + half)
                return head + tail, head_tokens + tail_tokens
            ((_, line),) = batch
            return self._finished(batch, [_refused(line, self._kind(line), error)], first), 0

    async def _asked(self, batch: list[Numbered], first: int) -> tuple[list[Line], int]:
        answers: list[Line] = [{} for _ in batch]
        places: dict[type, list[int]] = {kind: [] for kind in _KINDS}
        elements: dict[type, list[Any]] = {kind: [] for kind in _KINDS}
        for place, (_, line) in enumerate(batch):
            kind = self._kind(line)
            try:
                elements[kind].append(_element(line, kind))
                places[kind].append(place)
            except (ValidationError, TypeError, InvalidField) as error:
                answers[place] = _refused(line, kind, _line_error(error, kind))
        tokens = 0
        for kind in _KINDS:
            if elements[kind]:
                envelope = await self._request(kind, elements[kind])
                tokens += envelope.usage.tokens
                for place, entry in zip(places[kind], envelope.data, strict=True):
                    answers[place] = entry.model_dump(mode="json")
        return self._finished(batch, answers, first), tokens

    def _kind(self, line: Line) -> type[wire.Request]:
        if "chains" in line or ("responses" in line and self.options.rule):
            return wire.Group
        return wire.Comparison if "chosen" in line or "responses" in line else wire.Item

    async def _request(self, kind: type, elements: list[Any]) -> Any:
        """Ask, and check that who answers is who answered before.

        Raises:
            InvalidField: Another model or revision answered.
            NotReady: The service went away under some lines.
        """
        named = {} if self.model is None else {"model": self.model}
        fields: dict[str, Any] = {
            "include": [
                name
                for name in self.options.include
                if name != "members" or not self.target.only_compares
            ],
            "activation": self.options.activation,
            "aggregate": self.options.aggregate,
            "normalize": self.options.normalize,
            "truncation": self.options.truncation,
            "on_error": "item",
            "priority": "batch",
            **named,
        }
        answer: Any
        if kind is wire.Item:
            answer = await self.service.score(wire.ScoreRequest(inputs=elements, **fields))
        elif kind is wire.Comparison:
            answer = await self.service.compare(wire.CompareRequest(comparisons=elements, **fields))
        else:
            fields["rule"] = self.options.rule
            answer = await self.service.best_of_n(wire.BestOfNRequest(groups=elements, **fields))
        self._check(answer)
        return answer

    def _check(self, answer: Any) -> None:
        now, before = (answer.model, answer.revision), (self.target.model, self.target.revision)
        if now != before:
            raise InvalidField(
                f"'{now[0]}' at revision {now[1]} answers now, and the lines so far are of "
                f"'{before[0]}' at {before[1]}; name another --output for it"
            )
        gone = next(
            (entry.error for entry in answer.data if entry.error and entry.error.code in _AWAY),
            None,
        )
        if gone:
            raise NotReady(gone.message)

    def _finished(self, batch: list[Numbered], answers: list[Line], first: int) -> list[Line]:
        """Return answers with what they are of, and what their lines have besides."""
        revision = self.target.revision
        return [
            {
                **_carried(line, self._kind(line)),
                **answer,
                **({"line": number} if "error" in answer else {}),
                "index": first + place,
                "model": self.target.model,
                "revision": revision,
            }
            for place, ((number, line), answer) in enumerate(zip(batch, answers, strict=True))
        ]


def _known(line: Line, kind: type[wire.Request]) -> Line:
    """Return what a line is asked by; an `id` that is a number is a column like others."""
    fields = {key: value for key, value in line.items() if key in kind.model_fields}
    return fields if isinstance(line.get("id", ""), str) else fields | {"id": None}


def _carried(line: Line, kind: type[wire.Request]) -> Line:
    """Return a line's own columns; what it calls as the answer does would be taken for that."""
    columns = line.keys() - _INPUTS - _ANSWERS[kind] - _OF_ALL
    columns |= line.keys() & {"id"}
    return {key: value for key, value in line.items() if key in columns}


def _element(line: Line, kind: type[wire.Request]) -> wire.Request:
    """Return what is asked of a line.

    Raises:
        InvalidField: It has an option of requests, or what another kind of line is scored by,
            which would be passed over; or half of a character, which no request can carry.
        ValidationError, TypeError: A field is missing or wrong.
    """
    if options := sorted(_OPTIONS & line.keys()):
        raise InvalidField(f"'{options[0]}' would do nothing in a line; give --{options[0]}")
    for name in sorted((_INPUTS & line.keys()) - kind.model_fields.keys()):
        if line[name] is not None:
            raise InvalidField(
                f"'{name}' isn't of a line with {_like(kind)}: a line is one item or one comparison"
            )
    element = kind(**_known(line, kind))
    route.written(element)
    return element


def _like(kind: type[wire.Request]) -> str:
    """Return what tells a kind of line."""
    if kind is wire.Item:
        return "'response', 'steps', 'messages', 'text' or 'input_ids'"
    return "'chosen' or 'responses'" if kind is wire.Comparison else "'responses' or 'chains'"


def _refused(line: Line, kind: type[wire.Request], error: AssayError) -> Line:
    """Return the answer of a line that has no score; it keeps its id."""
    line_id = line.get("id")
    reason = wire.ItemError(code=error.code, message=error.message)
    entry = _ROUTES[kind].refused(0, line_id if isinstance(line_id, str) else None, reason)
    answer: Line = entry.model_dump(mode="json")
    return answer


def _line_error(
    error: ValidationError | TypeError | InvalidField, kind: type[wire.Request]
) -> InvalidField:
    if isinstance(error, InvalidField):
        return error
    if isinstance(error, TypeError):
        return InvalidField("the line's fields can't be read")
    return route.invalid(error, kind)
