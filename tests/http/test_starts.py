"""What stops a start: exit code 3, and a message that names the file, tensor or setting."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from assay.cli.app import app
from assay.errors import CheckpointError, SettingsError, UnknownTarget
from assay.settings import Settings, load
from tests import resolving
from tests.http import checkpoints, processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    Tensors = dict[str, np.ndarray]


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be damaged."""
    return checkpoints.copy(tiny, tmp_path / "copied")


def refusal(checkpoint: Path) -> str:
    """Return what the device process says of a checkpoint it can't serve."""
    import torch

    from assay.cards.card import Card
    from assay.engine import checkpoint as engine

    with pytest.raises(CheckpointError) as caught:
        engine.load(checkpoint, Card(), device=torch.device("cpu"), dtype=torch.float32)
    return caught.value.message


def unresolved(*models: Path | str) -> str:
    """Return what the front process says of models it can't resolve."""
    settings = Settings(models=tuple(map(str, models)))
    with pytest.raises(CheckpointError) as caught:
        resolving.load(settings)
    return caught.value.message


def widen(tensors: Tensors) -> None:
    tensors["value_head.weight"] = tensors["score.weight"].copy()


def shorten(name: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name][..., :8].copy()

    return change


def test_a_whole_checkpoint_loads(copy: Path) -> None:
    """What the refusals below are copies of is itself accepted, by both processes."""
    import torch

    from assay.cards.card import Card
    from assay.engine import checkpoint as engine

    model, _ = engine.load(copy, Card(), device=torch.device("cpu"), dtype=torch.float32)

    assert model.config.num_labels == 1
    assert list(resolving.load(Settings(models=(str(copy),))).by_name) == ["copied"]


def test_a_missing_head_is_named(copy: Path) -> None:
    """transformers would fill the head with random numbers."""
    checkpoints.edit_weights(copy, lambda tensors: tensors.pop("score.weight"))

    assert "lacks 'score.weight'" in refusal(copy)
    assert str(copy) in refusal(copy)


def test_a_missing_layer_is_named(copy: Path) -> None:
    """One tensor of the trunk is as fatal as the head."""
    name = "model.layers.1.mlp.up_proj.weight"
    checkpoints.edit_weights(copy, lambda tensors: tensors.pop(name))

    assert f"lacks '{name}'" in refusal(copy)


def test_a_tensor_left_over_is_named(copy: Path) -> None:
    """A tensor nobody reads means another model was trained."""
    checkpoints.edit_weights(copy, widen)

    assert "'value_head.weight'" in refusal(copy)


@pytest.mark.parametrize("name", ["score.weight", "model.norm.weight"])
def test_a_tensor_of_another_shape_is_named(copy: Path, name: str) -> None:
    """config.json and the weights must be of one model."""
    checkpoints.edit_weights(copy, shorten(name))

    assert f"'{name}' has another shape" in refusal(copy)


@pytest.mark.parametrize("kept", [-1000, 1000, 5, 0])
def test_a_file_cut_short_is_named(copy: Path, kept: int) -> None:
    """However much of a file is left, it is damaged."""
    file = copy / checkpoints.WEIGHTS
    file.write_bytes(file.read_bytes()[:kept])

    assert f"{file} is damaged or cut short" in refusal(copy)


def test_a_template_that_swallows_a_turn_is_named_with_its_roles(copy: Path) -> None:
    """Every response would have the same score; what the template looks for is in the message."""
    (copy / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}"
        "{% elif m.role == 'reviewer' %}{{ m.content }}{% endif %}{% endfor %}"
    )

    inspected = CliRunner().invoke(app, ["inspect", str(copy)])

    assert inspected.exit_code == 3
    for said in (unresolved(copy), inspected.stderr.replace("\n", " ")):
        assert "leaves out what is said by 'assistant'" in said
        assert "'user', 'reviewer'" in said


def test_a_missing_shard_is_named(copy: Path) -> None:
    """An index that lists a file is not enough."""
    (copy / "model.safetensors.index.json").write_text(
        '{"weight_map": {"score.weight": "model-2-of-2.safetensors"}}'
    )

    assert f"{copy / 'model-2-of-2.safetensors'} is missing" in refusal(copy)


def test_a_causal_language_model_has_no_reward(copy: Path) -> None:
    """The architecture that config.json names must have a head."""
    checkpoints.edit_config(copy, architectures=["Qwen3ForCausalLM"])

    assert "'Qwen3ForCausalLM', which has no reward head" in refusal(copy)


