"""Fused layers and invariant products as Triton interprets them: see `test_fused.py`.

Triton must be told to interpret before it is first imported. Tiles are large here: the interpreter
takes its time for each program, not for each number.
"""

import importlib
import os

import numpy as np
import pytest
import torch

from assay.engine import products, verification
from assay.engine.fused import fusion, parts
from assay.errors import CheckpointError
from tests.engine import interpreted
from tests.fidelity import checkpoints, reference, texts

assert os.environ["TRITON_INTERPRET"] == "1"
_exact_products = interpreted._exact_products
HALF, SINGLE = torch.float16, torch.float32
# Of a number's size, or of 1: in float32 what sums in another order make of it, in float16 one unit
# in its last place.
LIMITS = {SINGLE: 1e-6, HALF: 2.0**-10}
MODELS = {  # with what of them is fused
    "llama": ["LlamaAttention", "LlamaDecoderLayer", "LlamaMLP", "LlamaRMSNorm"],
    "qwen3": ["Qwen3Attention", "Qwen3DecoderLayer", "Qwen3MLP", "Qwen3RMSNorm"],
    "gemma2": ["Gemma2Attention", "Gemma2DecoderLayer", "Gemma2MLP", "Gemma2RMSNorm"],
    "mistral": ["MistralAttention", "MistralDecoderLayer", "MistralMLP", "MistralRMSNorm"],
    "phi3": ["Phi3Attention", "Phi3DecoderLayer", "Phi3MLP", "Phi3RMSNorm"],
    "modernbert": ["ModernBertAttention", "ModernBertMLP"],
    "gpt-neox": ["GPTNeoXAttention"],
    "bert": [],
}


@pytest.fixture(autouse=True)
def _large_tiles(monkeypatch):
    monkeypatch.setattr(parts, "_TILE", 1 << 16)
    monkeypatch.setattr(parts, "_WIDE", 256)


def normal(*shape, dtype=SINGLE, seed=0):
    """Return random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gap(found, expected):
    """Return the largest difference, over a number's size where that is above 1."""
    assert found.dtype == expected.dtype
    size = expected.double().abs().clamp(min=1.0)
    return float(((found.double() - expected.double()).abs() / size).max())


def trunk_of(name, dtype):
    """Return a random trunk of two layers, which attends by transformers' own eager code."""
    kind, options = checkpoints.ARCHITECTURES[name]
    import transformers

    few = {"num_hidden_layers": 2, "pad_token_id": 0, "use_cache": False}
    config = getattr(transformers, kind)(vocab_size=50, **options | few)
    torch.manual_seed(0)
    trunk = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    checkpoints._spread(trunk)
    return trunk.to(dtype).requires_grad_(requires_grad=False)


def fused(trunk):
    """Fuse a trunk by a pass over a row of tokens; return what was made."""
    return fusion.fuse(trunk, lambda: states(trunk))


def states(trunk):
    """Return a trunk's states of a row of tokens."""
    return trunk(input_ids=torch.arange(1, 41)[None]).last_hidden_state


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, SINGLE) for name in MODELS), ("qwen3", HALF), ("gemma2", HALF)]
)
def test_a_trunk_computes_by_the_kernels_what_it_computes_itself(name, dtype):
    """Each architecture, with what of it is fused; undone, it has its own bits."""
    trunk = trunk_of(name, dtype)
    expected = states(trunk)

    made = fused(trunk)

    assert made.notes == []
    names = {module.__name__ for classes in made.former for module in classes.values()}
    assert sorted(names) == MODELS[name]
    # Two layers: a number that is rounded otherwise once is multiplied, summed and rounded again.
    assert gap(states(trunk), expected) < 4 * LIMITS[dtype]
    made.undo()
    assert torch.equal(states(trunk), expected)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Mistral", "Gemma2", "Olmo2"])
