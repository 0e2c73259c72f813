"""Who renders one model's items: rounds, turns, callers who leave, ends of the process, defects.

The process is a stand-in here; the real one: `test_process`.
"""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from assay.errors import EmptyItem, NotReady, TemplateRefused, WorkerError
from assay.items import Cutting, Text
from assay.prompts import renderer
from assay.prompts.protocol import Defect, Outcomes, ReadFrame, Refusal, Render
from assay.prompts.renderer import ROUND_TOKENS, Renderer
from assay.wakeup_throttle import WakeupThrottle

CUTTING = Cutting()


class Stream:
    """A process that reads one token a character; `deadly` texts end it, `wrong` ones are a defect.

    It waits for permission before its first answer, and notes what each call held.
    """

    pid = None

    def __init__(self, owner: Loader) -> None:
        self._owner = owner
        self._asked: Render | None = None

    async def send(self, frame: tuple[bytes, bytes]) -> None:
        found = pickle.loads(frame[1])
        if isinstance(found, Render):
            self._asked = found
            self._owner.calls.append([one.text for one in found.sources])
            self._owner.begun.set()

    async def receive(self) -> Any:
        await self._owner.go_on.wait()
        texts = self._owner.calls[-1]
        if "deadly" in texts:
            raise WorkerError("it ended")
        if "hanging" in texts:
            await asyncio.Event().wait()
        if "wrong" in texts:
            return Defect("AssertionError", ["here.py:1 there"])
        if "nested" in texts and len(texts) > 1:
            return Defect("RecursionError", [])
        return Outcomes([_read(text) for text in texts])

    def close(self) -> None:
        self._owner.closed += 1


class Loader:
    """Starts stand-ins; `refuses` is raised instead."""

    def __init__(self) -> None:
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()
        self.calls: list[list[str]] = []
        self.forks = self.closed = 0
        self.refuses: Exception | None = None

    async def fork(self, model: str) -> Stream:
        self.forks += 1
        if self.refuses:
            raise self.refuses
        return Stream(self)


def _read(text: str) -> ReadFrame | Refusal:
    if text == "garbled":
        return ReadFrame(b"abc", None, None, None, 1, None, True, False, None, None)
    if not text:
        return Refusal.of(EmptyItem("nothing"))
    if text == "nested":
        return Refusal.of(TemplateRefused("nested calls"))
    ids = bytes(4 * len(text))
    return ReadFrame(ids, None, None, None, 1, None, True, False, None, None)


