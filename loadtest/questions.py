"""What chaos asks: every route, good and bad bodies; whether an answer is the right one.

Foreign contracts are asked as `tests.contract` asks them: one table says how a contract is asked,
and how its errors look.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from assay import errors
from assay.api import contracts
from tests.contract.cases import CASES, NATIVE, Item, form, real_items
from tests.contract.conftest import GOLDEN
from tests.http import checkpoints
from tests.http.texts import FORMS, PROMPT, RESPONSES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from tests.contract.cases import Case

Kind = Literal["good", "state", "malformed", "oversize", "nan"]
JSON, PACKED = "application/json", "application/msgpack"
POISON = "‽"  # the only character here that is spelt with the byte 0xBD
POISON_SPELT = "½"  # how byte-level tokenizers spell it
GREEDY = "take everything"  # the prompt with which a template takes all the memory there is
LONG = "many words " * 600  # more than the model takes
# What an answer has besides what was asked for: names, clocks, what was shared.
VOLATILE = frozenset(
    (
        *("created", "request_id", "requestId", "timing_ms", "usage", "state", "stats"),
        *("computed_tokens", "shared_tokens", "e2e_latency"),
        *("batch_size", "batch_tokens", "max_batch_tokens"),  # as each start finds them
    )
)
REQUEST_ID = re.compile("[0-9a-f]{32}")
STATE_ROUTES = ("/health", "/health/ready", "/health/live", "/metrics", "/openapi.json")
SHOWN_ROUTES = ("/models", "/models/tiny", "/v1/models", "/info", "/version")
RETRYABLE = {
    one.code: one.status
    for one in (errors.NotReady, errors.Overloaded, errors.DeadlineExceeded, errors.ForwardFailed)
}


@dataclass(frozen=True, slots=True)
class Hostile:
    """Checkpoints: one whose template takes everything for one prompt, and one more to load."""

    greedy: Path
    more: Path


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and how its errors look; None where that is only known to be one of many."""

    name: str
    path: str
    kind: Kind
    body: bytes | None = None  # None is a GET
    media_type: str = JSON
    forms: Sequence[Any] = field(default=(NATIVE,))
    broken: int = 500  # where the model failed


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered with."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    def told(self, question: Question) -> Any:
        """Return what the answer says but for what differs each time.

        Raises:
            ValueError: It can't be read.
        """
        kind = self.headers.get(b"content-type", b"").partition(b";")[0]
        if question.path == "/metrics":
            return [one.name for one in text_string_to_metric_families(self.body.decode())]
        if not self.body:
            return self.status, None
        read = msgspec.msgpack.decode(self.body) if kind == PACKED.encode() else self._json()
        return self.status, _lasting(read)

    def _json(self) -> Any:
        return json.loads(self.body, parse_constant=_refuse_constant)


def judge(question: Question, right: Any, answer: Answer) -> str:
    """Return "right", or the code of a documented error that may pass.

    Raises:
        ValueError: It is neither.
    """
    if question.kind == "state":
        return _state(question, answer)
    told = answer.told(question)
    if told == right:
        return "right"
    if answer.status not in {*RETRYABLE.values(), question.broken}:
        raise ValueError(f"{short(told)} instead of {short(right)}")
    error = json.loads(answer.body)
    shapes = [*question.forms, NATIVE]
    if form(error) not in shapes:
        raise ValueError(f"an error in another shape: {short(error)}")
    code = _code(error, answer)
    if answer.status == errors.NotReady.status and b"retry-after" not in answer.headers:
        raise ValueError(f"no Retry-After: {short(error)}")
    return code


def short(told: Any) -> str:
    """Return the beginning of what an answer says."""
    text = repr(told)
    return text if len(text) < 300 else f"{text[:300]}…"


