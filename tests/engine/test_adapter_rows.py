"""Which rows are which adapter's, and what adapters have in common."""

from dataclasses import replace

import numpy as np

from assay.engine import adapter_rows
from assay.engine.adapter_rows import Span
from assay.engine.packing import ROWS, pack
from assay.joined_batch import join
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

NO_BLOCKS = np.empty(0, np.int64)


def sequences(*lengths, seed=0):
    """Return random ids."""
    random = np.random.default_rng(seed)
    return [random.integers(1, 100, size=length).astype(np.int32) for length in lengths]


def paths(batch):
    """Return the ids of each item's sequence."""
    packed = pack(batch)
    return [packed.ids[packed.path(run)].tolist() for run in batch.reads.tolist()]


def of_three(batch, blocks=0):
    """Return the same batch for three adapters."""
    return join(dict.fromkeys(range(3), batch), blocks)


def forest():
    """Return a batch of two items behind a prefix, one of which ends with it, and one alone."""
    runs = PrefixBatch.unshared(sequences(9, 5, 20))
    return replace(
        runs, parents=np.array([-1, 0, -1], np.int32), reads=np.array([1, 0, 2], np.int32)
    )


def test_each_adapters_rows_begin_at_a_multiple():
    """A product sees as many rows as it would if they were alone; no sequence changes."""
    batch = of_three(forest())

    aligned, spans = adapter_rows.aligned(batch)

    assert spans == [Span(0, 0, 48), Span(1, 48, 96), Span(2, 96, 144)]
    assert paths(aligned) == paths(batch)
    assert pack(aligned).last_rows.tolist() == [13, 8, 33, 61, 56, 81, 109, 104, 129]


def test_rows_move_with_their_tokens():
    """Those that are read, and those that are kept."""
    part = replace(
        forest(),
        read_rows=np.array([33, 2], np.int32),
        new_blocks=np.array([0], np.int32),
        new_rows=np.arange(BLOCK_TOKENS, dtype=np.int32),
    )

    aligned, _ = adapter_rows.aligned(of_three(part, blocks=1))

    assert aligned.read_rows.tolist() == [33, 2, 81, 50, 129, 98]
    assert aligned.new_rows.tolist() == [*range(8), *range(48, 56), *range(96, 104)]


def test_whole_multiples_and_one_adapter_alone_stay_as_they_are():
    """Nothing has to be filled up between adapters."""
    whole = of_three(PrefixBatch.unshared(sequences(ROWS, 2 * ROWS)))
    alone = join({1: forest()}, 0)

    assert adapter_rows.aligned(whole)[0] is whole
    assert adapter_rows.aligned(alone) == (alone, [Span(1, 0, 48)])
    assert adapter_rows.aligned(forest())[1] == [Span(0, 0, 48)]


def test_what_adapters_have_in_common_is_there_once():
    """Every row of theirs is a copy of one that is computed."""
    aligned, _ = adapter_rows.aligned(of_three(forest()))

    spread = adapter_rows.spread(aligned, NO_BLOCKS)

    below, above = pack(spread.batch), pack(aligned)
    assert spread.batch.tokens < aligned.tokens / 2
    assert (below.ids[spread.rows] == above.ids)[: aligned.tokens].all()
    assert (below.positions[spread.rows] == above.positions)[: aligned.tokens].all()
    assert len(spread.rows) == len(above.ids)
    for run in range(len(aligned.lengths)):
        twin = spread.rows[above.path(run)]
        assert (below.ids[twin] == above.ids[above.path(run)]).all()
        assert len(set(twin.tolist())) == len(twin)


def test_adapters_of_other_items_have_nothing_in_common():
    """Then each layer has the rows of all."""
    parts = {number: PrefixBatch.unshared(sequences(48, 16, seed=number)) for number in range(3)}
    aligned, _ = adapter_rows.aligned(join(parts, 0))

    assert adapter_rows.spread(aligned, NO_BLOCKS) is None


def test_segments_are_part_of_what_is_the_same():
    """The same ids in other segments are other tokens."""
    ids = sequences(40)
    same = replace(PrefixBatch.unshared(ids), segments=np.zeros(40, np.int32))
    other = replace(same, segments=np.ones(40, np.int32))

    aligned, _ = adapter_rows.aligned(join({0: same, 1: same, 2: other}, 0))

    assert adapter_rows.spread(aligned, NO_BLOCKS).batch.segments.sum() == 40


def test_held_runs_are_the_same_where_their_blocks_were():
    """By where the blocks came from, not by their numbers, which differ for each adapter."""
    (ids,) = sequences(40)
    part = PrefixBatch(
        ids=ids,
        lengths=np.array([16, 40], np.int32),
        parents=np.array([-1, 0], np.int32),
        reads=np.array([1], np.int32),
        held=1,
        cached_blocks=np.array([0, 1], np.int32),
    )
    aligned, _ = adapter_rows.aligned(of_three(part, blocks=2))

    same = adapter_rows.spread(aligned, np.array([5, 6, 5, 6, 5, 7]))

    assert same.batch.held == 2
    assert same.batch.cached_blocks.tolist() == [0, 1, 4, 5]
    assert same.batch.ids.tolist() == [*ids, *np.zeros(8, int), *ids]
    assert same.batch.parents.tolist() == [-1, -1, 0, -1, 1]


def test_rows_are_filled_up_for_each_adapter():
    """The last of the read rows is repeated; an adapter that nobody reads has none."""
    spans = [Span(0, 0, 48), Span(1, 48, 96), Span(3, 96, 144)]

    parts = adapter_rows.by_adapter(np.array([3, 1, 100]), spans)
    rows, filled = adapter_rows.filled(parts)

    assert [(adapter, part.tolist()) for adapter, part in parts] == [(0, [3, 1]), (3, [100])]
    assert filled == [Span(0, 0, 16), Span(3, 16, 32)]
    assert rows.tolist() == [3, *[1] * 15, *[100] * 16]