def test_a_classifier_of_three_classes_is_no_reward_model(copy: Path) -> None:
    """A reward is one number."""
    checkpoints.edit_config(copy, id2label={"0": "a", "1": "b", "2": "c"})

    assert "3 labels" in refusal(copy)


def test_pickles_are_refused_unread(copy: Path) -> None:
    """Only safetensors are read; the message says how to convert."""
    (copy / checkpoints.WEIGHTS).rename(copy / "pytorch_model.bin")

    assert "pytorch_model.bin" in unresolved(copy)
    assert "safetensors" in unresolved(copy)


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    """A folder needs a config.json."""
    assert f"{tmp_path} has no config.json" in unresolved(tmp_path)


def test_a_folder_without_weights_is_named(copy: Path) -> None:
    """A config.json alone is no checkpoint."""
    (copy / checkpoints.WEIGHTS).unlink()

    assert f"{copy} has no *.safetensors file" in unresolved(copy)


def test_a_path_or_name_that_doesnt_exist_says_what_there_is(tmp_path: Path) -> None:
    """The names of the repository are listed."""
    assert str(tmp_path / "nothing") in unresolved(tmp_path / "nothing")
    assert "'startr'" in unresolved("startr")
    assert "it has: starter" in unresolved("startr")


def test_a_file_is_no_folder(copy: Path) -> None:
    """The folder is wanted, not the weights in it."""
    assert "is not a folder" in unresolved(copy / checkpoints.WEIGHTS)


def test_a_missing_tokenizer_is_named(copy: Path) -> None:
    """transformers would make one up that knows no words."""
    for name in checkpoints.TOKENIZER_FILES:
        (copy / name).unlink(missing_ok=True)

    assert f"{copy} has no tokenizer" in unresolved(copy)


def test_a_damaged_tokenizer_is_named(copy: Path) -> None:
    """A tokenizer that can't be read stops the start, not the first request."""
    (copy / "tokenizer.json").write_text('{"half": ')

    assert f"{copy} has no tokenizer that can be read" in unresolved(copy)


def test_a_wrong_card_is_named_with_its_field(copy: Path) -> None:
    """What a card states must be right, a misspelt field included."""
    card = copy / "card.toml"
    card.write_text("[statistics]\nmean = 0.0\nstd = 0.0\n")
    zero = unresolved(copy)
    card.write_text('sumary = "x"')

    assert zero.startswith(f"{card}: statistics.std")
    assert unresolved(copy).startswith(f"{card}: sumary")


def test_two_models_of_one_name_are_refused(tiny: Path) -> None:
    """A request must name one of them."""
    with pytest.raises(SettingsError, match="is to be served twice under one name; give it once"):
        resolving.load(Settings(models=(str(tiny), str(tiny))))


def test_two_folders_of_one_name_are_refused_with_the_options_that_name_them(
    tiny: Path, tmp_path: Path
) -> None:
    """Exports are all called `hf`; the options can be pasted, and then both are served."""
    for parent in ("a", "b c"):
        (tmp_path / parent).mkdir()
        (tmp_path / parent / "hf").symlink_to(tiny)
    one, other = str(tmp_path / "a/hf"), str(tmp_path / "b c/hf")

    with pytest.raises(SettingsError) as caught:
        resolving.load(Settings(models=(one, other)))

    assert caught.value.message == (
        f"two served models are named 'hf', '{one}' and '{other}'; name them, such as by "
        f"--name a-hf={one} --name 'b c-hf={other}'"
    )
    settings, _ = load({"names": {"a-hf": one, "b c-hf": other}})
    assert list(resolving.load(settings).by_name) == ["a-hf", "b c-hf"]


