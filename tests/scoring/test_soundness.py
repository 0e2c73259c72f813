"""What a start refuses before a weight is read: card, files and tokenizer at odds."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from assay.cards import catalogue
from assay.errors import CheckpointError
from assay.settings import Settings
from tests import resolving
from tests.families import layout as layouts
from tests.families import process, scalar

LAYOUTS = {one.name: one for module in (scalar, process) for one in module.LAYOUTS}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the function from a layout's name to its folder with its card; built once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            LAYOUTS[name].build(made[name])
            shutil.copy(catalogue.embedded() / LAYOUTS[name].card / "card.toml", made[name])
        return made[name]

    return get


def copied(folder, to, **changed):
    """Copy a checkpoint, with lines of its card changed."""
    shutil.copytree(folder, to)
    card = (to / "card.toml").read_text(encoding="utf-8")
    for before, after in changed.values():
        assert before in card
        card = card.replace(before, after)
    (to / "card.toml").write_text(card, encoding="utf-8")
    return to


def refusal(folder):
    """Return what a start says of a folder."""
    with pytest.raises(CheckpointError) as error:
        resolving.load(Settings(models=(str(folder),)))
    return error.value.message


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "math-shepherd",
            ('tokens = ["▁+"', 'tokens = ["no such word"'),
            "heads.reward.layers.0.tokens.0: the card names the token 'no such word', which this",
        ),
        (
            "math-shepherd",
            ('tokens = ["▁+"', "tokens = [99999"),
            "heads.reward.layers.0.tokens.0: the card names the token 99999, id 99999, and the",
        ),
        (
            "math-shepherd",
            ('pattern = ["▁ки"]', 'pattern = ["no such word"]'),
            "read.pattern.0: the card names the token 'no such word'",
        ),
        (
            "math-shepherd",
            ('pattern = ["▁ки"]', 'pattern = ["▁+"]'),
            "read.pattern: a sample has no score: ",
        ),
        (
            "athene",
            ('expected_read_token = "', 'expected_read_token = "x'),
            "template.expected_read_token: the card names the token",
        ),
        (
            "athene",
            ('append = ["<', 'append = ["x<'),
            "template.append.0: the card names the token",
        ),
        (
            "athene",
            ('weight = "v_head.weight"', 'weight = "v_heads.weight"'),
            "heads.reward.layers.0.weight: ",
        ),
    ],
)
def test_what_the_card_promises_is_looked_for(built, tmp_path, name, change, words):
    """A token, a marker, a tensor: the message begins with the field."""
    folder = copied(built(name), tmp_path / "model", it=change)

    assert f"model: {words}" in refusal(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(built, tmp_path):
    """It is another model's; a token that was only added is not."""
    folder = copied(built("athene"), tmp_path / "model")
    path = folder / "model.safetensors"
    weights = load_file(path)
    own = layouts.tokenizer(folder)
    rows = max(set(own.get_vocab().values()) - set(own.added_tokens_decoder))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"][:rows]
    save_file(weights, path, metadata={"format": "pt"})

    assert f"and the model an embedding of {rows}: copy the tokenizer" in refusal(folder)


def test_a_token_that_was_only_added_is_no_reason(built, tmp_path):
    """Padding that nobody renders may lie beyond the embedding."""
    folder = copied(built("athene"), tmp_path / "model")
    own = layouts.tokenizer(folder)
    own.add_tokens(["<never-rendered>"])
    own.save_pretrained(folder)

    assert resolving.load(Settings(models=(str(folder),))).default.name == "model"


def test_an_ensembles_statistics_are_of_its_members(built, tmp_path):
    """A misspelt member would be scored without its own."""
    for name in ("one", "two"):
        shutil.copytree(built("athene"), tmp_path / "both" / name)
    (tmp_path / "both" / "card.toml").write_text(
        '[ensemble]\nmembers = ["one", "two"]\n[statistics]\nmean = 0.0\nstd = 1.0\n'
        "[statistics.members.three]\nmean = 0.0\nstd = 1.0\n",
        encoding="utf-8",
    )
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / "both" / name)
        made = tmp_path / "both" / name
        made.mkdir()
        LAYOUTS["tulu-3"].build(made)

    assert "both: statistics.members.three: the ensemble has no such member" in refusal(
        tmp_path / "both"
    )


def test_what_nobody_foresaw_in_a_file_is_a_refusal(built, tmp_path):
    """It names the error's class: the same file fails the same way again."""
    folder = copied(built("athene"), tmp_path / "model")
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(said | {"text_config": 7}), encoding="utf-8")

    assert "can't be loaded (TypeError: " in refusal(folder)
