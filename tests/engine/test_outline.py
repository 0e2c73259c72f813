"""A checkpoint without its numbers: what loading would refuse is told by names and shapes."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from assay.cards import card as cards
from assay.cards import catalogue
from assay.engine import outline
from assay.errors import CheckpointError
from assay.worker_protocol import ModelSpec
from tests.families import attributes, pairwise, scalar

LAYOUTS = {one.name: one for module in (attributes, pairwise, scalar) for one in module.LAYOUTS}
NAMES = ("tulu-3", "athene", "internlm2", "open-assistant-deberta", "open-assistant-pythia", "ldl")


def spec(folder, card, max_tokens=64):
    """Return what a worker would be told to load."""
    return ModelSpec("model", folder, card, "auto", max_tokens, None)


@pytest.fixture(autouse=True)
def quiet():
    """Leave transformers' report of what is missing out of the log."""
    transformers.logging.set_verbosity_error()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_and_a_misshapen_tensor_are_found(tmp_path, name):
    """What is whole passes, whatever the layout."""
    LAYOUTS[name].build(tmp_path)
    card = cards.read(catalogue.embedded() / LAYOUTS[name].card)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    outline.check(spec(tmp_path, card))

    lost = next(one for one in whole if ".1." in one and "norm" in one.lower())
    save_file({n: one for n, one in whole.items() if n != lost}, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="would be filled with random numbers"):
        outline.check(spec(tmp_path, card))

    wrong = {lost: torch.zeros(3)}
    save_file(whole | wrong, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="has another shape than config"):
        outline.check(spec(tmp_path, card))


def test_no_weight_is_read(tmp_path):
    """A file whose numbers can't be read has headers all the same."""
    LAYOUTS["athene"].build(tmp_path)
    path = tmp_path / "model.safetensors"
    card = cards.read(catalogue.embedded() / "athene-rm-8b")
    size = int.from_bytes(path.read_bytes()[:8], "little")
    content = path.read_bytes()
    path.write_bytes(content[: 8 + size] + b"\xff" * (len(content) - 8 - size))

    outline.check(spec(tmp_path, card))


def test_a_limit_beyond_the_positions_is_named(tmp_path):
    """By the setting, and by the card's field."""
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)

    outline.check(spec(tmp_path, cards.Card(), 32))
    with pytest.raises(CheckpointError, match=r"limit of 33 tokens exceeds the 32 .*max_tokens"):
        outline.check(spec(tmp_path, cards.Card(), 33))