def test_a_model_is_known_by_the_path_that_it_was_given_as(
    tiny: Path, bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In requests, and as a part of what is made of several."""
    monkeypatch.chdir(bare.parent)
    paths = (str(tiny), "./bare/")
    served = resolving.load(
        Settings(
            models=paths,
            ensembles={"both": paths},
            aliases={"other": "./bare/"},
            composites={"mix": {"parts": {"one": {"target": "./bare/"}}}},
        )
    )

    assert served.get(str(tiny)).name == "tiny"
    for name in ("./bare/", "./bare", str(bare), "other"):
        assert served.get(name).name == "bare"
        assert served.reference(name) == "./bare/"
    assert [one.name for one in served.by_name["both"].members] == ["tiny", "bare"]
    assert [one.name for one in served.by_name["mix"].members] == ["bare"]


def test_a_path_under_two_cards_names_neither(tiny: Path, tmp_path: Path) -> None:
    """Which of the two a caller means can't be told; each has its own name."""
    for name in ("one", "other"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "card.toml").write_text("")

    served = resolving.load(
        Settings(models=(f"one={tiny}", f"other={tiny}"), repository=tmp_path / "models")
    )

    assert list(served.by_name) == ["one", "other"]
    assert served.get(f"other={tiny}").name == "other"
    with pytest.raises(UnknownTarget):
        served.get(str(tiny))


def test_a_hub_id_is_asked_for_as_what_it_is(tiny: Path, tmp_path: Path) -> None:
    """A name with a slash is no member's; members aren't named at the start."""
    snapshot = tmp_path / "models--org--judge" / "snapshots" / ("0123456789" * 4)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(tiny)

    served = resolving.load(Settings(models=(str(snapshot), "starter")))

    assert served.asked_for == ["org/judge", "starter"]


@pytest.fixture
def no_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without any ASSAY_ variable."""
    for name in os.environ:
        if name.startswith("ASSAY_"):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.usefixtures("no_variables")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('modles = ["starter"]', "unknown setting 'modles' in {file}; did you mean 'models'?"),
        ("max_queue_tokens = 5", "did you mean 'max_queued_tokens'?"),
        ('port = "many"', "setting 'port' (from {file})"),
        ("port = 70000", "less than or equal to 65535"),
        ("port = ", "{file} is not valid TOML"),
    ],
)
def test_a_wrong_settings_file_is_named_with_its_key(tmp_path: Path, text: str, says: str) -> None:
    """An unknown key names the nearest known one; a wrong value names its bound."""
    file = tmp_path / "assay.toml"
    file.write_text(text)

    with pytest.raises(SettingsError) as caught:
        load({}, file)

    assert says.format(file=file) in caught.value.message


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ASSAY_PROT", "unknown setting 'prot' in the environment; did you mean 'port'?"),
        ("ASSAY_API_KEYS", "did you mean 'api_key'?"),
        ("ASSAY_DTYPE", "'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_a_wrong_variable_is_named(no_variables: pytest.MonkeyPatch, name: str, says: str) -> None:
    """Every ASSAY_ variable must be a setting, with a value it can have."""
    no_variables.setenv(name, "5")

    with pytest.raises(SettingsError) as caught:
        load({})

    assert says in caught.value.message


def test_a_checkpoint_that_cant_be_served_ends_the_process_with_3(copy: Path) -> None:
    """The device process's refusal reaches the terminal, and nothing was served."""
    checkpoints.edit_weights(copy, lambda tensors: tensors.pop("score.weight"))

    ended = processes.run("serve", "--port", "0", "--device", "cpu", copy, cwd=copy.parent)

    assert ended.returncode == 3
    assert "lacks 'score.weight'" in ended.stderr
    assert "ready" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_device_that_doesnt_exist_ends_the_process_with_3(tiny: Path, tmp_path: Path) -> None:
    """A wrong device is named with those there can be."""
    ended = processes.run("serve", "--port", "0", tiny, cwd=tmp_path, device="gpu7", threads=1)

    assert ended.returncode == 3
    assert "'gpu7' is not a device" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_attention_that_cant_be_had_ends_the_process_with_3(tiny: Path, tmp_path: Path) -> None:
    """A model isn't served by another one than the operator named."""
    options = ("--port", "0", "--device", "cpu", "--attention", "tree")
    ended = processes.run("serve", *options, tiny, cwd=tmp_path, threads=1)

    assert ended.returncode == 3
    assert "attention = 'tree' can't be had: the tree kernel runs on a GPU" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_setting_ends_the_process_with_3(tmp_path: Path) -> None:
    """`assay.toml` of the working folder is read and refused before anything is loaded."""
    (tmp_path / "assay.toml").write_text("prot = 8001")

    ended = processes.run("serve", cwd=tmp_path)

    assert ended.returncode == 3
    assert "unknown setting 'prot' in assay.toml; did you mean 'port'?" in ended.stderr
