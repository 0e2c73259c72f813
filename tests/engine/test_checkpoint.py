"""Loading: every tensor accounted for, nothing random, nothing twice in memory."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cards.card import Card
from assay.cards.mechanism import Trunk
from assay.engine import checkpoint, model_runner, verification
from assay.errors import CheckpointError
from tests.engine.load_memory import growth
from tests.fidelity import checkpoints

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    """A small Qwen3 reward checkpoint."""
    return checkpoints.make(tmp_path / "model", "qwen3", vocabulary=300)


def edit_config(folder, **changes):
    """Change fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    """Rewrite the weights after a change."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def load(folder, dtype=torch.float32):
    """Load on CPU."""
    model, _ = checkpoint.load(folder, Card(), device=CPU, dtype=dtype)
    return model


@pytest.mark.parametrize("name", ["score.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_missing_tensor_stops_the_start_with_its_name(folder, name):
    """transformers would fill it with random numbers and only warn."""
    edit_tensors(folder, lambda tensors: tensors.pop(name))

    with pytest.raises(CheckpointError, match=f"lacks '{name}'"):
        load(folder)


def test_a_left_over_tensor_stops_the_start_with_its_name(folder):
    """A tensor that nothing reads means that the model isn't the one that was trained."""
    edit_tensors(folder, lambda tensors: tensors.update({"v_head.weight": torch.ones(1, 64)}))

    with pytest.raises(CheckpointError, match=r"holds 'v_head\.weight'"):
        load(folder)


def test_a_misshapen_tensor_stops_the_start_with_its_name(folder):
    """A head of another width can't be the one that config.json describes."""
    edit_tensors(folder, lambda tensors: tensors.update({"score.weight": torch.ones(1, 32)}))

    with pytest.raises(CheckpointError, match=r"score\.weight"):
        load(folder)


def test_a_truncated_file_stops_the_start_with_its_path(folder):
    """A copy that was cut short is told apart from a wrong one."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])

    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged or cut short"):
        load(folder)


def test_a_missing_shard_stops_the_start_with_its_path(folder):
    """An index that names a file which isn't there is caught before anything is loaded."""
    index = {"metadata": {}, "weight_map": {"score.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is missing"):
        load(folder)


def shard(folder, factor):
    """Write the weights again, times a factor, as shards with an index, and leave the file."""
    tensors = load_file(folder / "model.safetensors")
    places = {}
    for number, name in enumerate(tensors):
        places[name] = f"model-{number % 2 + 1:05}-of-00002.safetensors"
    for file in set(places.values()):
        held = {name: factor * tensors[name] for name in tensors if places[name] == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def test_trunk_and_head_never_come_from_two_sets(folder):
    """A file beside shards of other values stops the start and names both; equal ones are one."""
    shard(folder, factor=2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors and model\.safetensors\.index"):
        load(folder)

    shard(folder, factor=1)
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(one, stored[name]) for name, one in load(folder).state_dict().items())


@pytest.mark.parametrize("name", ["tuned.safetensors", "model.fp16.safetensors"])
def test_the_trunk_is_read_from_the_file_that_the_head_is(folder, name):
    """A file that config.json names, and a variant alone, are what everything is loaded from."""
    stored = {key: 2 * one for key, one in load_file(folder / "model.safetensors").items()}
    save_file(stored, folder / name, metadata={"format": "pt"})
    if name.startswith("model."):
        (folder / "model.safetensors").unlink()
    else:
        edit_config(folder, transformers_weights=name)

    assert all(torch.equal(one, stored[key]) for key, one in load(folder).state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "has no reward head"),
        ({"architectures": ["MyOwnForSequenceClassification"]}, "bring their own code"),
        ({"model_type": "never-heard-of"}, "config.json can't be used"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "declares 3 labels"),
    ],
)
def test_a_config_that_is_not_a_reward_models_is_refused(folder, changes, message):
    """A causal model, a foreign class, an unknown type and three labels each say why."""
    edit_config(folder, **changes)

    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_the_head_is_float32_from_the_files_own_numbers(folder):
    """A float32 head in the file isn't rounded to the trunk's bfloat16 on its way."""
    stored = load_file(folder / "model.safetensors")["score.weight"]

    model = load(folder, torch.bfloat16)

    assert model.base_model.dtype == torch.bfloat16
    assert model.score.weight.dtype == torch.float32
    assert torch.equal(model.score.weight, stored)


def test_loading_holds_no_second_copy_of_the_weights(tmp_path):
    """Anonymous memory grows by little more than the weights' own size while they load."""
    folder = checkpoints.make(
        tmp_path / "wide", "qwen3", vocabulary=300, hidden_size=1024, intermediate_size=8192
    )
    size = (folder / "model.safetensors").stat().st_size

    grown = growth(folder)

    assert size > 200e6
    assert grown < 1.4 * size


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_a_trunk_runs_the_way_that_its_card_says(folder, way):
    """By default it runs packed where that equals eager, as it does here."""
    card = Card(trunk=Trunk(attention=way))
    loaded = model_runner.load(folder, card, device=CPU, dtype=torch.float32)

    verification.verify(loaded)

    assert loaded.forward == way


def test_weights_that_give_no_number_are_called_damaged(folder):
    """Not an architecture that can't be served."""
    loaded = model_runner.load(folder, Card(), device=CPU, dtype=torch.float32)
    with torch.no_grad():
        next(loaded.model.parameters())[:] = float("nan")

    with pytest.raises(CheckpointError, match="gives NaN or infinity; its weights are damaged"):
        verification.verify(loaded)


def test_a_trunk_that_cant_run_the_way_that_its_card_says_is_refused(tmp_path):
    """DeBERTa's attention can't be packed; nothing else is done instead, and the way is named."""
    folder = checkpoints.make(tmp_path / "deberta", "deberta-v3", vocabulary=300)
    card = Card(trunk=Trunk(attention="packed"))
    loaded = model_runner.load(folder, card, device=CPU, dtype=torch.float32)

    with pytest.raises(CheckpointError, match=r"trunk\.attention = 'packed'"):
        verification.verify(loaded)
