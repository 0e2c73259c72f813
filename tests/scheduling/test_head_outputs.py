"""Every item gets the numbers of its own places, whatever its batches share, hold and forget."""

from collections import deque
from itertools import count
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.items import ReadPositions
from assay.scheduling.head_outputs import first_unread
from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.worker_protocol import BLOCK_TOKENS
from tests.scheduling.texts import IDS, ids, response

PROMPT = ids(2 * BLOCK_TOKENS)
# Beginnings of one text, whole blocks among them: who ends where another goes on is a case apart.
BEGINNINGS = st.integers(1, 4 * BLOCK_TOKENS).map(lambda length: ids(4 * BLOCK_TOKENS)[:length])


class Failure(Exception):
    """A batch that a device couldn't run."""


class Device:
    """Reads a row as a hash of all tokens up to it, beside the token that is asked after it."""

    def __init__(self):
        self._blocks = {}  # number -> the tokens up to its end, since keys depend on those

    def run(self, prefix_batch, *, fails=False):
        """Return (rows read, 2) of a batch; what it was to leave isn't there if it fails."""
        for block in prefix_batch.new_blocks.tolist():
            self._blocks.pop(block, None)
        blocks, runs = iter(prefix_batch.cached_blocks.tolist()), iter(prefix_batch.runs())
        paths, rows = [], []
        for run, (length, parent) in enumerate(
            zip(prefix_batch.lengths, prefix_batch.parents, strict=True)
        ):
            path = paths[parent] if parent >= 0 else ()
            for _ in range(length // BLOCK_TOKENS if run < prefix_batch.held else 0):
                path = self._block(next(blocks), path)
            for token in next(runs).tolist() if run >= prefix_batch.held else ():
                path = (*path, token)
                rows.append(path)
            paths.append(path)
        if fails:
            raise Failure
        kept = prefix_batch.new_rows.reshape(-1, BLOCK_TOKENS).tolist()
        for block, places in zip(prefix_batch.new_blocks.tolist(), kept, strict=True):
            self._blocks[block] = rows[places[-1]]
        places = prefix_batch.read_rows.tolist()
        return np.array(
            [
                number(rows[at], after)
                for at, after in zip(places, prefix_batch.next_ids, strict=True)
            ]
        ).reshape(-1, 2)

    def _block(self, block, before):
        if block not in self._blocks:
            raise Failure
        path = self._blocks[block]
        assert path[: len(before)] == before
        assert len(path) == len(before) + BLOCK_TOKENS
        return path


class Side(Device):
    """A device whose head reads `joined` rows side by side."""

    def __init__(self, joined):
        super().__init__()
        self._joined = joined

    def run(self, prefix_batch, *, fails=False):
        """Return (rows read / joined, 2 joined)."""
        return super().run(prefix_batch, fails=fails).reshape(-1, 2 * self._joined)


def number(path, following):
    """Return what is read behind some tokens."""
    return [crc32(np.array(path, np.int32).tobytes()), following]


def own(work):
    """Return what a work's places are worth, worked out alone."""
    pairs = work.read_at.pairs()
    alone = [number(work.ids[: place + 1], following) for place, following in pairs]
    return np.array(alone, float).reshape(work.read_at.rows, -1)


@st.composite
def positioned(draw, *, follows, joined=1):
    """Draw an item's ids and some of its places, in any order."""
    text = draw(st.one_of(IDS, BEGINNINGS, st.sampled_from([PROMPT, response(PROMPT, 1)])))
    size = joined * draw(st.integers(1, 4))
    often = st.sampled_from(
        [3, BLOCK_TOKENS - 1, 2 * BLOCK_TOKENS - 1, 20]
    )  # others ask there, too
    place = st.one_of(often, st.integers(0, len(text) - 1)).map(lambda at: min(at, len(text) - 1))
    places = st.lists(place, min_size=size, max_size=size)
    next_ids = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    return WorkItem(
        text,
        RequestFlow(),
        read_at=ReadPositions(
            np.array(draw(places), np.int32),
            next_ids=np.array(draw(next_ids), np.int32) if follows else None,
            joined=joined,
        ),
    )


def rounds(**options):
    """Return lists of lists of works: what is there when the device is next asked."""
    works = st.lists(positioned(**options), min_size=1, max_size=6)
    return st.lists(works, min_size=1, max_size=4)


def at(text, *places, flow=None):
    """Return a work that is read at some places."""
    return WorkItem(text, flow or RequestFlow(), read_at=ReadPositions(np.array(places, np.int32)))


class Run:
    """A device with its cache; up to two batches are planned before the first is answered."""

    def __init__(self, cache, device, *, budget=10_000, failing=(), shares=True):
        self.line = ModelQueue(lambda _: False, count())
        self.batches = []
        self._cache, self._device, self._budget = cache, device, budget
        self._failing, self._shares = failing, shares
        self._in_flight = deque()

    def add(self, works):
        """Let works wait."""
        for work in works:
            self.line.add(work, 0.0)

    def plan(self):
        """Plan and send the next batch."""
        batch = plan(self.line, self._budget, shares=self._shares, cache=self._cache)
        self._in_flight.append((len(self.batches), batch))
        self.batches.append(batch)

    def answer(self):
        """Check what the oldest batch gave its items; after a failure each goes again, alone."""
        place, batch = self._in_flight.popleft()
        try:
            read = self._device.run(batch.prefix_batch, fails=place in self._failing)
        except Failure:
            if self._cache is not None:
                self._cache.clear()
            for work in batch.works:
                again = WorkItem(work.ids, work.flow, goes_alone=True, read_at=work.read_at)
                self.line.put_back(again)
            return
        assert batch.rows == len(read)
        for work, numbers in zip(batch.works, batch.numbers(read), strict=True):
            np.testing.assert_array_equal(numbers, own(work))

    def all(self, *, ahead=1):
        """Serve all that waits, with so many batches in flight."""
        while self.line.items or self._in_flight:
            while self.line.items and len(self._in_flight) < ahead:
                self.plan()
            self.answer()


@pytest.mark.parametrize("follows", [False, True])
@given(data=st.data(), budget=st.integers(1, 400), blocks=st.integers(1, 40))
def test_an_item_gets_the_numbers_of_its_own_places(follows, data, budget, blocks):
    """In any order of batches: blocks held, given way and forgotten, outputs reused."""
    run = Run(PrefixCache(blocks), Device(), budget=budget)
    for works in data.draw(rounds(follows=follows)):
        run.add(works)
        run.all()


@pytest.mark.parametrize("follows", [False, True])
@given(
    data=st.data(),
    budget=st.integers(1, 400),
    blocks=st.integers(1, 40),
    failing=st.sets(st.integers(0, 6)),
)
def test_batches_in_flight_and_failures_change_no_number(follows, data, budget, blocks, failing):
    """A batch is planned on what the one before it is to leave; that may come to nothing."""
    run = Run(PrefixCache(blocks), Device(), budget=budget, failing=failing)
    for works in data.draw(rounds(follows=follows)):
        run.add(works)
        run.all(ahead=2)


@given(data=st.data(), budget=st.integers(1, 400), joined=st.integers(1, 3))
def test_unshared_items_are_read_side_by_side(data, budget, joined):
    """Where nothing is shared, neighbouring places may go into one number."""
    run = Run(None, Side(joined), budget=budget, shares=False)
    for works in data.draw(rounds(follows=False, joined=joined)):
        run.add(works)
        run.all()


@given(data=st.data())
def test_what_was_read_before_is_not_read_again(data):
    """With room for all, the same items once more read what stands in no block, and last blocks."""
    works = data.draw(st.lists(positioned(follows=True), min_size=1, max_size=6))
    run = Run(PrefixCache(10_000), Device())
    run.add(works)
    run.all()
    for work in works:
        run.add([WorkItem(work.ids, RequestFlow(), read_at=work.read_at)])
        run.all()
        computed = (len(work.ids) - 1) % BLOCK_TOKENS + 1
        assert run.batches[-1].prefix_batch.tokens == computed


def test_a_batch_may_have_nothing_left_to_read():
    """All of its places are known: only the items' last tokens are computed."""
    run = Run(PrefixCache(100), Device())
    text = response(PROMPT, 7)
    for _ in range(2):
        run.add([at(text, 3, 12)])
        run.all()
    assert [len(batch.prefix_batch.read_rows) for batch in run.batches] == [2, 0]
    assert [batch.prefix_batch.tokens for batch in run.batches] == [36, 4]


def test_a_block_without_a_head_output_is_computed_again():
    """Another item of the same text asks for a place that nobody asked for."""
    run = Run(PrefixCache(100), Device())
    text = response(PROMPT, 7)
    for place in (20, 9, 20):
        run.add([at(text, place)])
        run.all()
    assert [batch.prefix_batch.tokens for batch in run.batches] == [36, 36 - BLOCK_TOKENS, 36 - 16]


def test_an_item_that_lacks_a_head_output_of_a_block_in_use_goes_next():
    """A block that others of the batch hold isn't forgotten under them."""
    run = Run(PrefixCache(100), Device())
    text = response(PROMPT, 7)
    run.add([at(text, 3)])
    run.all()
    run.add([at(text, 3), at(text, 5)])
    run.all()
    assert [len(batch.works) for batch in run.batches] == [1, 1, 1]


def test_items_of_one_text_share_the_row_they_are_both_read_at():
    """Two that ask for the same place have one output."""
    run = Run(PrefixCache(100), Device())
    run.add([at(PROMPT, 3, 9), at(PROMPT, 9, 3), at(PROMPT, 9)])
    run.all()
    (batch,) = run.batches
    assert len(batch.prefix_batch.read_rows) == 2


def test_a_failed_batch_takes_no_head_outputs_of_older_blocks_with_it():
    """A block that is kept and computed once more, for who ends there, keeps the outputs it has.

    The batch behind the failed one rests on the block, not on what failed.
    """
    run = Run(PrefixCache(100), Device(), failing={1})
    run.add([at(PROMPT, 3, 15)])
    run.all()
    run.add([at(PROMPT, 3, 15)])
    run.plan()
    run.add([at(response(PROMPT, 7), 15, 20)])
    run.plan()
    run.answer()
    run.answer()
    run.all()
    assert [len(batch.works) for batch in run.batches] == [1, 1, 1, 1]


def test_an_item_without_marks_beside_others_is_read_at_its_end():
    """Of items that end in padding and items that don't, in one batch."""
    line = ModelQueue(lambda _: False, count())
    line.add(at(PROMPT, 3), 0.0)
    line.add(WorkItem(PROMPT, RequestFlow()), 0.0)

    batch = plan(line, 100, shares=True)

    assert batch.prefix_batch.read_rows.tolist() == [3, len(PROMPT) - 1]
    first, second = batch.numbers(np.array([[0.25], [0.5]]))
    assert (first.tolist(), second.tolist()) == ([[0.25]], [[0.5]])


def test_the_first_block_that_lacks_a_head_output_is_told():
    """The place in the path; its length where nothing is lacking."""
    cache = PrefixCache(100)
    run = Run(cache, Device())
    text = response(PROMPT, 7)
    run.add([at(text, 3, 12)])
    run.all()
    path = cache.path(text)
    assert len(path) == 4
    assert first_unread(path, ReadPositions(np.array([3, 12, 35], np.int32))) == 4
    assert first_unread(path, ReadPositions(np.array([30, 13], np.int32))) == 1
    assert first_unread(path, ReadPositions(np.array([3]), next_ids=np.array([7]))) == 0
