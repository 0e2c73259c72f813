"""A model that another server computes: its scores, its failures, its life."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from assay.backends.remote import ITEMS_PER_REQUEST, RemoteBackend
from assay.backends.remote_contracts import CONTRACTS
from assay.cards.card import Card
from assay.errors import (
    AssayError,
    CheckpointError,
    DeadlineExceeded,
    ForwardFailed,
    NonFiniteScore,
    NotReady,
    Overloaded,
)
from assay.items import Cutting, TokenizedItem
from assay.jobs import Job
from assay.reward.transform import sigmoid
from assay.settings import Remote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MODEL = SimpleNamespace(
    name="judge", checkpoint=SimpleNamespace(card=Card()), facts=SimpleNamespace(inputs=None)
)
CONTRACT = "vllm-classify"


class Renderers:
    """Reads an item as its words' lengths; conversations as their letters."""

    async def render(self, models: Any, sources: Any, cutting: Any, caller: str) -> Any:
        del models, cutting, caller
        return [[TokenizedItem(_ids(one), None)] for one in sources]


def _ids(source: Any) -> np.ndarray:
    if isinstance(source, tuple):
        return np.array(source, np.int32)
    text = "".join(turn["content"] for turn in source.messages)
    return np.array([ord(one) for one in text], np.int32)


def score(ids: list[int]) -> float:
    """Return what the other server's model says."""
    return sum(ids) / 7 - 100


class Upstream:
    """Another server: answers vLLM's /classify, or as a test says."""

    def __init__(self) -> None:
        self.asked: list[list[list[int]]] = []
        self.lives = True
        self.answer: Callable[[list[list[int]], bool], Any] = self.scores
        self.asked_for: list[bool] = []

    def scores(self, items: list[list[int]], raw: bool) -> httpx.Response:
        found = [score(ids) if raw else sigmoid(score(ids)) for ids in items]
        return answered(found)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if not self.lives:
            raise httpx.ConnectError("it is gone")
        if request.url.path == "/health":
            return httpx.Response(200)
        body = json.loads(request.content)
        self.asked.append(body["input"])
        found = self.answer(body["input"], not body["use_activation"])
        if asyncio.iscoroutine(found):
            found = await found
        return found


def answered(numbers: list[float]) -> httpx.Response:
    """Return vLLM's answer with these numbers, in another order."""
    data = [{"index": place, "probs": [one]} for place, one in enumerate(numbers)]
    return httpx.Response(200, content=json.dumps({"data": data[::-1]}))


