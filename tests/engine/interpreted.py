"""The tree kernel as Triton interprets it: `test_tree.py` runs this in a process of its own.

Triton must be told to interpret before it is first imported. Tiles and blocks are small here, so
that a few tokens make several.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from triton.runtime import interpreter

from assay.engine import transfer, verification
from assay.engine.attention import interface, tree
from assay.engine.attention.pattern import Pattern
from assay.engine.block_cache import BlockCache
from assay.engine.packing import pack
from assay.errors import CheckpointError
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch
from tests.engine.test_attention import CPU, SCALE, dense, inputs, prefix_batch
from tests.fidelity import checkpoints, reference, texts

assert os.environ["TRITON_INTERPRET"] == "1"
KEYS = 16
LENGTHS = (1, 2, 15, 16, 17, 37, 5)
FOREST = ((40, 7, 23, 3, 1, 30), (-1, 0, 0, 1, 0, 1))
CHAIN = (1, 5, 13, 16, 30, 2)
CAUSAL = Pattern(SCALE, causal=True)
PATTERNS = [
    Pattern(SCALE, causal, window, softcap)
    for causal in (True, False)
    for window in (None, 1, 20, 300)
    for softcap in (None, 2.0)
]
BITS = [CAUSAL, Pattern(SCALE, True, 20), Pattern(SCALE, True, None, 2.0)]


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch):
    """Sum products in float64: on some processors numpy's BLAS sums a row by where it stands.

    No GPU does, whose rows of a tile all go the same way.
    """

    def create_dot(_, left, right, summed, *_options):
        product = left.data.astype(np.float64) @ right.data.astype(np.float64) + summed.data
        return interpreter.TensorHandle(product.astype(summed.data.dtype), summed.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture
def small(monkeypatch):
    """Tiles of 32 rows, 16 tokens, and blocks of 16 keys."""
    monkeypatch.setattr(tree, "_shape", lambda *_: tree.Shape(32, KEYS, 4))


def gap(out, arguments, packed, pattern):
    """Return by how much what comes out differs from dense attention within each sequence."""
    query, key, value = arguments
    gaps = []
    for run in range(len(packed.lengths)):
        rows = torch.from_numpy(packed.path(run))
        expected = dense(query[:, rows], key[:, rows], value[:, rows], pattern)
        gaps.append((out[rows].transpose(0, 1) - expected).abs().max())
    return float(max(gaps))


def in_batch(rows, total):
    """Return some rows of query, key and value as a batch of so many rows."""
    fill = (0, 0, 0, total - rows[0].shape[1])
    return [torch.nn.functional.pad(one, fill) for one in rows]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_equals_dense_attention_within_each_sequence(pattern):
    """Causal and not, with windows and caps, apart and behind prefixes; fill is zero."""
    forests = [(LENGTHS, None), FOREST] if pattern.causal else [(LENGTHS, None)]
    for lengths, parents in forests:
        packed = prefix_batch(lengths, parents)
        arguments = inputs(len(packed.ids))

        out = tree.attend(*arguments, packed, pattern)

        assert gap(out, arguments, packed, pattern) < 2e-6
        assert not out[sum(lengths) :].any()


@pytest.mark.usefixtures("small")
def test_it_takes_half_precision():
    """Products add up in float32; what comes out has the dtype that went in."""
    packed = prefix_batch(*FOREST)
    arguments = inputs(len(packed.ids), torch.float16)

    out = tree.attend(*arguments, packed, CAUSAL)

    assert out.dtype == torch.float16
    assert gap(out, arguments, packed, CAUSAL) < 2e-3


@pytest.mark.parametrize("shape", [(6, 2, 20), (3, 1, 64), (2, 2, 80), (4, 2, 256)])
def test_heads_of_any_size_and_group(shape):
    """Those that are no power of two, too, with the tiles that a GPU has."""
    packed = prefix_batch((40, 23, 30), (-1, 0, 0))
    query, key, value = inputs(len(packed.ids), shape=shape)
    value = value[..., : shape[2] // 4 * 3]  # narrower, and not contiguous

    out = tree.attend(query, key, value, packed, CAUSAL)

    for run in range(3):
        rows = torch.from_numpy(packed.path(run))
        own, keys, values = (
            one[:, rows].repeat_interleave(shape[0] // one.shape[0], dim=0)
            for one in (query, key, value)
        )
        expected = torch.nn.functional.scaled_dot_product_attention(
            own.double(), keys.double(), values.double(), is_causal=True, scale=SCALE
        )
        assert (out[rows].transpose(0, 1) - expected).abs().max() < 2e-6


def test_more_heads_than_a_tile_has_rows_are_refused():
    """The model must take another way."""
    with pytest.raises(ValueError, match="65 heads share keys; a tile has 64 rows"):
        tree.attend(*inputs(16, shape=(65, 1, 16)), prefix_batch([5]), CAUSAL)


def test_what_triton_fails_at_is_an_error_of_torchs_kind(monkeypatch):
    """Verification knows those, and goes on to another way."""
    import triton

    class Failing:
        def __getitem__(self, grid):
            raise triton.TritonError("no room")

    monkeypatch.setattr("assay.engine.attention.tree_kernel.attend", Failing())

    with pytest.raises(RuntimeError, match=r"can't run the kernel .*: no room"):
        tree.attend(*inputs(16), prefix_batch([5]), CAUSAL)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", BITS)
@pytest.mark.parametrize("prefix", [1, 16, 37])
def test_a_shared_prefix_changes_no_bit(pattern, prefix):
    """A sequence alone, and as a run behind its first tokens that others continue as well."""
    length, other = 66, 9
    alone = inputs(length + 14)
    strangers = inputs(other)
    shared = [
        torch.cat([own[:, :prefix], more, own[:, prefix:length]], dim=1)
        for own, more in zip(alone, strangers, strict=True)
    ]

    expected = tree.attend(*alone, prefix_batch([length]), pattern)[:length]
    packed = prefix_batch([prefix, other, length - prefix], [-1, 0, 0])
    out = tree.attend(*in_batch(shared, len(packed.ids)), packed, pattern)

    assert torch.equal(out[:prefix], expected[:prefix])
    assert torch.equal(out[prefix + other : length + other], expected[prefix:])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", BITS)
@pytest.mark.parametrize("blocks", [1, 4, 7])
def test_a_held_prefix_changes_no_bit(pattern, blocks):
    """A sequence alone, and its end in two runs behind blocks that lie in no order."""
    length, held = 66, blocks * BLOCK_TOKENS
    _, key, value = alone = inputs(80)
    numbers = np.random.default_rng(0).permutation(blocks + 3)[:blocks].astype(np.int32)
    whole = PrefixBatch.unshared([np.zeros(length, np.int32)])
    memory = BlockCache(blocks + 3)
    keeping = replace(whole, new_blocks=numbers, new_rows=np.arange(held, dtype=np.int32))
    memory.layer(0, key, value).keep(key, value, pack(keeping))
    packed = pack(
        replace(
            whole,
            lengths=np.array([held, length - held - 5, 5], np.int32),
            parents=np.array([-1, 0, 1], np.int32),
            ids=np.zeros(length - held, np.int32),
            held=1,
            cached_blocks=numbers,
        )
    )
    own = in_batch([one[:, held:length] for one in alone], len(packed.ids))

    expected = tree.attend(*alone, prefix_batch([length]), pattern)
    out = tree.attend(*own, packed, pattern, memory.layer(0, key, value))

    assert torch.equal(out[: length - held], expected[held:length])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", BITS)
def test_a_chain_of_runs_changes_no_bit(pattern):
    """A sequence in six runs, each continuing the one before, ends of one and two tokens."""
    total = sum(CHAIN)
    arguments = inputs(total + 13)

    alone = tree.attend(*arguments, prefix_batch([total]), pattern)
    chain = tree.attend(*arguments, prefix_batch(CHAIN, [-1, 0, 1, 2, 3, 4]), pattern)

    assert torch.equal(chain, alone)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", [*BITS, Pattern(SCALE, False), Pattern(SCALE, False, 20)])
def test_company_changes_no_bit(pattern):
    """Sequences in one order and another: each has other tiles, and other rows in them."""
    order = np.random.default_rng(1).permutation(len(LENGTHS))
    packed = prefix_batch(LENGTHS)
    moved = prefix_batch([LENGTHS[run] for run in order])
    arguments = inputs(len(packed.ids))
    rows = np.concatenate([packed.path(run) for run in order])

    out = tree.attend(*arguments, packed, pattern)
    shuffled = in_batch([one[:, rows] for one in arguments], len(moved.ids))
    other = tree.attend(*shuffled, moved, pattern)

    assert torch.equal(other[: len(rows)], out[rows])


@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy's products
@pytest.mark.parametrize("infinite", [float("inf"), float("nan")])
def test_another_items_infinity_changes_no_bit(infinite):
    """It would be NaN times a weight of 0, in a tile that both share."""
    lengths, parents = (20, 3, 4, 5), (-1, 0, 0, -1)
    packed = prefix_batch(lengths, parents)
    query, key, value = inputs(len(packed.ids))

    out = tree.attend(query, key, value, packed, CAUSAL)
    key[:, 21], value[:, 21] = infinite, infinite
    after = tree.attend(query, key, value, packed, CAUSAL)

    others = np.setdiff1d(np.arange(32), [20, 21, 22])
    assert torch.equal(after[others], out[others])
    assert not after[21:23].isfinite().all()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("pattern", [*BITS, Pattern(SCALE, False, None, 2.0)])
def test_queries_of_a_few_rows_get_the_bits_that_they_get_among_all(pattern):
    """Ends of runs, rows side by side, in no order and twice; what fills them up gets zero."""
    packed = prefix_batch(FOREST[0], FOREST[1] if pattern.causal else None)
    query, key, value = inputs(len(packed.ids))
    rows = np.array([103, 46, 69, 72, 46, 40, 41, 42, 0, 73, 39], np.int32)
    few = torch.nn.functional.pad(query[:, rows], (0, 0, 0, 16 - len(rows)), value=1.0)

    whole = tree.attend(query, key, value, packed, pattern)
    out = tree.attend(few, key, value, packed, pattern, rows=rows)

    assert torch.equal(out[: len(rows)], whole[rows])
    assert not out[len(rows) :].any()


def test_tables_are_made_and_copied_once_for_all_layers_of_a_kind(monkeypatch):
    """Not in each layer: windowed and other layers have theirs, and so have a few rows."""
    made = []
    copied = transfer.to_device
    monkeypatch.setattr(transfer, "to_device", lambda *args: made.append(1) or copied(*args))
    packed = prefix_batch([5, 6])
    query, key, value = inputs(16)

    for _ in range(3):
        for pattern in (CAUSAL, Pattern(SCALE, True, 3)):
            tree.attend(query, key, value, packed, pattern)
    tree.attend(query, key, value, packed, CAUSAL, rows=np.array([4], np.int32))

    assert len(made) == 3


def test_it_is_offered_where_triton_interprets():
    """Behind the compiled kernel, before torch's own products."""
    assert interface.names(CPU, torch.float32, compiled=False) == ["assay-tree", "assay-blocks"]
    for dtype in (torch.float64, torch.bfloat16):
        assert interface.names(CPU, dtype, compiled=False) == ["assay-blocks"]


