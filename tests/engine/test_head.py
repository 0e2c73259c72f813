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
        "across": (2, 3),
        "each": (2, 3, 2),
        "each of all": (4, SIZE, 2),
        "each bias": (2, 2),
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


def deviations(state):
    """Return the standard deviation of each run of three, as probabilities of 0, 1/2 and 1."""
    values = torch.tensor([0.0, 0.5, 1.0])
    parts = state.softmax(-1).split(3, dim=1)
    variances = [(part * (values - (part * values).sum(1)[:, None]) ** 2).sum(1) for part in parts]
    return torch.stack(variances, dim=1).sqrt()


def across_parts(state):
    """Return for each of two places what three parts have there, through a matrix."""
    places = [state[:, place::2] @ TENSORS["across"].T for place in range(2)]
    return torch.stack([places[place][:, row] for row in range(2) for place in range(2)], dim=1)


def of_each(state):
    """Return what each of two members makes of its own half."""
    halves = state.chunk(2, dim=1)
    return torch.cat(
        [half @ TENSORS["each"][i] + TENSORS["each bias"][i] for i, half in enumerate(halves)], 1
    )


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
    "linear across parts": ({"weight": "across", "groups": 3}, across_parts),
    "linear_each": ({"weight": "each", "bias": "each bias"}, of_each),
    "linear_each of the same": (
        {"weight": "each of all"},
        lambda x: torch.cat([x @ weight for weight in TENSORS["each of all"]], dim=1),
    ),
    "relu": ({}, torch.relu),
    "tanh": ({}, torch.tanh),
    "gelu": ({}, torch.nn.GELU()),
    "silu": ({}, torch.nn.SiLU()),
    "selu": ({}, torch.nn.SELU()),
    "leaky_relu": ({}, torch.nn.LeakyReLU()),
    "sigmoid": ({}, torch.sigmoid),
    "exp": ({}, torch.exp),
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
    "norm": ({}, lambda x: (x**2).sum(1, keepdim=True).sqrt()),
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
    alone = {name.split(" ", maxsplit=1)[0] for name in LAYERS}
    assert alone | {"deviation"} == set(schema["discriminator"]["mapping"])


def test_a_deviation_is_of_probabilities():
    """What `expected` gives the mean of has this spread around it."""
    layers = [{"op": "softmax"}, {"op": "deviation", "low": 0.0, "high": 1.0, "bins": 3}]

    torch.testing.assert_close(head(*layers)(STATE), deviations(STATE))


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