@asynccontextmanager
async def running(
    upstream: Upstream, **settings: Any
) -> AsyncIterator[tuple[RemoteBackend, asyncio.Task[None]]]:
    """A backend of that server, being checked."""
    backend = RemoteBackend(
        MODEL,
        Remote(url="http://gpu-1:8000", contract=CONTRACT, **settings),
        Renderers(),
        on_change=lambda: None,
        transport=httpx.MockTransport(upstream),
    )
    task = asyncio.create_task(backend.run())
    yield backend, task
    backend.stop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def until(claim: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not claim():  # noqa: ASYNC110  the claims are about plain attributes
            await asyncio.sleep(0.001)


async def ready(backend: RemoteBackend) -> None:
    await until(lambda: backend.state(MODEL) == "ready")


class Request:
    """One request: its results by place."""

    def __init__(self, backend: RemoteBackend, deadline: float | None = None) -> None:
        self.results: dict[int, Any] = {}
        self.job = Job(self._settle, Cutting(), deadline)
        self.session = backend.open(self.job)

    def _settle(self, place: int, result: np.ndarray | AssayError) -> None:
        assert place not in self.results
        self.results[place] = result

    async def ask(self, *items: tuple[int, ...]) -> list[Any]:
        rows = await self.session.prepare([MODEL], items)
        for place, (one,) in enumerate(rows):
            self.session.submit(MODEL, one, place)
        await until(lambda: len(self.results) == len(items))
        return [
            one if isinstance(one, AssayError) else float(one[0, 0])
            for one in (self.results[place] for place in range(len(items)))
        ]


async def test_scores_are_the_servers_own_in_order() -> None:
    """What waits together is one request; each result goes where its item came from."""
    upstream = Upstream()
    items = [(place, 7, 5) for place in range(ITEMS_PER_REQUEST + 3)]
    async with running(upstream, model="there") as (backend, _):
        await ready(backend)
        upstream.asked.clear()
        request = Request(backend)
        found = await request.ask(*items)

    assert found == [score(list(ids)) for ids in items]
    assert [len(one) for one in upstream.asked] == [ITEMS_PER_REQUEST, 3]
    assert request.job.usage.tokens == request.job.usage.computed_tokens == 3 * len(items)
    assert math.isfinite(request.job.usage.began_at)


@pytest.mark.parametrize(
    "answer",
    [
        lambda items, raw: answered([sigmoid(score(ids) / 99) for ids in items]),
        lambda items, raw: answered([0.5 if raw else 0.25 for _ in items]),
        lambda items, raw: answered([math.nan for _ in items]),
        lambda items, raw: answered([1.5 for _ in items[1:]]),
        lambda items, raw: httpx.Response(200, content=b'{"scores": [1]}'),
        lambda items, raw: httpx.Response(200, content=b"[" * 100_000),
        lambda items, raw: httpx.Response(
            200, content=answered([1.5 for _ in items]).content + b" " * 17_000_000
        ),
        lambda items, raw: httpx.Response(
            200, content=json.dumps({"data": [{"index": 0, "probs": [1.5, 2]} for _ in items]})
        ),
    ],
    ids=[
        "a sigmoid",
        "who knows",
        "not finite",
        "too few",
        "another contract",
        "nested",
        "too long",
        "two labels",
    ],
)
async def test_a_server_whose_numbers_are_not_raw_scores_is_refused(answer: Any) -> None:
    """At the start, not by scores that are silently something else."""
    upstream = Upstream()
    upstream.answer = answer
    async with running(upstream) as (backend, task):
        with pytest.raises(CheckpointError, match="judge: "):
            await task

    assert backend.loaded(MODEL) is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda items, raw: answered([score(ids) for ids in items]),
        lambda items, raw: answered([0.25 if raw else sigmoid(0.25) for _ in items]),
        lambda items, raw: answered([0.25 if raw else 1.0 for _ in items]),
    ],
    ids=["no activation at all", "small numbers", "a softmax of one"],
)
async def test_numbers_that_are_raw_are_taken(answer: Any) -> None:
    """Whatever the server would do to them by itself."""
    upstream = Upstream()
    upstream.answer = answer
    async with running(upstream) as (backend, _):
        await ready(backend)
        assert backend.has_loaded
        assert backend.loaded(MODEL).outputs == {"reward": 1}


async def test_a_server_that_comes_later_is_waited_for() -> None:
    """Meanwhile the model is loading, and the reason names the server to who may know."""
    upstream = Upstream()
    upstream.lives = False
    async with running(upstream) as (backend, _):
        await asyncio.sleep(0)
        assert backend.state(MODEL) == "loading"
        upstream.lives = True
        await ready(backend)
        assert backend.reasons(in_full=True) == []


async def test_a_server_that_dies_is_named_and_taken_back() -> None:
    """503 for what can't be had, and readiness says whose it is; later all is as before."""
    upstream = Upstream()
    async with running(upstream) as (backend, _):
        await ready(backend)
        upstream.lives = False
        (error,) = await Request(backend).ask((1, 2))
        await until(lambda: backend.state(MODEL) == "restarting")
        told = backend.reasons(in_full=True), backend.reasons(in_full=False)
        upstream.lives = True
        await ready(backend)
        (again,) = await Request(backend).ask((1, 2))

    assert isinstance(error, NotReady)
    assert "'judge'" in error.message
    assert "gpu-1:8000" in error.message
    assert "gpu-1:8000" in told[0][0]
    assert "gpu-1" not in told[1][0]
    assert again == score([1, 2])