@pytest.mark.parametrize("name", ["gemma2", "modernbert"])
def test_a_whole_model_equals_its_eager_pass_to_the_same_bits_in_any_batch(tmp_path, name):
    """Windows and caps, and windows on both sides: alone, together, shared, kept."""
    few = {"vocabulary": texts.vocabulary(), "num_hidden_layers": 2}
    folder = checkpoints.make(tmp_path / name, name, **few)
    items = texts.generated(4, longest_words=20)
    trunk = reference.load(folder, attention="tree")

    assert trunk.attention == "assay-tree"
    assert trunk.warnings == []
    alone = reference.alone(trunk, items)
    assert abs(alone - reference.eager(folder, items)).max() < reference.FLOAT32_TOLERANCE
    assert (reference.together(trunk, items, 3, seed=0) == alone).all()
    if name == "gemma2":
        assert trunk.shares_prefixes
        assert trunk.last_layer is not None
        verification.keep_prefixes(trunk, 1 << 20)
        tails = [ids[:9] for ids in items]
        whole = [np.concatenate([items[0], tail]) for tail in tails]
        expected = reference.alone(trunk, whole)
        assert (reference.shared(trunk, items[0], tails) == expected).all()
        scores, computed = reference.kept(trunk, [whole[:1], whole[1:]])
        assert computed < sum(map(len, whole))
        assert sorted(scores) == sorted(expected)


def test_a_model_that_can_not_run_so_is_refused_in_a_sentence(tmp_path):
    """DeBERTa's attention is its own; it isn't run in another way than was asked for."""
    folder = checkpoints.make(tmp_path / "model", "deberta-v3", vocabulary=texts.vocabulary())

    with pytest.raises(CheckpointError, match="can't run as attention = 'tree' says") as caught:
        reference.load(folder, attention="tree")
    assert "couldn't run" in caught.value.message
    assert reference.load(folder, attention="tree", padded=True).attention == "eager"
