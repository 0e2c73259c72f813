"""Linear layers in eight bits: what a score costs, and that its bits depend on no company."""

import contextlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

from assay.cards.card import Card
from assay.cards.code import Trust
from assay.engine import compilation, loading, quantization, verification
from assay.engine.quantization import Change, Fp8Linear, Int8Linear
from assay.errors import CheckpointError
from assay.scheduling.policy import WARM_UP
from assay.worker_protocol import Loaded, ModelSpec, Start
from tests.fidelity import checkpoints, quantizing, reference, texts

ITEMS = texts.generated(12, longest_words=60)
KINDS = {"int8": Int8Linear, "fp8": Fp8Linear}
WITHOUT_LAYERS = {"gpt2"}  # of class Linear
TRIED = [
    *((name, torch.float32) for name in sorted(set(checkpoints.ARCHITECTURES) - WITHOUT_LAYERS)),
    *((name, torch.bfloat16) for name in ("qwen3", "modernbert")),
]
NOT_BIT_EQUAL = {"mixtral"}  # an expert's sums depend on how many rows it sees
CPU = torch.device("cpu")
SHORT = replace(WARM_UP, sizes=(256,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make each architecture's checkpoint once."""
    root = tmp_path_factory.mktemp("quantize")

    def make(name):
        if not (root / name).exists():
            checkpoints.make(root / name, name, vocabulary=texts.vocabulary())
        return root / name

    return make


def rounded(state, most):
    """Return what rows are rounded to, in float64, and their scales."""
    scales = state.abs().amax(-1, keepdim=True).float() / most
    return state.float() / scales, scales


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [None, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_a_product_is_that_of_the_rounded_numbers(kind, bias, dtype):
    """Weights by output, states by row; all else in float32, and the result in its dtype."""
    torch.manual_seed(0)
    weight = (torch.randn(40, 96) * torch.rand(40, 1)).to(dtype)
    state = (torch.randn(2, 16, 96) * torch.rand(2, 16, 1)).to(dtype)
    state[0, 3] = 0
    shift = None if bias is None else torch.randn(bias).to(dtype)

    found = KINDS[kind](weight, shift)(state)

    most = {"int8": 127, "fp8": 448}[kind]
    (codes, scales), (rows, row_scales) = rounded(weight, most), rounded(state, most)
    to_codes = torch.round if kind == "int8" else lambda x: x.to(torch.float8_e4m3fn).float()
    product = to_codes(rows).nan_to_num().double() @ to_codes(codes).double().T
    expected = product * row_scales * scales.T + (0 if shift is None else shift.double())
    assert found.dtype == dtype
    steps = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}
    coarsest = torch.bfloat16 if kind == "fp8" and dtype != torch.float32 else dtype
    assert (found - expected).abs().max() <= steps[coarsest] * expected.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_keeps_its_bits_whatever_stands_beside_it(kind):
    """Alone, in any place, and beside rows a thousand times as large."""
    torch.manual_seed(0)
    layer = KINDS[kind](torch.randn(48, 64), torch.randn(48))
    state = torch.randn(64, 64)
    whole = layer(state)
    order = torch.randperm(64)
    loud = torch.cat([state[:16], 1000 * torch.randn(112, 64)])

    assert torch.equal(layer(state[order]), whole[order])
    assert torch.equal(layer(loud)[:16], whole[:16])
    for begin in range(0, 64, 16):
        assert torch.equal(layer(state[begin : begin + 16]), whole[begin : begin + 16])


def test_what_is_no_number_stays_none():
    """A row with NaN or infinity in it gives no score that looks like one."""
    layer = Int8Linear(torch.randn(16, 32), None)
    for bad in (float("nan"), float("inf")):
        state = torch.randn(16, 32)
        state[5, 7] = bad

        found = layer(state)

        assert not found[5].isfinite().any()
        assert found[[4, 6]].isfinite().all()


@pytest.mark.parametrize(("name", "dtype"), TRIED)
def test_scores_stay_near_the_plain_ones_with_the_same_bits_in_any_batch(folder, name, dtype):
    """Every architecture in int8: alone, shuffled among others, behind a shared prefix, kept."""
    plain = reference.load(folder(name), dtype)
    trunk = reference.load(folder(name), dtype, quantize="int8")

    single = reference.alone(trunk, ITEMS)

    spread = reference.alone(plain, ITEMS).std()
    gap = np.abs(single - reference.alone(plain, ITEMS)).max()
    assert 0 < gap < 0.35 * spread
    assert trunk.forward == plain.forward
    for seed, size in enumerate((2, 5, 12)) if name not in NOT_BIT_EQUAL else ():
        assert (reference.together(trunk, ITEMS, size, seed) == single).all()
    if trunk.shares_prefixes and name not in NOT_BIT_EQUAL:
        prefix, tails = ITEMS[0], ITEMS[1:5]
        joined = [np.concatenate([prefix, tail]) for tail in tails]
        assert (reference.shared(trunk, prefix, tails) == reference.alone(trunk, joined)).all()
        verification.keep_prefixes(trunk, 1 << 20)
        scores, computed = reference.kept(trunk, [joined[:1], joined[1:]])
        assert computed < sum(map(len, joined))
        assert (scores == reference.alone(trunk, joined)).all()


@pytest.mark.parametrize("name", ["qwen3", "modernbert", "mixtral"])
def test_linear_layers_of_blocks_are_quantized_and_nothing_else(folder, name):
    """Those of the last layer's copy, too; heads, embeddings, norms and routers are not."""
    trunk = reference.load(folder(name), quantize="int8")

    blocks = [
        block for blocks in compilation.repeated_blocks(trunk.model.base_model) for block in blocks
    ]
    kinds = {type(module) for block in blocks for module in block.modules()}
    assert Int8Linear in kinds
    assert not {torch.nn.Linear, compilation.PrepackedLinear} & kinds
    inside = {id(module) for block in blocks for module in block.modules()}
    others = [module for module in trunk.model.modules() if id(module) not in inside]
    assert not any(isinstance(module, Int8Linear) for module in others)
    if trunk.last_layer is not None:
        kinds = {type(module) for module in trunk.last_layer._whole.modules()}
        assert not {torch.nn.Linear, compilation.PrepackedLinear} & kinds


def test_a_model_without_such_layers_is_refused(folder):
    """GPT-2's are transposed, of a class of their own."""
    with pytest.raises(CheckpointError, match="no linear layers that could be quantized"):
        reference.load(folder("gpt2"), quantize="int8")


def spec(folder, **options):
    """Return what a worker would be told to load."""
    return ModelSpec(
        "judge",
        folder,
        **{"card": Card(), "dtype": "auto", "max_tokens": 64, "prefix_cache_mb": None, **options},
    )


def start(folder, **options):
    """Load a model as a worker does; return it and what the worker says of it."""
    said = []
    told = spec(folder, **options)
    loader = loading.Loader(Start("cpu", None, "off", (told,), SHORT), said.append)
    loader.load(told)
    loader.warm_up(told)
    return loader.runners["judge"], said[-1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["the operator", "the card"])
def test_the_start_says_what_it_costs(folder, kind, by):
    """In the warnings, which are logged and listed; by the operator's wish or the card's."""
    card = Card.model_validate({"trunk": {"quantize": kind}})
    options = {"quantize": kind} if by == "the operator" else {"card": card}

    trunk, loaded = start(folder("qwen3"), **options)

    warning = loaded.warnings[-1]
    assert isinstance(loaded, Loaded)
    assert loaded.quantized == kind == trunk.quantized.kind
    assert warning.startswith(f"its linear layers are rounded to {kind}: on 37 sequences of random")
    assert ("a CPU emulates it" in warning) == (kind == "fp8")
    assert 0 < trunk.quantized.mean < trunk.quantized.largest < trunk.quantized.spread


def test_an_operator_may_leave_a_card_s_wish_aside(folder):
    """Nothing is rounded, and nothing said."""
    card = Card.model_validate({"trunk": {"quantize": "int8"}})

    trunk, loaded = start(folder("qwen3"), card=card, quantize="none")

    assert (trunk.quantized, loaded.quantized) == (None, "none")
    assert not any("rounded" in warning for warning in loaded.warnings)


def test_what_scores_moved_by_is_counted_over_all_pairs():
    """Means and the most over all numbers; a pair that becomes a tie has changed its order, too."""
    before = torch.tensor([[0.0], [1.0], [2.0], [4.0]])
    after = torch.tensor([[0.5], [1.0], [1.0], [4.0]])

    change = Change.between("int8", before, after)

    assert (change.sequences, change.mean, change.largest) == (4, 0.375, 1.0)
    assert change.flipped == 1 / 6
    assert change.spread == before.std()
    assert "0.38 on average and 1 at most" in str(change)
    assert str(change).endswith("16.7% of pairs change their order")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # inductor's own imports
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("int8", torch.float32), ("int8", torch.bfloat16), ("fp8", torch.float32)],
)
def test_compiled_blocks_keep_a_quantized_model_s_bits_in_any_batch(folder, kind, dtype):
    """inductor rounds, and doesn't look into the products."""
    trunk = reference.load(folder("qwen3"), dtype, quantize=kind)
    before = reference.alone(trunk, ITEMS)

    verification.compile_blocks(trunk)

    single = reference.alone(trunk, ITEMS)
    assert trunk.is_compiled
    assert np.abs(single - before).max() <= trunk.quantized.largest
    for seed, size in enumerate((2, 5, 12)):
        assert (reference.together(trunk, ITEMS, size, seed) == single).all()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (quantizing.int8(), r"quantized already \(bitsandbytes, 8 bit\)"),
        (quantizing.gptq(4, 32), r"quantized already \(GPTQ\)"),
        (
            ({"quant_method": "fp8", "weight_block_size": [32, 32]}, quantizing.fp8((32, 32))),
            r"quantized already \(FP8\)",
        ),
        (quantizing.compressed("int", 8, "channel"), r"quantized already \(compressed-tensors\)"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_checkpoint_is_not_rounded_a_second_time(tmp_path, kind, how, said):
    """In a sentence, before a weight is read."""
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=300)
    quantizing.quantize(folder, *how)

    with pytest.raises(CheckpointError, match=said):
        quantization.quantizer(kind, CPU, folder, None)


