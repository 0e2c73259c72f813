"""Memory of keys and values between batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.engine.attention import interface
from assay.engine.block_cache import BlockCache
from assay.engine.packing import pack
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

HEADS, WIDTH = 2, 4
TOKENS = 2 * BLOCK_TOKENS


def batch(*, held=(), kept=()):
    """Return a packed batch of one run that reads and leaves such blocks."""
    rows = np.arange(len(kept) * BLOCK_TOKENS, dtype=np.int32)
    runs = [len(held) * BLOCK_TOKENS] * bool(held) + [TOKENS]
    return pack(
        replace(
            PrefixBatch.unshared([np.zeros(TOKENS, np.int32)]),
            lengths=np.array(runs, np.int32),
            parents=np.arange(-1, len(runs) - 1, dtype=np.int32),
            reads=np.array([len(runs) - 1], np.int32),
            held=len(runs) - 1,
            cached_blocks=np.array(held, np.int32),
            new_blocks=np.array(kept, np.int32),
            new_rows=rows,
        )
    )


def test_what_one_batch_leaves_another_finds_behind_its_own():
    """Keys and values come back at the places the next batch's runs say."""
    cache = BlockCache(4)
    key, value = (torch.randn(HEADS, TOKENS, WIDTH) for _ in range(2))
    cache.layer(0, key, value).keep(key, value, batch(kept=(3, 1)))
    then = batch(held=(3, 1))

    found = cache.layer(0, key, value).behind(-key, -value, then)

    rows = torch.from_numpy(then.path(0))
    assert torch.equal(found[0][:, rows], key)
    assert torch.equal(found[1][:, rows], value)
    assert torch.equal(found[0][:, :TOKENS], -key)


def test_the_size_of_a_block_counts_all_layers():
    """Keys and values, in their dtypes, of every layer met."""
    cache = BlockCache(4)
    key = torch.zeros(HEADS, TOKENS, WIDTH)
    cache.layer(0, key, key)
    cache.layer(1, key, key.bfloat16()[..., :2])
    assert cache.block_bytes == BLOCK_TOKENS * HEADS * (WIDTH * 4 + WIDTH * 4 + WIDTH * 4 + 2 * 2)


def test_a_block_that_was_never_written_is_not_read():
    """A batch that rests on one that failed fails, too, instead of reading what lies there."""
    cache = BlockCache(4)
    with interface.over(batch(kept=(0,)), cache):
        pass
    with pytest.raises(RuntimeError, match="layer"), interface.over(batch(kept=(0, 1)), cache):
        raise RuntimeError("a layer failed")
    for block in (0, 1, 2):
        with (
            pytest.raises(ValueError, match="never written"),
            interface.over(batch(held=(block,)), cache),
        ):
            pass


def test_a_trunk_without_blocks_reads_none():
    """A batch that asks for what isn't there is a defect of the front."""
    with pytest.raises(ValueError, match="no blocks"), interface.over(batch(kept=(0,))):
        pass
