"""Attention over a packed prefix batch against dense attention written out."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assay.engine.attention import blocks, interface, native, varlen
from assay.engine.attention.blocks import BLOCK
from assay.engine.attention.interface import PackedAttention, UnsupportedAttention
from assay.engine.attention.pattern import Pattern
from assay.engine.block_cache import BlockCache
from assay.engine.packing import pack
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch

HEADS, KV_HEADS, WIDTH = 4, 2, 16
SCALE = WIDTH**-0.5
LENGTHS = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 37, 5)
CPU = torch.device("cpu")
BACKENDS = {"blocks": blocks, "native": native}


@pytest.fixture(params=BACKENDS)
def attend(request):
    """Each way to compute attention on CPU; the native one is compiled here."""
    if request.param == "native":
        assert native.is_available(CPU, torch.float32)
        dtype = getattr(request.node, "callspec", None) and request.node.callspec.params.get(
            "dtype"
        )
        if dtype and not native.is_available(CPU, dtype):
            pytest.skip(f"this processor has no products of {dtype}: the kernel isn't offered")
    return BACKENDS[request.param].attend


def inputs(rows, dtype=torch.float32, shape=(HEADS, KV_HEADS, WIDTH)):
    """Return random query, key and value, (heads, rows, width) each."""
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, width = shape
    return [
        torch.randn(rows, count, width, generator=generator).to(dtype).transpose(0, 1)
        for count in (heads, kv_heads, kv_heads)
    ]


def prefix_batch(lengths, parents=None):
    """Return a packed prefix batch of such runs."""
    runs = PrefixBatch.unshared([np.zeros(length, np.int32) for length in lengths])
    return pack(runs if parents is None else replace(runs, parents=np.array(parents, np.int32)))


def dense(query, key, value, pattern):
    """Attend within one sequence with a full mask: (heads, length, width) each."""
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=0) for x in (key, value))
    scores = query.double() @ key.double().transpose(1, 2) * pattern.scale
    if pattern.softcap:
        scores = pattern.softcap * torch.tanh(scores / pattern.softcap)
    length = query.shape[1]
    distance = torch.arange(length)[:, None] - torch.arange(length)[None]
    seen = torch.ones(length, length, dtype=torch.bool)
    if pattern.causal:
        seen &= distance >= 0
    if pattern.window:
        seen &= distance.abs() < pattern.window
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ value.double()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 50, BLOCK, 300])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_equals_dense_attention_within_each_sequence(attend, causal, window, softcap):
    """Causal and bidirectional, with windows and soft caps, at lengths around the block size."""
    packed = prefix_batch(LENGTHS)
    pattern = Pattern(SCALE, causal, window, softcap)
    query, key, value = inputs(len(packed.ids))

    out = attend(query, key, value, packed, pattern)

    for run in range(len(LENGTHS)):
        rows = torch.from_numpy(packed.path(run))
        expected = dense(query[:, rows], key[:, rows], value[:, rows], pattern)
        assert (out[rows].transpose(0, 1) - expected).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 50, 600])
@pytest.mark.parametrize("prefix", [1, 16, 37, BLOCK, 200, 333, 600])
def test_a_shared_prefix_changes_no_bit(attend, dtype, window, prefix):
    """A sequence of 700 tokens alone, and as a run that shares its first ones with another."""
    length, other = 700, 77
    pattern = Pattern(SCALE, causal=True, window=window)
    inputs_alone = inputs(length, dtype)
    strangers = inputs(other, dtype)
    shared = [
        torch.cat([x[:, :prefix], stranger, x[:, prefix:]], dim=1)
        for x, stranger in zip(inputs_alone, strangers, strict=True)
    ]

    alone = attend(*inputs_alone, prefix_batch([length]), pattern)
    out = attend(*shared, prefix_batch([prefix, other, length - prefix], [-1, 0, 0]), pattern)

    assert torch.equal(torch.cat([out[:prefix], out[prefix + other :]]), alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 50, 600])
@pytest.mark.parametrize("blocks", [1, 8, 20, 35])
def test_a_held_prefix_changes_no_bit(attend, dtype, window, blocks):
    """A sequence of 700 tokens alone, and its end behind blocks that lie in no order."""
    length, held = 700, blocks * BLOCK_TOKENS
    pattern = Pattern(SCALE, causal=True, window=window)
    query, key, value = inputs(length, dtype)
    numbers = np.random.default_rng(0).permutation(blocks + 3)[:blocks].astype(np.int32)
    memory = BlockCache(blocks + 3)
    whole = PrefixBatch.unshared([np.zeros(length, np.int32)])
    keeping = replace(whole, new_blocks=numbers, new_rows=np.arange(held, dtype=np.int32))
    memory.layer(0, key, value).keep(key, value, pack(keeping))
    continued = replace(
        PrefixBatch.unshared([np.zeros(length - held, np.int32)] * 2),
        lengths=np.array([held, length - held - 5, 5], np.int32),
        parents=np.array([-1, 0, 1], np.int32),
        ids=np.zeros(length - held, np.int32),
        held=1,
        cached_blocks=numbers,
    )

    alone = attend(query, key, value, prefix_batch([length]), pattern)
    packed = pack(continued)
    fill = len(packed.ids) - (length - held)
    own = [torch.nn.functional.pad(one[:, held:], (0, 0, 0, fill)) for one in (query, key, value)]
    out = attend(*own, packed, pattern, memory.layer(0, key, value))

    assert torch.equal(out[: length - held], alone[held:])


def test_a_chain_of_runs_changes_no_bit(attend):
    """A sequence cut into runs of 1 to 300 tokens, each continuing the one before."""
    lengths = (1, 5, 130, 64, 300, 20)
    pattern = Pattern(SCALE, causal=True)
    query, key, value = inputs(sum(lengths))

    alone = attend(query, key, value, prefix_batch([sum(lengths)]), pattern)
    chain = attend(query, key, value, prefix_batch(lengths, [-1, 0, 1, 2, 3, 4]), pattern)

    assert torch.equal(chain, alone)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("shape", [(3, 1, 64), (9, 3, 64), (8, 8, 32)])
def test_a_short_run_behind_a_prefix_changes_no_bit(attend, shape, threads, thread_count):
    """Runs of 1 to 100 tokens, of any number of heads and threads: few rows are as good as many."""
    thread_count(threads)
    length, pattern = 230, Pattern(SCALE, causal=True)
    query, key, value = inputs(length, shape=shape)
    alone = attend(query, key, value, prefix_batch([length]), pattern)

    for prefix in (1, 7, 50, 127, 129, 200, 229):
        cut = attend(query, key, value, prefix_batch([prefix, length - prefix], [-1, 0]), pattern)
        short = [one[:, : prefix + 1].contiguous() for one in (query, key, value)]
        ends = attend(*short, prefix_batch([prefix + 1]), pattern)

        assert torch.equal(cut, alone)
        assert torch.equal(ends[: prefix + 1], alone[: prefix + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parents", [[-1, -1, -1, -1], [-1, 0, 1, 0]])
@pytest.mark.parametrize(
    "pattern", [Pattern(SCALE, True), Pattern(SCALE, True, 50), Pattern(SCALE, False, None, 2.0)]
)
def test_queries_of_a_few_rows_get_the_bits_that_they_get_among_all(
    attend, dtype, pattern, parents
):
    """Ends of runs, rows side by side, in no order and twice; what fills them up gets zero."""
    packed = prefix_batch([200, 77, 33, 300], parents if pattern.causal else None)
    query, key, value = inputs(len(packed.ids), dtype)
    rows = np.array([199, 276, 309, 609, 276, 40, 41, 42, 0, 350, 349], np.int32)
    few = torch.nn.functional.pad(query[:, rows], (0, 0, 0, 16 - len(rows)), value=1.0)

    whole = attend(query, key, value, packed, pattern)
    out = attend(few, key, value, packed, pattern, rows=rows)

    assert torch.equal(out[: len(rows)], whole[rows])
    assert not out[len(rows) :].any()


@pytest.mark.parametrize("row", [-1, 16, 1 << 20])
def test_a_row_that_is_no_runs_cannot_be_read(row):
    """The kernel reads nothing beyond what it was given."""
    assert native.is_available(CPU, torch.float32)
    arguments = *inputs(32), prefix_batch([16]), Pattern(SCALE, causal=True)

    with pytest.raises(RuntimeError, match="a row is of no run"):
        native.attend(*arguments, rows=np.array([row], np.int32))


def test_rows_outside_every_run_are_zero(attend):
    """Rows that fill the batch up carry nothing into later layers."""
    out = attend(*inputs(16), prefix_batch([5]), Pattern(SCALE, causal=True))

    assert out[5:].abs().max() == 0


# The operator's arguments as torch has them, from its native_functions.yaml.
FLASH = (
    "(Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, "
    "SymInt max_k, float dropout_p, bool is_causal, bool return_debug_mask, *, float? scale=None, "
    "SymInt? window_size_left=None, SymInt? window_size_right=None, Tensor? seqused_k=None, "
    "Tensor? alibi_slopes=None{more}) -> (Tensor output, Tensor softmax_logsumexp, "
    "Tensor rng_state, Tensor unused, Tensor debug_attn_mask)"
)
FLASHES = {
    "2_11": FLASH.format(more=""),  # 2.10's is the same
    "2_13": FLASH.format(more=", Tensor? block_table=None, int? num_splits=None"),
}


def flash(query, key, value, borders_q, borders_k, max_q, max_k, dropout, causal, debug, **options):
    """Attend as flash attention does: sequences aligned at their ends, (tokens, heads, width)."""
    left, right = options["window_size_left"], options["window_size_right"]
    assert (dropout, debug) == (0.0, False)
    assert causal == ((left, right) == (-1, 0))
    assert max_q == borders_q.diff().max()
    assert max_k == borders_k.diff().max()
    out = torch.empty_like(query)
    for i in range(len(borders_q) - 1):
        own = slice(borders_q[i], borders_q[i + 1])
        seen = slice(borders_k[i], borders_k[i + 1])
        keys, values = (x[seen].repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[own], keys) * options["scale"]
        last = len(keys) - len(scores[0])
        distance = torch.arange(len(scores[0]))[:, None] + last - torch.arange(len(keys))[None]
        hidden = (distance > left) & (left >= 0) | (-distance > right) & (right >= 0)
        weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        out[own] = torch.einsum("hqk,khd->qhd", weights, values)
    return (out, *(torch.empty(0) for _ in range(4)))


@pytest.fixture(params=FLASHES)
def flash_of(request):
    """Return the operator with the arguments of one version of torch; the kernel is stood in."""
    namespace = f"standin_{request.param}"
    with torch.library._scoped_library(namespace, "FRAGMENT") as library:
        library.define(f"flash{FLASHES[request.param]}")
        library.impl("flash", flash, "CPU")
        yield getattr(torch.ops, namespace).flash


def test_the_installed_flash_attention_is_one_of_those_tested():
    """What stands in for it has the arguments that this torch's operator has."""
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)

    assert schema.removeprefix("aten::_flash_attention_forward") in FLASHES.values()