class Rendering:
    """A renderer over a stand-in."""

    def __init__(self) -> None:
        self.loader = Loader()
        self.restarts: list[str] = []
        model: Any = SimpleNamespace(name="model")
        loader: Any = self.loader
        self.now = 0.0
        self.renderer = Renderer(
            model, loader, WakeupThrottle(), self.restarts.append, clock=lambda: self.now
        )

    def ask(self, *texts: str) -> asyncio.Task[list[Any]]:
        """Ask for texts."""
        sources = [Text(text) for text in texts]
        size = sum(len(text) // 4 + 1 for text in texts)
        return asyncio.create_task(self.renderer.render(sources, CUTTING, size=size))

    async def ids(self, *texts: str) -> list[Any]:
        """Return how many ids each text has, or its error."""
        found = await self.ask(*texts)
        return [len(one.ids) if hasattr(one, "ids") else type(one) for one in found]


@pytest.fixture
async def rendering() -> Any:
    """A renderer whose process may answer at once."""
    made = Rendering()
    made.loader.go_on.set()
    yield made
    made.renderer.stop()


@pytest.fixture
async def held() -> Any:
    """A renderer whose process is at the round of one text, and waits for permission."""
    made = Rendering()
    made.first = made.ask("a")  # type: ignore[attr-defined]
    await made.loader.begun.wait()
    yield made
    made.renderer.stop()


async def test_what_comes_while_it_is_busy_is_rendered_in_one_round(held):
    """Each caller gets its own items, in order."""
    others = [held.ask(text, 2 * text) for text in "bcd"]
    await asyncio.sleep(0)
    held.loader.go_on.set()

    found = await asyncio.gather(held.first, *others)

    assert held.loader.calls == [["a"], ["b", "bb", "c", "cc", "d", "dd"]]
    assert [[len(one.ids) for one in row] for row in found] == [[1], [1, 2], [1, 2], [1, 2]]


async def test_a_caller_who_left_is_not_rendered_for(held):
    """A cancelled request's items cost nothing."""
    gone, stays = held.ask("b"), held.ask("c")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    held.loader.go_on.set()

    await asyncio.gather(held.first, stays)

    assert held.loader.calls == [["a"], ["c"]]


async def test_a_bad_item_is_answered_in_its_place(rendering):
    """An error is an outcome, as `render_all` has it."""
    assert await rendering.ids("ab", "") == [2, EmptyItem]


async def test_a_single_item_waits_for_one_round_of_the_others_at_most(held):
    """However many chunks wait, a round takes no more than its tokens."""
    fat = [held.ask("x" * 2 * ROUND_TOKENS) for _ in range(3)]
    await asyncio.sleep(0)
    held.loader.go_on.set()

    await asyncio.gather(held.first, *fat)

    assert [len(call) for call in held.loader.calls] == [1, 2, 1]


async def test_only_the_item_that_ends_the_process_is_refused(held):
    """It is rendered alone before that is said, and so is whatever shared its round."""
    others = [held.ask("b"), held.ask("c", "deadly", "dd"), held.ask("e")]
    await asyncio.sleep(0)
    held.loader.go_on.set()

    _, b, culprit, e = await asyncio.gather(held.first, *others)

    assert [len(b[0].ids), len(culprit[0].ids), len(culprit[2].ids), len(e[0].ids)] == [1, 1, 2, 1]
    assert isinstance(culprit[1], TemplateRefused)
    assert "deadly" not in culprit[1].message
    assert held.restarts == ["model", "model"]
    assert held.loader.forks == 3


async def test_an_answer_that_is_none_ends_the_process(rendering):
    """And the item alone is refused."""
    assert await rendering.ids("ab", "garbled", "c") == [2, TemplateRefused, 1]
    assert rendering.restarts == ["model", "model"]


async def test_what_hangs_is_ended_by_the_clock(rendering, monkeypatch):
    """A process that waits for ever takes no processor time that could run out."""
    monkeypatch.setattr(renderer, "_WALL", 1e-3)

    assert await rendering.ids("ab", "hanging") == [2, TemplateRefused]
    assert rendering.restarts == ["model", "model"]


async def test_a_round_that_takes_long_is_overdue(held):
    """Which readiness says, until it is over."""
    assert not held.renderer.is_overdue
    held.now = renderer.OVERDUE_S

    assert held.renderer.is_overdue

    held.loader.go_on.set()
    await held.first
    await asyncio.sleep(0)
    assert not held.renderer.is_overdue


@pytest.mark.parametrize("texts", [("nested",), ("ab", "nested", "c")])
async def test_nested_calls_are_the_items_own_fault(rendering, texts):
    """Not a defect: the others of its round are rendered."""
    found = await rendering.ids(*texts)

    assert found == [TemplateRefused if text == "nested" else len(text) for text in texts]


async def test_a_defect_fails_only_the_request_that_meets_it(held):
    """A round that fails is rendered again, request by request, and the process lives on."""
    others = [held.ask(text) for text in ("b", "wrong", "c")]
    await asyncio.sleep(0)
    held.loader.go_on.set()

    good, bad, too = await asyncio.gather(*others, return_exceptions=True)

    assert "AssertionError" in str(bad)
    assert bad.__notes__ == ["here.py:1 there"]
    assert [len(await held.first), len(good), len(too)] == [1, 1, 1]
    assert held.loader.forks == 1


@pytest.mark.parametrize("refusal", [WorkerError("it can't start"), NotReady("replaced")])
async def test_a_process_that_can_not_be_started_is_said(rendering, refusal):
    """As something to send again: it is tried anew with each request."""
    rendering.loader.refuses = refusal
    with pytest.raises(NotReady, match=refusal.message):
        await rendering.ids("a")

    rendering.loader.refuses = None
    assert await rendering.ids("a") == [1]


async def test_who_leaves_at_the_end_leaves_nothing_running(held):
    """A process that is stopped while it is at a round is ended."""
    held.renderer.stop()
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    assert held.loader.closed == 1
    held.first.cancel()