FP8_IN_ROWS = {
    "by tensor": ({"quant_method": "fp8", "weight_block_size": None}, quantizing.fp8(None)),
    "by row": quantizing.compressed("float", 8, "channel"),
    "by tensor, compressed": quantizing.compressed("float", 8, "tensor"),
}


@pytest.mark.parametrize("layout", FP8_IN_ROWS)
def test_fp8_weights_stay_what_they_are_in_the_files(tmp_path, layout):
    """With the scales that they have there; activations are rounded beside them."""
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=texts.vocabulary())
    quantizing.quantize(folder, *FP8_IN_ROWS[layout])
    stored = load_file(folder / "model.safetensors")

    trunk, loaded = start(folder, quantize="fp8")

    layers = {
        path: layer for path, layer in trunk.model.named_modules() if isinstance(layer, Fp8Linear)
    }
    assert len(layers) == 3 * 7
    for path, layer in layers.items():
        codes = layer.codes.to_dense() if layer.codes.is_mkldnn else layer.codes
        scale = stored.get(f"{path}.weight_scale_inv", stored.get(f"{path}.weight_scale"))
        assert torch.equal(codes, stored[f"{path}.weight"].float())
        assert torch.equal(layer.scale, scale.float().reshape(1, -1).expand(1, len(codes)))
    warning = loaded.warnings[-1]
    assert "rounded to fp8" in warning
    assert not any("are expanded" in said for said in loaded.warnings)


