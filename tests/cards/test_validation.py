"""A card held against the files: each promise that can't be kept is named by its field."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from assay.cards import card as cards
from assay.cards import catalogue, headers, validation
from assay.cards.card import Card
from tests.families import attributes, contrast, pairwise, process, scalar

HIDDEN = 4
TWO = [{"op": "linear", "weight": "score.weight"}]
STOCK = {"score": {"outputs": ["bad", "good"]}}
HEADED = {"heads": {"reward": {"layers": TWO}}}
BILINEAR = {"preference": {"form": "bilinear"}}
LAYOUTS = [
    layout
    for module in (scalar, attributes, pairwise, process, contrast)
    for layout in module.LAYOUTS
]


def folder_with(folder, **shapes):
    """Write a checkpoint of zeros: a trunk, a head of two numbers, and what is given."""
    every = {"model.embed_tokens.weight": (8, HIDDEN), "score.weight": (2, HIDDEN), **shapes}
    arrays = {name: np.zeros(shape, np.float32) for name, shape in every.items()}
    save_file(arrays, folder / "model.safetensors")
    return folder


def problems(folder, card):
    """Return what is wrong with a card over a folder."""
    config = {"hidden_size": HIDDEN}
    return validation.problems(folder, Card(**card), config, headers.tensors(folder))


def head(*layers, **more):
    """Return a card whose head 'reward' has these layers."""
    return {"heads": {"reward": {"layers": list(layers)}}, **more}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_familys_card_fits_its_own_files(layout, tmp_path):
    """None is refused for what it says."""
    layout.build(tmp_path)
    card = cards.read(catalogue.embedded() / layout.card)
    tensors = headers.tensors(tmp_path)

    assert validation.problems(tmp_path, card, headers.config(tmp_path), tensors) == []
    assert validation.embedding_rows(tensors) is not None


@pytest.mark.parametrize(
    ("card", "field", "words"),
    [
        (STOCK | {"score": {"outputs": ["a", "b"], "index": 2}}, "score.index", "2 is beyond"),
        (HEADED | {"score": {"index": 2}}, "score.index", "gives 2 numbers, counted from 0"),
        (HEADED | {"score": {"index": 2, "rule": "softmax"}}, "score.index", "2 is beyond"),
        (HEADED | {"score": {"outputs": ["a"]}}, "score.outputs", "gives 2 numbers, and 1 are"),
        (HEADED | {"score": {"outputs": ["a", "b", "c"]}}, "score.outputs", "and 3 are named"),
        ({"score": {"outputs": ["a"]}}, "score.outputs", "gives 2 numbers, and 1 are named"),
        ({}, "score.outputs", "gives 2 numbers, and none is named"),
        (
            head(*TWO, {"op": "take", "places": [0]}) | {"score": {"rule": "softmax"}},
            "score.rule",
            "'softmax' of one number is always 1",
        ),
        (HEADED | {"score": {"rule": "sum"}}, "score.rule", "'sum' adds one number a place"),
        (
            {
                "heads": {
                    "reward": {"layers": TWO},
                    "gate": {"layers": [*TWO, {"op": "take", "places": [0]}]},
                },
                "score": {"rule": "gated"},
            },
            "score.rule",
            "these give 2 and 1",
        ),
        (
            head(*TWO, {"op": "take", "places": [0]}) | BILINEAR,
            "preference.form",
            "the head 'reward' gives 1",
        ),
        (
            {"heads": {"reward": {"layers": TWO}, "gate": {"layers": TWO}}} | BILINEAR,
            "heads.gate",
            "a number for each two of 'reward', 1, and the head gives 2",
        ),
    ],
)
def test_a_score_that_the_numbers_dont_give_is_named(tmp_path, card, field, words):
    """Every rule has the numbers that it asks for, and each number a name or none."""
    (said,) = problems(folder_with(tmp_path), card)

    assert said.startswith(f"{field}: ")
    assert words in said


@pytest.mark.parametrize("card", [STOCK, HEADED])
def test_a_prefix_that_no_tensor_begins_with_is_named(tmp_path, card):
    """It would be passed over without a word; one that the files have is none."""
    folder = folder_with(tmp_path)

    (said,) = problems(folder, card | {"trunk": {"prefix": "foo."}})

    assert said.startswith("trunk.prefix: no tensor's name begins with 'foo.'")
    assert "'model.embed_tokens.weight'" in said
    assert problems(folder, card | {"trunk": {"prefix": "model."}}) == []


@pytest.mark.parametrize(
    ("layers", "field", "words"),
    [
        ([{"op": "linear", "weight": "scores.weight"}], "0.weight", "the nearest are 'score.we"),
        ([{"op": "linear", "weight": "wide"}], "0.weight", "takes 6 numbers, and is given 4"),
        ([{"op": "linear", "weight": "tall"}], "0.weight", "'transposed' says it the other way"),
        ([{"op": "linear", "weight": "score.weight", "bias": "three"}], "0.bias", "is [3], and"),
        ([{"op": "linear", "weight": "three"}], "0.weight", "not a matrix"),
        ([*TWO, {"op": "tanh"}, *TWO], "2.weight", "takes 4 numbers, and is given 2"),
        ([{"op": "batch_norm", "name": "none"}], "0.name", "no tensor 'none.weight'"),
        ([{"op": "standardize", "var": "three"}], "0.var", "has 3 numbers for 4"),
        ([{"op": "scale", "factor": "three"}], "0.factor", "has 3 numbers for 4"),
        ([{"op": "softmax", "groups": 3}], "0.groups", "4 numbers are no multiple of 3"),
        ([{"op": "mean", "groups": 3}], "0.groups", "no multiple of 3"),
        ([{"op": "take", "places": [1, 4]}], "0.places", "4 is none of 4 numbers"),
        ([{"op": "expected", "low": 0, "high": 1, "bins": 3}], "0.bins", "no multiple of 3"),
        ([{"op": "deviation", "low": 0, "high": 1, "bins": 3}], "0.bins", "no multiple of 3"),
        ([{"op": "linear", "weight": "tall", "groups": 3}], "0.groups", "no multiple of 3"),
        ([{"op": "linear", "weight": "tall", "groups": 2}], "0.weight", "takes 3 numbers, and is"),
        ([{"op": "linear_each", "weight": "tall"}], "0.weight", "not (members, in, out)"),
        ([{"op": "linear_each", "weight": "each"}], "0.weight", "3 members take 3 numbers each"),
        (
            [{"op": "linear_each", "weight": "own", "bias": "three"}],
            "0.bias",
            "'three' is [3], and members and numbers [2, 5]",
        ),
    ],
)
def test_layers_that_dont_chain_are_named(tmp_path, layers, field, words):
    """A tensor that isn't there, a shape that doesn't fit: by the layer's place in the card."""
    shapes = {"wide": (1, 6), "tall": (HIDDEN, 3), "three": (3,), "each": (3, 3, 2)}
    folder = folder_with(tmp_path, **shapes, own=(2, HIDDEN, 5))

    said, *_ = problems(folder, head(*layers))

    assert said.startswith(f"heads.reward.layers.{field}: ")
    assert words in said


