"""The sizes that a config.json may state: those of a model, and of the files beside it."""

from pathlib import Path

import pytest

from assay.cards import catalogue, headers, sizes
from assay.errors import CheckpointError

PATH = Path("config.json")
LARGEST = {
    "num_hidden_layers": 126,
    "hidden_size": 20_480,
    "intermediate_size": 98_304,
    "vocab_size": 1_000_000,
    "max_position_embeddings": 10_485_760,
    "num_attention_heads": 160,
    "num_experts": 2_048,  # Doge has 16,384 by default
}


def test_the_largest_models_are_taken():
    """With room for what comes."""
    sizes.check(PATH, {name: 8 * size for name, size in LARGEST.items()})


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"num_hidden_layers": 20_000_000}, "num_hidden_layers"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"n_layer": 1e9}, "n_layer"),
        ({"text_config": {"head_dim": 10**7}}, "head_dim"),
        ({"a": {"b": {"n_positions": 10**12}}}, "n_positions"),
        ({"intermediate_size": [64, 10**9]}, "intermediate_size"),
        ({"num_labels": 10**9}, "num_labels"),
        ({"vocab_size": float("inf")}, "vocab_size"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_what_no_model_has_is_refused_by_its_field(said, name):
    """Wherever it stands, and whatever the architecture calls it."""
    with pytest.raises(CheckpointError, match=f"'{name}' is .*, and no model has more than"):
        sizes.check(PATH, said)


def test_what_is_no_number_is_left_to_the_class():
    """It has its own words for that; so has one that is absent."""
    sizes.check(PATH, {"hidden_size": "many", "num_hidden_layers": None, "n_inner": {}})


def test_a_configuration_far_larger_than_its_files_is_refused():
    """A model would be made as large as it says, before its tensors are missed."""
    shapes = [(300, 32)]
    sizes.check_files(PATH, {"vocab_size": 301, "hidden_size": 64}, shapes)
    sizes.check_files(PATH, {"vocab_size": 10**6}, [])  # without weights: others say so

    with pytest.raises(CheckpointError, match="'vocab_size' is 100000, and the largest tensor"):
        sizes.check_files(PATH, {"vocab_size": 100_000}, shapes)


def test_the_starter_is_within_bounds():
    """Its members are read as any other."""
    for folder in (catalogue.embedded() / "starter").glob("member-*"):
        sizes.check_files(
            PATH,
            headers.config(folder),
            [tensor.shape for tensor in headers.tensors(folder).values()],
        )
