"""The render thread: rounds, turns, callers who leave, defects; how many are woken at a time."""

import asyncio
import threading

import pytest

from assay.engine.template import Conversation, Ids, Template, Text
from assay.errors import EmptyItem
from assay.scoring import rendering
from assay.scoring.pacing import WOKEN_AN_ITERATION, Pace
from assay.scoring.rendering import CHUNK_ITEMS, CHUNK_TOKENS, RenderThread, chunks
from tests.engine import tokenizers


@pytest.fixture
def thread():
    """A running render thread."""
    thread = RenderThread(Pace())
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture
def template(tmp_path):
    """A template of one token a byte."""
    return Template(tokenizers.make(tmp_path))


class Held:
    """A template that waits for permission at its first call, and notes what each call held."""

    def __init__(self, template):
        self._template = template
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.calls = []

    def render_all(self, sources, truncation):
        self.begun.set()
        self.go_on.wait()
        self.calls.append([source.text for source in sources])
        return self._template.render_all(sources, truncation)


async def ask(thread, template, *texts):
    """Return the ids of texts."""
    outcomes = await thread.render(template, [Text(text) for text in texts], "prompt_start")
    return [one.ids.tolist() for one in outcomes]


async def test_what_comes_while_the_thread_is_busy_is_rendered_in_one_round(thread, template):
    """Each caller gets its own items, in order."""
    held = Held(template)
    first = asyncio.create_task(ask(thread, held, "a"))
    await asyncio.to_thread(held.begun.wait)
    others = [asyncio.create_task(ask(thread, held, text, text)) for text in "bcd"]
    await asyncio.sleep(0)
    held.go_on.set()

    ids = await asyncio.gather(first, *others)

    assert held.calls == [["a"], ["b", "b", "c", "c", "d", "d"]]
    assert [len(one) for one in ids] == [1, 2, 2, 2]
    assert ids[2] == await ask(thread, template, "c", "c")


async def test_a_caller_who_left_is_not_rendered_for(thread, template):
    """A cancelled request's items cost nothing."""
    held = Held(template)
    first = asyncio.create_task(ask(thread, held, "a"))
    await asyncio.to_thread(held.begun.wait)
    gone, stays = (asyncio.create_task(ask(thread, held, text)) for text in "bc")
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    held.go_on.set()

    await asyncio.gather(first, stays)

    assert held.calls == [["a"], ["c"]]


async def test_a_bad_item_is_answered_in_its_place(thread, template):
    """An error is an outcome, as `render_all` has it."""
    good, bad = await thread.render(template, [Text("a"), Text("")], "prompt_start")

    assert good.ids.tolist() == (await ask(thread, template, "a"))[0]
    assert isinstance(bad, EmptyItem)


async def test_a_defect_fails_only_the_request_that_meets_it(thread, template):
    """A round that fails is rendered again, request by request, and the thread lives on."""

    class Defective(Held):
        def render_all(self, sources, truncation):
            outcomes = super().render_all(sources, truncation)
            assert Text("bad") not in sources
            return outcomes

    held = Defective(template)
    first = asyncio.create_task(ask(thread, held, "a"))
    await asyncio.to_thread(held.begun.wait)
    others = [asyncio.create_task(ask(thread, held, text)) for text in ("b", "bad", "c")]
    await asyncio.sleep(0)
    held.go_on.set()

    good, bad, too = await asyncio.gather(*others, return_exceptions=True)

    assert isinstance(bad, AssertionError)
    assert [len(await first), len(good), len(too)] == [1, 1, 1]


async def test_a_single_item_waits_for_one_round_of_the_others_at_most(thread, template):
    """However many chunks wait, a round takes no more than its tokens."""
    held = Held(template)
    first = asyncio.create_task(ask(thread, held, "a"))
    await asyncio.to_thread(held.begun.wait)
    fat = [asyncio.create_task(ask(thread, held, "x" * 4 * CHUNK_TOKENS)) for _ in range(3)]
    await asyncio.sleep(0)
    held.go_on.set()

    await asyncio.gather(first, *fat)

    assert [len(call) for call in held.calls] == [1, 2, 1]


@pytest.mark.parametrize("source", [Text("word"), Ids((1, 2)), Text("x" * CHUNK_TOKENS)])
@pytest.mark.parametrize("count", [0, 1, CHUNK_ITEMS, 3 * CHUNK_ITEMS + 1])
def test_chunks_are_the_items_in_order_and_none_is_too_large(source, count):
    """Neither in items nor, beyond its last item, in tokens; none is empty."""
    sources = [source] * count

    parts = list(chunks(sources))

    assert [one for part in parts for one in part] == sources
    for part in parts:
        assert 1 <= len(part) <= CHUNK_ITEMS
        assert sum(map(rendering.estimate, part[:-1])) < CHUNK_TOKENS


def test_every_form_has_an_estimate():
    """Four characters a token, ids as they are."""
    talk = Conversation(
        ({"role": "user", "content": "x" * 40}, {"role": "assistant", "content": ""})
    )

    assert [rendering.estimate(one) for one in (talk, Text("x" * 7), Ids((1, 2, 3)))] == [11, 2, 3]


async def test_few_are_woken_in_an_iteration_of_the_loop():
    """What else is due runs between them, and those who left are passed over."""
    loop = asyncio.get_running_loop()
    pace = Pace()
    futures = [loop.create_future() for _ in range(2 * WOKEN_AN_ITERATION)]
    futures[0].cancel()
    for place, future in enumerate(futures):
        pace.set_result(future, ValueError() if place == 1 else place)
    woken = []
    while not futures[-1].done():
        await asyncio.sleep(0)
        woken.append(sum(future.done() for future in futures))

    assert woken == [WOKEN_AN_ITERATION, 2 * WOKEN_AN_ITERATION]
    assert isinstance(futures[1].exception(), ValueError)
    assert [future.result() for future in futures[2:]] == list(range(2, len(futures)))