def test_a_norm_rounds_where_its_module_does(name, dtype):
    """Before its weight or after it, which stands around 1 or around 0: of each class the one way.

    A sum in another order is rounded otherwise now and then, an order of roundings in many places.
    """
    modeling = importlib.import_module(
        f"transformers.models.{name.lower()}.modeling_{name.lower()}"
    )
    norm = getattr(modeling, f"{name}RMSNorm")(72).requires_grad_(False).to(dtype)
    norm.weight.copy_(normal(72, seed=1))
    trunk = torch.nn.Sequential(norm)
    state = normal(3, 21, 72, dtype=dtype, seed=2) * 3
    expected = norm(state)

    made = fusion.fuse(trunk, lambda: trunk(state))

    assert made.notes == []
    assert gap(norm(state), expected) < LIMITS[dtype]
    assert dtype == SINGLE or (norm(state) != expected).double().mean() < 0.01
    assert norm.scale.has_offset == (name == "Gemma2")
    assert dtype == SINGLE or norm.scale.rounds_first == (name not in {"Gemma2", "Olmo2"})


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("has_first", [False, True])
def test_a_sum_is_rounded_before_it_is_normalized(dtype, has_first):
    """As a layer does that adds, with a norm before the sum and without; of any width."""
    state, residual = (normal(20, 72, dtype=dtype, seed=seed) for seed in (1, 2))
    weight, other = (normal(72, dtype=dtype, seed=seed) for seed in (3, 4))
    norm, first = parts.Norm(weight, 1e-5), parts.Norm(other, 1e-6)

    def own(numbers, of):
        spread = torch.rsqrt(numbers.double().square().mean(-1, keepdim=True) + of.eps)
        return (of.weight * (numbers.double() * spread).to(dtype)).to(dtype)

    expected = residual + (own(state, first) if has_first else state)
    total, normed = parts.norm(
        *(state, parts.Scale(False, True), norm),
        residual=residual,
        first=first if has_first else None,
    )

    assert gap(total, expected) < LIMITS[dtype]
    assert gap(normed, own(total, norm)) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("activation", parts.ACTIVATIONS)
def test_a_gate_is_the_activation_times_what_it_lets_through(dtype, activation):
    """Rounded after either; parts of one product."""
    whole = normal(21, 2 * 90, dtype=dtype)
    gated, up = whole.chunk(2, dim=-1)
    expected = parts.ACTIVATIONS[activation](gated) * up

    assert gap(parts.gate(gated[None], up[None], activation)[0], expected) < LIMITS[dtype]


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("rotated", [24, 16])
def test_a_rotation_turns_each_heads_first_part(dtype, rotated):
    """Queries and keys that are parts of one product; what isn't rotated stays."""
    from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

    heads = normal(1, 19, 6 * 24, dtype=dtype).view(1, 19, 6, 24).transpose(1, 2)
    angles = normal(1, 19, rotated).to(dtype)
    given = heads[:, :4], heads[:, 4:], angles.cos(), angles.sin()

    for found, expected in zip(
        parts.rotate(*given, rounds_products=True), apply_rotary_pos_emb(*given), strict=True
    ):
        assert found.shape == expected.shape
        assert gap(found, expected) < LIMITS[dtype]
        assert torch.equal(found[..., rotated:], expected[..., rotated:])


def test_a_row_has_its_bits_in_any_company():
    """Norms, rotations and gates of one row alone and among others, wherever it stands."""
    state, angles = normal(45, 4, 24), normal(1, 45, 24)
    norm = parts.Norm(normal(24), 1e-6)

    def results(rows):
        own = state[rows]
        total, normed = parts.norm(own, parts.Scale(True, True), norm, residual=own.flip(-1))
        query, _ = parts.rotate(
            *(own.transpose(0, 1)[None],) * 2,
            *(angles[:, rows].cos(), angles[:, rows].sin()),
            rounds_products=False,
            norms=(norm, norm),
            scale=parts.Scale(False, False),
        )
        return total, normed, query[0].transpose(0, 1), parts.gate(own, own.flip(-1), "silu")

    whole = results(slice(None))
    for rows in (slice(0, 1), slice(7, 8), slice(3, 40)):
        for found, expected in zip(results(rows), whole, strict=True):
            assert torch.equal(found, expected[rows])


def test_what_a_kernel_does_not_compute_stays_as_it_is():
    """A norm that also shifts, and so its layer: that is said, and the rest is fused."""
    trunk = trunk_of("qwen3", SINGLE)
    own = type(trunk.norm)

    class ShiftingRMSNorm(own):
        def forward(self, hidden_states):
            return own.forward(self, hidden_states) + 0.01

    for layer in trunk.layers:
        layer.post_attention_layernorm.__class__ = ShiftingRMSNorm
    expected = states(trunk)

    made = fused(trunk)

    (note,) = made.notes
    assert note.startswith("ShiftingRMSNorm isn't fused, slower: off by ")
    names = {module.__name__ for classes in made.former for module in classes.values()}
    assert sorted(names) == ["Qwen3Attention", "Qwen3MLP", "Qwen3RMSNorm"]
    assert gap(states(trunk), expected) < 4 * LIMITS[SINGLE]