def test_int8_of_an_fp8_checkpoint_is_refused(tmp_path):
    """Only fp8 leaves its weights what they are."""
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=300)
    quantizing.quantize(folder, *FP8_IN_ROWS["by tensor"])

    with pytest.raises(CheckpointError, match="would round it a second time; leave quantize out"):
        quantization.quantizer("int8", CPU, folder, None)


def test_a_model_of_its_own_code_is_refused(folder):
    """Its layers are its own; nothing is loaded."""
    trust = Trust("0" * 64, folder("qwen3"))

    with pytest.raises(CheckpointError, match="runs by its own code, whose layers are left as"):
        start(folder("qwen3"), quantize="int8", trust=trust)


@pytest.mark.parametrize(
    ("kind", "capability", "said"),
    [
        ("fp8", (8, 6), "takes a GPU of compute capability 8.9, and cuda:0 has 8.6"),
        ("fp8", (8, 9), ""),
        ("fp8", (9, 0), ""),
        ("int8", (7, 5), "takes a GPU of compute capability 8.0, and cuda:0 has 7.5"),
        ("int8", (8, 0), ""),
    ],
)
def test_a_gpu_that_has_no_such_products_is_refused(folder, monkeypatch, kind, capability, said):
    """By its compute capability, which stands in for one here."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    device = torch.device("cuda:0")

    assert quantization.obstacle(kind, device).endswith(said)
    assert bool(said) == bool(quantization.obstacle(kind, device))
    monkeypatch.setattr(torch.version, "hip", "7.1")
    with pytest.raises(CheckpointError, match="written for CPUs and NVIDIA's GPUs"):
        quantization.quantizer(kind, device, folder("qwen3"), None)


@pytest.mark.parametrize("count", [16, 48])
@pytest.mark.parametrize(("kind", "device"), [("int8", "meta"), ("fp8", "cuda")])
def test_a_gpu_s_operators_take_what_they_are_given(kind, device, count):
    """By torch's own checks of shapes, strides and dtypes, on tensors without numbers."""
    with FakeTensorMode() if device == "cuda" else contextlib.nullcontext():
        weight = torch.empty(48, 64, device=device, dtype=torch.bfloat16)
        layer = KINDS[kind](weight, None)
        state = torch.empty(1, count, 64, device=device, dtype=torch.bfloat16)
        if kind == "int8":
            rows, _ = quantization._rounded_int8(state)
            product = quantization._int8_product(rows, layer.codes, layer.scale)
        else:
            rows, scales = quantization._rounded_fp8(state)
            product = quantization._fp8_product(rows, scales, layer.codes, layer.scale)
        result = layer(state)

    assert (product.shape, product.dtype) == ((1, count, 48), torch.float32)
    assert (result.shape, result.dtype, result.device.type) == (
        (1, count, 48),
        weight.dtype,
        device,
    )


def test_the_gpu_s_operators_have_the_parameters_that_are_given():
    """As torch 2.11 to 2.13 have them; another order or name fails here, not on a GPU."""
    scaled = torch.ops.aten._scaled_mm.default._schema

    assert [argument.name for argument in scaled.arguments] == [
        *("self", "mat2", "scale_a", "scale_b", "bias", "scale_result", "out_dtype"),
        "use_fast_accum",
    ]
    assert str(torch.ops.aten._int_mm.default._schema).endswith(
        "(Tensor self, Tensor mat2) -> Tensor"
    )