@pytest.mark.parametrize(
    "pattern",
    [
        Pattern(SCALE, True),
        Pattern(SCALE, True, 50),
        Pattern(SCALE, False),
        Pattern(SCALE, False, 50),
    ],
)
@pytest.mark.parametrize("parents", [[-1, -1, -1], [-1, 0, 0]])
def test_flash_attention_is_told_each_runs_own_path(monkeypatch, flash_of, pattern, parents):
    """What the GPU's kernel is asked for is what blocks compute, in each torch's own words."""
    monkeypatch.setattr(varlen, "_flash", flash_of)
    packed = prefix_batch([200, 77, 33], parents if pattern.causal else None)
    arguments = inputs(len(packed.ids))

    out = varlen.attend(*arguments, packed, pattern)
    few = arguments[0][:, [309, 199, 0]], *arguments[1:]
    ends = varlen.attend(*few, packed, pattern, rows=np.array([309, 199], np.int32))

    expected = blocks.attend(*arguments, packed, pattern)
    fill = slice(310, 320)
    expected[fill] = dense(*(one[:, fill] for one in arguments), pattern).transpose(0, 1)
    assert (out - expected).abs().max() < 2e-6  # what fills the batch up is one more run
    assert torch.equal(ends, torch.cat([out[[309, 199]], torch.zeros_like(out[:1])]))


