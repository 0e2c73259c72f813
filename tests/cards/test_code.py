"""Which checkpoints bring code, and at which digest it is trusted."""

import json

import pytest

from assay.cards import code
from assay.cards.card import Card
from assay.errors import CheckpointError

OTHER = "0123456789abcdef" * 4
COMMIT = "f" * 20 + "0" * 20


def write(folder, **auto_map):
    """Write a config.json with an auto_map."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"auto_map": auto_map}))
    return folder


def brought(folder):
    """Make a folder with code, and with what lies beside it."""
    write(folder, AutoModel="modeling.Model")
    for name in ("modeling.py", "layers/attention.py", "tokenizer.json", "model.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_code_is_trusted_at_its_whole_digest(tmp_path):
    """One entry of several is the model's."""
    here = code.digest(brought(tmp_path))
    assert len(here) == 64
    assert code.trusted("mine", tmp_path, [f"other@{OTHER}", f"mine@{here}"]) == here


@pytest.mark.parametrize("digits", [12, 40, 63])
def test_the_beginning_of_a_digest_pins_nothing(tmp_path, digits):
    """Folders that begin alike are made in seconds: the refusal has the option to paste."""
    here = code.digest(brought(tmp_path))
    with pytest.raises(CheckpointError) as refused:
        code.trusted("mine", tmp_path, [f"mine@{here[:digits]}"])
    assert f"these {digits} digits" in refused.value.message
    assert refused.value.message.endswith(f"--trust-remote-code mine@{here}")


def test_a_commit_of_the_hub_pins_nothing(tmp_path):
    """A folder is called so, whatever is in it."""
    folder = brought(tmp_path / "snapshots" / COMMIT)
    with pytest.raises(CheckpointError, match="these 40 digits"):
        code.trusted("org/name", folder, [f"org/name@{COMMIT}"])


def test_another_digest_is_refused_with_both(tmp_path):
    """What was read isn't what is here."""
    here = code.digest(brought(tmp_path))
    with pytest.raises(CheckpointError, match=f"trusted at {OTHER}, and here is {here}"):
        code.trusted("mine", tmp_path, [f"mine@{OTHER}"])


def test_a_model_that_is_not_named_is_not_trusted(tmp_path):
    """Trust is for one model."""
    here = code.digest(brought(tmp_path))
    assert code.trusted("mine", tmp_path, [f"mine-too@{here}"]) is None
    assert code.trusted("mine", tmp_path, []) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "modeling.py").write_text("other"),
        lambda folder: (folder / "layers" / "attention.py").write_text("other"),
        lambda folder: (folder / "config.json").write_text("{}"),
        lambda folder: (folder / "tokenizer.json").write_text("other"),
        lambda folder: (folder / "layers" / "more.py").write_text(""),
        lambda folder: (folder / "modeling.py").rename(folder / "layers" / "modeling.py"),
    ],
    ids=["code", "code below", "config", "data", "another file", "another place"],
)
def test_any_change_of_what_the_code_can_meet_is_another_digest(tmp_path, change):
    """Content, name and place."""
    before = code.digest(brought(tmp_path))
    change(tmp_path)
    assert code.digest(tmp_path) != before


def test_weights_and_what_tools_keep_are_not_of_the_digest(tmp_path):
    """Weights are numbers, and of the revision; a download's notes are no part of it."""
    before = code.digest(brought(tmp_path))
    (tmp_path / "model.safetensors").write_text("other")
    for name in (".cache/huggingface/modeling.py.json", "__pycache__/modeling.json", ".x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert code.digest(tmp_path) == before


def test_the_option_can_be_pasted_whatever_the_name(tmp_path):
    """A name may have blanks."""
    folder = brought(tmp_path)
    (advice,) = code.advice("my model", folder)
    assert f"--trust-remote-code 'my model@{code.digest(folder)}'" in advice
    (folder / "config.json").write_text("{}")
    assert code.advice("my model", folder) == []


def test_code_in_another_repository_is_refused(tmp_path):
    """A revision of this one doesn't pin it."""
    folder = write(tmp_path, AutoModel="org/other--modeling.Model")
    with pytest.raises(CheckpointError, match="another repository"):
        code.auto_class(folder)


def test_a_card_with_heads_needs_no_code(tmp_path):
    """Its numbers are Assay's own, trusted or not."""
    folder = write(tmp_path, AutoModel="modeling.Model")
    head = {"layers": [{"op": "linear", "weight": "score.weight"}]}

    assert code.runs(folder, Card())
    assert not code.runs(folder, Card.model_validate({"heads": {"reward": head}}))


def test_a_checkpoint_without_code_runs_none(tmp_path):
    """No auto_map, or one for a tokenizer only."""
    (tmp_path / "config.json").write_text("{}")
    assert not code.runs(tmp_path, Card())
    assert not code.runs(write(tmp_path, AutoTokenizer="tokenization.Mine"), Card())
