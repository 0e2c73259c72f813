"""Each layer of a head against plain torch."""

import pytest
import torch
from pydantic import TypeAdapter

from assay.cards import mechanism
from assay.engine.head import VOCABULARY, Head, VocabularyHead
from assay.engine.readout import CardHeads, NextToken, Readout

ROWS, SIZE = 5, 6
STATE = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(1))
TENSORS = {
    name: torch.randn(*shape, generator=torch.Generator().manual_seed(len(name)))
    for name, shape in {
        "w": (4, SIZE),
        "w.t": (SIZE, 4),
        "b": (4,),
        "matrix": (SIZE,),
        "n.weight": (SIZE,),
        "n.bias": (SIZE,),
        "n.running_mean": (SIZE,),
        VOCABULARY: (9, SIZE),
    }.items()
} | {"n.running_var": torch.linspace(0.1, 2, SIZE), "one": torch.tensor([1.5])}


def head(*layers, **options):
    """Return a head of layers as a card writes them."""
    card = mechanism.Head(layers=TypeAdapter(list[mechanism.Layer]).validate_python(layers))
    return Head(card.model_copy(update=options), TENSORS.__getitem__)


def normed(state):
    """Return the tensors of "n" as torch's own batch normalization applies them."""
    names = ("running_mean", "running_var", "weight", "bias")
    return torch.nn.functional.batch_norm(state, *(TENSORS[f"n.{one}"] for one in names), eps=1e-3)


def expected_values(state):
    """Return the expected value of each run of three, spaced from 0 to 1."""
    values = torch.tensor([0.0, 0.5, 1.0])
    return torch.stack([(part * values).sum(1) for part in state.split(3, dim=1)], dim=1)


def softmax_in_parts(state):
    """Return softmax over each half, at temperature 2."""
    return torch.cat([(part / 2).softmax(-1) for part in state.chunk(2, dim=1)], dim=1)


LAYERS = {
    "linear": ({"weight": "w", "bias": "b"}, lambda x: x @ TENSORS["w"].T + TENSORS["b"]),
    "linear without bias": ({"weight": "w"}, lambda x: x @ TENSORS["w"].T),
    "linear transposed": (
        {"weight": "w.t", "bias": "b", "transposed": True},
        lambda x: x @ TENSORS["w.t"] + TENSORS["b"],
    ),
    "relu": ({}, torch.relu),
    "tanh": ({}, torch.tanh),
    "gelu": ({}, torch.nn.GELU()),
    "silu": ({}, torch.nn.SiLU()),
    "selu": ({}, torch.nn.SELU()),
    "leaky_relu": ({}, torch.nn.LeakyReLU()),
    "sigmoid": ({}, torch.sigmoid),
    "softmax": ({}, lambda x: x.softmax(-1)),
    "softmax in parts": ({"groups": 2, "temperature": 2.0}, softmax_in_parts),
    "batch_norm": ({"name": "n", "eps": 1e-3}, normed),
    "standardize": (
        {"mean": "n.running_mean", "var": "n.running_var"},
        lambda x: (x - TENSORS["n.running_mean"]) / (TENSORS["n.running_var"].sqrt() + 1e-8),
    ),
    "standardize without mean": (
        {"var": "n.running_var", "eps": 0.5},
        lambda x: x / (TENSORS["n.running_var"].sqrt() + 0.5),
    ),
    "scale": ({"factor": -2.0}, lambda x: -2 * x),
    "scale by a tensor": ({"factor": "one"}, lambda x: 1.5 * x),
    "scale by a vector": ({"factor": "matrix"}, lambda x: x * TENSORS["matrix"]),
    "mean": (
        {"groups": 2},
        lambda x: torch.stack([x[:, :3].mean(1), x[:, 3:].mean(1)], dim=1),
    ),
    "take": ({"places": [4, 0, 0]}, lambda x: torch.stack([x[:, 4], x[:, 0], x[:, 0]], dim=1)),
    "expected": ({"low": 0.0, "high": 1.0, "bins": 3}, expected_values),
    "normalize": ({}, lambda x: x / x.norm(dim=1, keepdim=True)),
    "vocabulary": ({"tokens": [7, 2]}, lambda x: x @ TENSORS[VOCABULARY][[7, 2]].T),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_what_torch_computes(name):
    """Row by row."""
    options, expected = LAYERS[name]

    found = head({"op": name.split(" ", maxsplit=1)[0], **options})(STATE)

    torch.testing.assert_close(found, expected(STATE))


def test_every_layer_of_a_card_is_tried():
    """A new one needs a line above."""
    schema = TypeAdapter(mechanism.Layer).json_schema()
    assert {name.split(" ", maxsplit=1)[0] for name in LAYERS} == set(
        schema["discriminator"]["mapping"]
    )


def test_batch_norm_does_not_look_at_the_batch():
    """The running moments of the file, whatever else is there."""
    norm = head({"op": "batch_norm", "name": "n"})

    assert torch.equal(norm(STATE)[:1], norm(STATE[:1]))


def test_layers_follow_one_another():
    """In the card's order."""
    found = head({"op": "relu"}, {"op": "linear", "weight": "w"}, {"op": "take", "places": [1]})

    torch.testing.assert_close(found(STATE), (torch.relu(STATE) @ TENSORS["w"].T)[:, 1:2])


def test_joined_rows_are_read_side_by_side():
    """Two rows of state make one of numbers."""
    found = head({"op": "take", "places": [0, SIZE]}, joined=2)(STATE[:4])

    assert found.tolist() == [[STATE[0, 0], STATE[1, 0]], [STATE[2, 0], STATE[3, 0]]]


@pytest.mark.parametrize("rows", [0, 1, 64, 65, 150])
def test_the_following_token_has_its_log_probability(rows):
    """Over the whole vocabulary."""
    generator = torch.Generator().manual_seed(3)
    state = torch.randn(rows, SIZE, generator=generator)
    following = torch.randint(9, (rows,), generator=generator)
    vocabulary = VocabularyHead(TENSORS[VOCABULARY].to(torch.bfloat16))

    found = Readout("last", NextToken(vocabulary)).score(state, following)

    logits = state @ TENSORS[VOCABULARY].to(torch.bfloat16).float().T
    torch.testing.assert_close(found, logits.log_softmax(1).gather(1, following[:, None]))


@pytest.mark.parametrize("joined", [1, 2])
@pytest.mark.parametrize("items", [1, 63, 64, 65, 200])
def test_a_head_gets_the_same_number_of_rows_in_any_batch(joined, items):
    """On a GPU a product's order of sums follows from it."""
    shapes = []

    def product(state):
        shapes.append(tuple(state.shape))
        return state @ TENSORS["w"].T

    product.joined = joined
    state = torch.randn(items * joined, SIZE)
    wide = state.reshape(items, -1)[:, :SIZE]

    def on_joined(rows):
        return product(rows.reshape(len(rows) // joined, -1)[:, :SIZE])

    on_joined.joined = joined
    found = Readout("last", CardHeads({"reward": on_joined})).score(state)

    torch.testing.assert_close(found, wide @ TENSORS["w"].T)
    assert shapes == [(64, SIZE)] * -(-items // 64)
