"""Captured passes, by a stand-in for a CUDA graph: it runs what was captured again, as it was.

Whatever isn't on the device, at the places where the captured pass read it, is the captured one's.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.engine import graphs, verification
from assay.engine.attention import varlen
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch
from tests.engine.test_attention import CPU
from tests.fidelity import checkpoints, reference, texts

ITEMS = texts.generated(12, longest_words=60)


def flash(query, key, value, borders_q, borders_k, *_, **options):
    """Attend as flash attention does to sequences of their own, by what is on the device alone."""
    out = torch.empty_like(query)
    for begin, end in zip(borders_q[:-1].tolist(), borders_q[1:].tolist(), strict=True):
        assert end <= len(query)
        keys, values = (
            x[begin:end].repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(0, 1)
            for x in (key, value)
        )
        out[begin:end] = torch.nn.functional.scaled_dot_product_attention(
            query[begin:end].transpose(0, 1),
            keys,
            values,
            is_causal=options["window_size_right"] == 0,
            scale=options["scale"],
        ).transpose(0, 1)
    assert torch.equal(borders_k, borders_q)
    return (out,)


class Stream:
    """A stand-in for a device that captures and replays."""

    def __init__(self, fails=None):
        self.fails = fails
        self.captured = self.replayed = 0

    def capture(self, run):
        """Run a pass; return what runs it again, into the same memory."""
        if self.fails is not None:
            raise self.fails
        states = run()
        self.captured += 1

        def replay():
            self.replayed += 1
            return states.copy_(run())

        return replay


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """A model that keeps prefixes and attends by flash attention, which is stood in."""
    monkeypatch.setattr(varlen, "_flash", flash)
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=texts.vocabulary())
    trunk = reference.load(folder)
    verification.keep_prefixes(trunk, 1 << 20)
    trunk.attention = "assay-varlen"
    trunk.attend()
    return trunk


def scores(trunk, batch):
    """Return a batch's scores by a captured pass, and without."""
    made, trunk.graphs = trunk.graphs, None
    plain = trunk.score(batch)
    trunk.graphs = made
    return trunk.score(batch), plain


def test_a_replay_gives_what_a_launch_gives(runner):
    """Items alone and together, of any lengths, at the rows that a batch names."""
    stream = Stream()
    verification.capture_graphs(runner, stream.capture)
    assert stream.captured == len(graphs.ROWS)
    assert runner.warnings == []

    stream.replayed = 0
    batches = [PrefixBatch.unshared(ITEMS[:count]) for count in (1, 2, 3, 1)]
    batches.append(replace(batches[1], read_rows=np.array([3, 0, 7, 7, 9], np.int32)))
    for batch in batches:
        found, plain = scores(runner, batch)

        assert abs(found - plain).max() < 1e-6
        rows = runner.captured_rows(batch)
        assert runner.padded_tokens(batch) == rows - batch.tokens
    assert stream.replayed == len(batches)


def test_a_replay_keeps_what_a_batch_is_to_leave(runner):
    """And nothing else: what others kept stays, and a batch that keeps nothing writes nothing."""
    verification.capture_graphs(runner, Stream().capture)
    first, other = ITEMS[0][:40], ITEMS[1][:40]
    rows = np.arange(4 * BLOCK_TOKENS, dtype=np.int32)
    tail = np.array([5, 6, 7], np.int32)

    def keeping(ids, numbers):
        blocks = np.array(numbers, np.int32)
        return replace(PrefixBatch.unshared([ids]), new_blocks=blocks, new_rows=rows)

    runner.score(keeping(first, [3, 0, 5, 1]))
    runner.score(keeping(other, [2, 4, 7, 6]))
    runner.score(PrefixBatch.unshared([ITEMS[2]]))
    behind = PrefixBatch(
        ids=tail,
        lengths=np.array([32, 3], np.int32),
        parents=np.array([-1, 0], np.int32),
        reads=np.array([1], np.int32),
        held=1,
        cached_blocks=np.array([3, 0, 5, 1], np.int32),
    )
    assert not runner.captured_rows(behind)
    runner.attention = "assay-blocks"
    runner.attend()

    whole = PrefixBatch.unshared([np.concatenate([first[:32], tail])])
    runner.graphs, found = None, runner.score(behind)
    assert abs(found - runner.score(whole)).max() < 1e-6


def test_a_batch_that_was_not_captured_is_launched(runner):
    """It is too large, has too many runs, shares, continues, or the blocks are others."""
    verification.capture_graphs(runner, Stream().capture)
    short = [ids[:4] for ids in ITEMS]
    plain = PrefixBatch.unshared(short[:2])
    shared = replace(plain, parents=np.array([-1, 0], np.int32))
    many = PrefixBatch.unshared([*short, *short])
    long = PrefixBatch.unshared([np.resize(ITEMS[0], 513)])

    assert runner.captured_rows(plain) == 64
    assert [runner.captured_rows(batch) for batch in (shared, many, long)] == [0, 0, 0]
    runner.block_cache = None
    assert not runner.captured_rows(plain)


def test_what_can_not_be_captured_is_said(runner):
    """Scores are what they were; a device that broke ends the start."""
    verification.capture_graphs(runner, Stream(RuntimeError("not permitted")).capture)

    assert runner.graphs is None
    (said,) = runner.warnings
    assert said.startswith("small batches are launched kernel by kernel, slower: they couldn't be")


def test_a_replay_of_other_scores_is_not_taken(runner):
    """As of a pass that read something from the host."""

    def capture(run):
        states = run().clone()
        return lambda: states

    verification.capture_graphs(runner, capture)

    assert runner.graphs is None
    assert "scores would move by" in runner.warnings[0]


def test_only_flash_attention_is_captured(runner):
    """Another way to attend goes by tables that differ from batch to batch."""
    stream = Stream()
    runner.attention = "assay-blocks"

    verification.capture_graphs(runner, stream.capture)

    assert (runner.graphs, stream.captured, runner.device) == (None, 0, CPU)