def models(folder: Path) -> list[Path]:
    """Write two tiny models; the first answers NaN where POISON is read."""
    tiny = checkpoints.build(folder / "tiny")
    bare = checkpoints.copy(tiny, folder / "bare")

    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][poison_id(tiny)] = math.nan

    checkpoints.edit_weights(tiny, poison)
    checkpoints.edit_weights(
        bare, lambda tensors: tensors.update({"score.weight": -3 * tensors["score.weight"]})
    )
    return [tiny, bare]


def hostile(tiny: Path, folder: Path) -> Hostile:
    """Write two copies of a model, one with a chat template that wants to stop the house."""
    own = (tiny / "chat_template.jinja").read_text()
    doubles = (
        "{% set n = namespace(t='ab') %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}"
        "{% endfor %}{{ n.t | length }}"
    )
    greedy, more = (checkpoints.copy(tiny, folder / name) for name in ("greedy", "more"))
    guard = f"{{% if messages[0].content == '{GREEDY}' %}}{doubles}{{% endif %}}"
    (greedy / "chat_template.jinja").write_text(own + guard)
    return Hostile(greedy, more)


def poison_id(folder: Path) -> int:
    """Return the token that makes NaN."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    return int(vocabulary[POISON_SPELT])


def questions(poison: int) -> list[Question]:
    """Return all of them; `poison` is the token that makes NaN."""
    made = [
        *_native(poison),
        *_foreign(),
        *_golden(),
        *(Question(path, path, "good") for path in SHOWN_ROUTES),
        *(Question(path, path, "state") for path in STATE_ROUTES),
    ]
    return [*made, *_malformed(made)]


def _native(poison: int) -> Iterator[Question]:
    """Ask the native routes, under both prefixes."""
    items = [item.native for item in real_items()]
    ids = [{"input_ids": [5 + 7 * number, 17, 300, 42, 7]} for number in range(6)]
    bad = {"input_ids": [5, poison, 7]}
    long = {"prompt": PROMPT, "response": LONG}
    group = {"prompt": PROMPT, "responses": RESPONSES}
    scored: list[tuple[Kind, dict[str, Any]]] = [
        *(("good", {"inputs": items[begin : begin + 5]}) for begin in range(0, 50, 5)),
        ("good", {"inputs": items}),
        ("good", {"inputs": items[:9], "model": "both"}),
        ("good", {"inputs": items[3:9], "model": "bare", "priority": "batch"}),
        ("good", {"inputs": FORMS, "activation": "sigmoid"}),
        ("good", {"inputs": ids}),
        ("nan", {"inputs": [bad]}),
        ("nan", {"inputs": [*ids[:3], bad]}),
        ("nan", {"inputs": [*items[:2], bad, *items[2:4], long], "on_error": "item"}),
        ("oversize", {"inputs": [long]}),
        ("oversize", {"inputs": [*items[:3], long, *items[3:6]], "on_error": "item"}),
    ]
    asked: list[tuple[Kind, str, dict[str, Any]]] = [
        *((kind, "/score", body) for kind, body in scored),
        ("good", "/compare", group),
        ("good", "/best-of-n", group),
        ("good", "/best-of-n", {**group, "model": "both"}),
        ("good", "/tokenize", {"inputs": items[:4]}),
        ("oversize", "/best-of-n", {"prompt": PROMPT, "responses": [*RESPONSES, LONG]}),
        ("nan", "/compare", {"prompt": PROMPT, "responses": [*RESPONSES, POISON]}),
    ]
    for prefix in ("", "/v1"):
        for place, (kind, path, body) in enumerate(asked):
            name = f"{prefix}{path} {place}"
            yield Question(name, prefix + path, kind, json.dumps(body).encode())


def _foreign() -> Iterator[Question]:
    """Ask every foreign contract."""
    items = real_items()
    by_prompt = [list(group) for _, group in groupby(items, lambda item: item.prompt)]
    kinds: list[tuple[Kind, Item]] = [
        ("oversize", Item(items[0].prompt, LONG)),
        ("nan", Item(items[0].prompt, f"What{POISON}")),
    ]
    for place, case in enumerate(CASES):
        some = [items[place : place + 4], items[20:33], by_prompt[place % len(by_prompt)]]
        if case.takes != "many":
            some = [by_prompt[(place + step) % len(by_prompt)] for step in range(3)]
        if case.takes == "one":
            some = [own[:1] for own in some]
        for number, own in enumerate(some):
            yield _asked(case, own, "good", number)
        for kind, item in kinds:
            yield _asked(case, [item] if case.takes == "one" else [items[0], item], kind)


def _asked(case: Case, items: Sequence[Item], kind: Kind, number: int = 0) -> Question:
    body = case.body(items)
    return Question(
        f"{case.id} {kind} {number}",
        case.path,
        kind,
        msgspec.msgpack.encode(body) if case.is_packed else json.dumps(body).encode(),
        PACKED if case.is_packed else JSON,
        [error for other in CASES if other.path == case.path for error in other.errors],
        case.broken,
    )


def _golden() -> Iterator[Question]:
    """Ask what was recorded of each contract; where no such model is served, that is told."""
    for file in sorted(GOLDEN.glob("*.json")):
        exchange = json.loads(file.read_text())
        method, path = exchange["route"].split(" ")
        if method != "POST":  # what is served here is another matter
            continue
        body = json.dumps(exchange["request"]).encode()
        kind: Kind = "malformed" if exchange.get("status") == 400 else "good"
        yield Question(file.stem, path, kind, body, forms=_every_form(), broken=424)


def _malformed(known: Sequence[Question]) -> Iterator[Question]:
    """Spoil a body of each path: cut off, of another type, no text at all."""
    bodies = {one.path: one for one in known if one.body and one.kind == "good"}
    fitting = {contracts.fit(path)[0] for path in bodies}
    assert {path for one in contracts.CONTRACTS for path in one.paths} <= fitting
    for path, one in bodies.items():
        assert one.body is not None
        for name, body in (
            ("cut off", one.body[: len(one.body) // 2]),
            ("a list", b"[]"),
            ("a number", b'{"inputs": 5, "input": 5, "messages": 5}'),
            ("not UTF-8", b'{"inputs": ["\xff\xfe"]}'),
            ("empty", b""),
        ):
            yield Question(f"{path} {name}", path, "malformed", body, forms=_every_form())


def _every_form() -> list[Any]:
    return [error for one in CASES for error in one.errors]


def _state(question: Question, answer: Answer) -> str:
    """Check an answer that tells how the server is, which changes."""
    told = answer.told(question)
    if question.path in {"/health", "/health/ready"}:
        read = json.loads(answer.body)
        if answer.status != (200 if read["ready"] else 503) or read["ready"] == bool(
            read["reasons"]
        ):
            raise ValueError(f"it contradicts itself: {answer.status} {short(read)}")
        return "right"
    if answer.status != 200:
        raise ValueError(f"{answer.status} {short(told)}")
    return "right"


def _code(error: Any, answer: Answer) -> str:
    """Return the code of an error that may pass.

    Raises:
        ValueError: It may not.
    """
    text = json.dumps(error)
    own = error["error"]["code"] if form(error) == NATIVE else None
    for code, status in RETRYABLE.items():
        if own == code and answer.status == status:
            return code
    if own is None and answer.status in {503, 504}:
        return f"HTTP {answer.status}"
    if own is None and "the worker died each time" in text:
        return errors.ForwardFailed.code
    raise ValueError(f"{answer.status} {short(error)}")


def _lasting(read: Any) -> Any:
    if isinstance(read, dict):
        return {
            key: _lasting(one)
            for key, one in read.items()
            if key not in VOLATILE and not (key == "id" and REQUEST_ID.search(str(one)))
        }
    if isinstance(read, list):
        return [_lasting(one) for one in read]
    return read


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