def test_a_rotation_of_another_kind_stays_as_it_is():
    """Cohere's turns numbers side by side, not those of two halves."""
    from transformers import AutoModel, CohereConfig

    sizes = checkpoints.GROUPED | {"num_hidden_layers": 1, "use_cache": False, "pad_token_id": 0}
    config = CohereConfig(vocab_size=50, **sizes)
    trunk = AutoModel.from_config(config, attn_implementation="eager").eval()
    trunk.requires_grad_(requires_grad=False)
    expected = states(trunk)

    made = fused(trunk)

    assert made.notes == ["CohereAttention isn't fused, slower: its rotation is of another kind"]
    assert gap(states(trunk), expected) < 4 * LIMITS[SINGLE]


def test_a_served_model_keeps_its_scores(tmp_path):
    """Alone, together, behind a shared prefix and a kept one; with its last layer narrowed."""
    few = {"vocabulary": texts.vocabulary(), "num_hidden_layers": 1}
    folder = checkpoints.make(tmp_path / "qwen3", "qwen3", **few)
    items = texts.generated(3, longest_words=12)

    trunk = reference.load(folder, attention="blocks", fused=True)

    assert trunk.warnings == []
    assert trunk.last_layer is not None
    assert type(trunk.model.base_model.norm).is_fine
    alone = reference.alone(trunk, items)
    assert abs(alone - reference.eager(folder, items)).max() < reference.FLOAT32_TOLERANCE
    assert abs(reference.together(trunk, items, 3, seed=0) - alone).max() < 1e-6
    verification.keep_prefixes(trunk, 1 << 20)
    whole = [np.concatenate([items[0], ids[:9]]) for ids in items]
    scores, computed = reference.kept(trunk, [whole[:1], whole[1:]])
    assert computed < sum(map(len, whole))
    assert abs(np.sort(scores) - np.sort(reference.alone(trunk, whole))).max() < 1e-6


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize(("outs", "width"), [(96, 64), (130, 100)])
def test_a_product_has_a_rows_bits_among_any_number(dtype, outs, width):
    """Equal to the exact product but for rounding; with a bias and without."""
    state = normal(300, width, dtype=dtype)
    for has_bias in (False, True):
        linear = torch.nn.Linear(width, outs, has_bias, dtype=dtype).requires_grad_(False)
        product = products.InvariantLinear(linear)

        whole = product(state)

        assert gap(whole.double(), linear.double()(state.double())) < LIMITS[dtype]
        linear.to(dtype)
        for rows in (1, 7, 64, 300):
            assert torch.equal(product(state[:rows]), whole[:rows])
            assert torch.equal(product(state[300 - rows :]), whole[300 - rows :])


def test_a_served_model_is_invariant(tmp_path):
    """All its products are ours; in float16, since a CPU lays out the weights of others."""
    few = {"vocabulary": texts.vocabulary(), "num_hidden_layers": 1}
    folder = checkpoints.make(tmp_path / "qwen3", "qwen3", **few)
    items = texts.generated(3, longest_words=12)

    trunk = reference.load(folder, HALF, attention="blocks", invariant=True)

    (said,) = trunk.warnings
    assert said.endswith("all the same: layers that aren't fused")
    layer = trunk.model.base_model.layers[0]
    assert isinstance(layer.mlp.down_proj, products.InvariantLinear)
    alone = reference.alone(trunk, items)
    assert (reference.together(trunk, items, 3, seed=0) == alone).all()
    plain = reference.alone(reference.load(folder, HALF, attention="blocks"), items)
    assert abs(alone - plain).max() < 5e-3


def test_what_is_not_invariant_all_the_same_is_said(tmp_path):
    """Experts multiply by products of their own; a padded model attends by torch's."""
    options = {"vocabulary": texts.vocabulary(), "num_hidden_layers": 1}
    mixtral = checkpoints.make(tmp_path / "mixtral", "mixtral", **options)
    deberta = checkpoints.make(tmp_path / "deberta", "deberta-v3", **options)

    (experts,) = reference.load(mixtral, HALF, attention="blocks", invariant=True).warnings
    said = reference.load(deberta, HALF, padded=True, invariant=True).warnings

    assert experts.startswith("its bits may depend on the batch all the same: Mixtral")
    assert any("attention in padded batches" in one for one in said)


def test_what_can_not_be_invariant_is_refused(tmp_path, monkeypatch):
    """It isn't served with less than was asked for."""
    options = {"vocabulary": texts.vocabulary(), "num_hidden_layers": 1}
    folder = checkpoints.make(tmp_path / "qwen3", "qwen3", **options)
    monkeypatch.setattr(products, "_SHAPES", {})

    with pytest.raises(CheckpointError, match="invariant can't be had: couldn't run: KeyError"):
        reference.load(folder, HALF, attention="blocks", invariant=True)