@pytest.mark.parametrize(
    ("card", "field"),
    [
        (
            {
                "heads": {
                    "reward": {"layers": TWO, "read": {"at": "last"}},
                    "gate": {
                        "layers": TWO,
                        "read": {"at": "pattern", "pattern": ["x"], "which": "all"},
                    },
                },
                "score": {"rule": "gated"},
            },
            "heads.gate.read",
        ),
        ({"heads": {"reward": {"layers": TWO, "joined": 2}}}, "heads.reward.joined"),
    ],
)
def test_places_that_nothing_reads_so_are_named(tmp_path, card, field):
    """They would be read elsewhere, without a word."""
    found = problems(folder_with(tmp_path), card)

    assert [said for said in found if said.startswith(f"{field}: ")]


@pytest.mark.parametrize("file", ["head.safetensors", "head.bin", "head.pt"])
def test_a_heads_own_file_is_looked_into(tmp_path, file):
    """One that is missing, and one that lacks the tensor, whoever wrote it."""
    folder = folder_with(tmp_path)
    card = head({"op": "linear", "weight": "fc.weight"})
    card["heads"]["reward"]["file"] = file
    (missing,) = problems(folder, card)
    weights = {"fc.weight": torch.zeros(1, HIDDEN), "n": torch.tensor(3)}
    if file.endswith(".safetensors"):
        save_file({name: one.numpy() for name, one in weights.items()}, folder / file)
    else:
        torch.save(weights, folder / file, _use_new_zipfile_serialization=file.endswith(".pt"))

    assert "is missing; the card reads a head from it" in missing
    assert problems(folder, card) == []
    card["heads"]["reward"]["layers"][0]["weight"] = "fc2.weight"
    (lacking,) = problems(folder, card)
    assert lacking.startswith("heads.reward.layers.0.weight: ")
    assert "no tensor 'fc2.weight'; the nearest are 'fc.weight'" in lacking


def test_nothing_that_a_pickle_names_is_called(tmp_path):
    """A hostile head file is read for shapes, or refused; it runs nothing."""

    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "was-here"), "w"))

    folder = folder_with(tmp_path)
    with (folder / "head.bin").open("wb") as file:
        for one in (0, 1, {}, {"fc.weight": Hostile()}):
            pickle.dump(one, file)
    card = head({"op": "linear", "weight": "fc.weight"})
    card["heads"]["reward"]["file"] = "head.bin"

    (said,) = problems(folder, card)

    assert "no tensor 'fc.weight'" in said
    assert not (tmp_path / "was-here").exists()


@pytest.mark.parametrize(
    ("kind", "layers", "words"),
    [
        ("quantiles", TWO, "are several of each of 2 numbers, and 'spread' gives 2"),
        ("gaussian", [*TWO, {"op": "norm"}], "is one of each of 2, and 'spread' gives 1"),
        ("bins", [{"op": "scale", "factor": 1.0}], "is one of each of 2, and 'spread' gives 4"),
        ("laplace", TWO, "is one number, and 'spread' gives 2"),
        ("quantiles", [{"op": "scale", "factor": 1.0}], None),
        ("gaussian", TWO, None),
        ("laplace", [*TWO, {"op": "norm"}], None),
    ],
)
def test_a_spread_is_of_each_number_or_of_the_score(tmp_path, kind, layers, words):
    """As many numbers as its kind has."""
    heads = {"reward": {"layers": TWO}, "spread": {"layers": layers}}
    said = problems(folder_with(tmp_path), {"heads": heads, "spread": {"kind": kind}})

    assert said == ([f"spread.kind: '{kind}' {words}"] if words else [])