async def test_one_bad_item_fails_alone() -> None:
    """A request that the server refuses is sent again item by item; its words aren't repeated."""
    upstream = Upstream()

    def answer(items: list[list[int]], raw: bool) -> httpx.Response:
        if [6, 6] in items:
            return httpx.Response(400, content=b'{"error": "secret prompt"}')
        return upstream.scores(items, raw)

    upstream.answer = answer
    async with running(upstream) as (backend, _):
        await ready(backend)
        found = await Request(backend).ask((1, 2), (6, 6), (3,))

    assert [found[0], found[2]] == [score([1, 2]), score([3])]
    assert isinstance(found[1], ForwardFailed)
    assert "secret" not in found[1].message


async def test_a_busy_server_is_asked_again_as_it_says() -> None:
    """And where it stays busy for longer than the deadline allows, that is the answer."""
    upstream = Upstream()
    times = iter([httpx.Response(429), httpx.Response(503)])

    def answer(items: list[list[int]], raw: bool) -> httpx.Response:
        return next(times, None) or upstream.scores(items, raw)

    busy = httpx.Response(429, headers={"Retry-After": "20"})
    async with running(upstream) as (backend, _):
        await ready(backend)
        upstream.answer = answer
        (found,) = await Request(backend).ask((1, 2))
        upstream.answer = lambda items, raw: busy
        late = asyncio.get_running_loop().time() + 5
        (refused,) = await Request(backend, late).ask((1, 2))

    assert found == score([1, 2])
    assert isinstance(refused, Overloaded)
    assert refused.retry_after_s == 20


async def test_who_left_or_is_late_is_not_sent() -> None:
    """Neither costs the other server anything."""
    upstream = Upstream()
    async with running(upstream) as (backend, _):
        await ready(backend)
        upstream.asked.clear()
        gone = Request(backend)
        rows = await gone.session.prepare([MODEL], [(1,)])
        gone.session.submit(MODEL, rows[0][0], 0)
        gone.session.cancel()
        (late,) = await Request(backend, 0.0).ask((2,))

    assert isinstance(late, DeadlineExceeded)
    assert gone.results == {}
    assert upstream.asked == []


async def test_a_number_that_is_not_finite_is_an_error_of_its_item() -> None:
    """As it is of a model here."""
    upstream = Upstream()
    async with running(upstream) as (backend, _):
        await ready(backend)
        upstream.answer = lambda items, raw: answered(
            [math.inf if ids == [9] else score(ids) for ids in items]
        )
        found = await Request(backend).ask((9,), (1, 2))

    assert isinstance(found[0], NonFiniteScore)
    assert found[1] == score([1, 2])


def test_a_card_that_reads_more_than_one_number_is_refused() -> None:
    """Nobody else answers what heads of its own read."""
    card = Card.model_construct(_fields_set={"steps"}, steps=None)
    model = SimpleNamespace(name="prm", checkpoint=SimpleNamespace(card=card))

    with pytest.raises(CheckpointError, match=r"prm: .*\[steps\]"):
        RemoteBackend(model, Remote(url="http://a", contract="tei"), None, on_change=lambda: None)


def test_a_key_that_the_environment_lacks_is_told() -> None:
    """By the setting that names it."""
    remote = Remote(url="http://a", contract="assay", key_variable="NO_SUCH_KEY_HERE")
    with pytest.raises(CheckpointError, match=r"remotes\.judge\.key_variable: .*NO_SUCH_KEY_HERE"):
        RemoteBackend(MODEL, remote, None, on_change=lambda: None)


def test_sglang_is_sent_once_what_all_items_begin_with() -> None:
    """And each item keeps a token of its own."""
    body = CONTRACTS["sglang"].body([[1, 2, 3], [1, 2], [1, 2, 4, 5]], None, raw=True)

    assert body["query"] == [1]
    assert body["items"] == [[2, 3], [2], [2, 4, 5]]
