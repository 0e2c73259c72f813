"""A folder that is called as a card of the catalogue, over files that several families write."""

import json

import pytest

from assay.cards import card as cards
from assay.cards import catalogue, naming, repository
from assay.errors import CheckpointError
from tests.cards.test_recognise import LAYOUTS, REFUSED

BY_NAME = {layout.name: layout for layout in LAYOUTS}
NAMED = sorted(name for name in REFUSED if name != "policy")
WRONG = {
    "athene": "ultrarm-13b",  # another head
    "ultrarm": "athene-rm-8b",
    "ldl": "qwen3-reranker-0.6b",  # a head beside it
    "llama-factory": "zephyr-7b-beta",
    "math-shepherd": "qwen3-reranker-0.6b",  # another trunk
    "helpsteer": "odin-gemma",  # five labels, not two
    "starling-7b": "athene-rm-8b",  # a tokenizer without its token
    "internlm2": "athene-rm-8b",  # another layout
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the function from a layout's name to its folder, which says nothing; built once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("checkpoint")
            BY_NAME[name].build(made[name])
        return made[name]

    return get


def called(name, folder, at):
    """Return a path to a folder under another name."""
    at.mkdir(parents=True, exist_ok=True)
    (at / name).symlink_to(folder)
    return at / name


def mechanism(card):
    """Return what a card says of how a score is computed."""
    return card.model_dump(include=naming._MECHANISM)


@pytest.mark.parametrize("name", NAMED)
def test_the_name_of_its_card_settles_what_files_leave_open(built, tmp_path, name):
    """By the folder's name or the hub's cache, and a line says so; else the command comes first."""
    layout = BY_NAME[name]
    card = cards.read(catalogue.embedded() / layout.card)
    folder = called(layout.card.upper(), built(name), tmp_path)

    found = repository.find(str(folder), tmp_path / "none")

    assert mechanism(found.card) == mechanism(card)
    assert (found.doubts, len(found.notes)) == ((), 1)
    assert f"its folder is called as the catalogue's {layout.card}, and its files agree" in str(
        found.notes
    )
    with pytest.raises(CheckpointError) as error:
        repository.find(str(called("neutral", built(name), tmp_path)), tmp_path / "none")
    if "value_head.bin" not in REFUSED[name] and "regression_layer.pt" not in REFUSED[name]:
        assert error.value.message.startswith("give the card's name: assay serve ")
        assert f"={tmp_path}" not in error.value.message.partition(" (or ")[2]


@pytest.mark.parametrize("name", ["athene", "eurus", "qwen2.5-math-prm"])
def test_a_snapshot_in_the_hubs_cache_is_called_as_its_repository(built, tmp_path, name):
    """Whatever the commit is; a doubt is settled so, too."""
    card = cards.read(catalogue.embedded() / BY_NAME[name].card)
    at = tmp_path / f"models--{card.source.id.replace('/', '--')}" / "snapshots"
    found = repository.find(str(called("a" * 40, built(name), at)), tmp_path / "none")

    assert (found.name, found.doubts) == (card.source.id, ())
    assert mechanism(found.card) == mechanism(card)


def test_config_json_may_call_it_so(built, tmp_path):
    """Where the folder is called otherwise, as after a fine-tuning."""
    folder = tmp_path / "checkpoint-100"
    folder.mkdir()
    BY_NAME["athene"].build(folder)
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said["_name_or_path"] = "Nexusflow/Athene-RM-8B"
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")

    found = repository.find(str(folder), tmp_path / "none")

    assert found.card.family == "Athene-RM"
    assert "config.json's _name_or_path is called as the catalogue's athene-rm-8b" in found.notes[0]


@pytest.mark.parametrize("name", WRONG)
def test_a_name_over_other_files_settles_nothing(built, tmp_path, name):
    """The files are another family's: they are refused, or taken for what they are."""
    folder = called(WRONG[name], built(name), tmp_path)

    assert naming.card_of(WRONG[name], folder, tmp_path / "none") is None