def test_flash_attention_does_not_cap():
    """A model with capped products must take another way."""
    with pytest.raises(ValueError, match="cap"):
        varlen.attend(*inputs(16), prefix_batch([5]), Pattern(SCALE, causal=True, softcap=2.0))


@pytest.mark.parametrize("foreign", ["attention_mask", "s_aux", "position_bias"])
def test_what_packed_attention_does_not_know_is_refused(foreign):
    """A mask, a sink or a bias that it would ignore makes the trunk run padded instead."""
    options = {"attention_mask": None, foreign: torch.zeros(1)}
    arguments = [one[None] for one in inputs(16)]

    with interface.over(prefix_batch([16])), pytest.raises(UnsupportedAttention):
        PackedAttention("blocks")(SimpleNamespace(is_causal=True), *arguments, **options)


def test_a_bidirectional_layer_never_shares():
    """A token that sees what follows it has another state in each sequence."""
    arguments = [one[None] for one in inputs(16)]

    with interface.over(prefix_batch([8, 8], [-1, 0])), pytest.raises(ValueError, match="shared"):
        PackedAttention("blocks")(SimpleNamespace(is_causal=False), *arguments, None)


def test_without_a_compiler_only_torchs_own_products_are_used():
    """`compiled=False` names nothing that must be compiled first."""
    assert interface.names(CPU, torch.float32, compiled=False) == ["assay-blocks"]
    assert interface.names(CPU, torch.float32, compiled=True) == ["assay-native", "assay-blocks"]
