"""How closely a path is looked at on a GPU, tried on the CPU: as if it were one."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from assay.engine import model_runner, upcasting, verification
from assay.engine.attention import interface
from assay.errors import CheckpointError
from tests.engine.test_exactness import lost_prefix_key, short_window
from tests.fidelity import checkpoints

CPU = torch.device("cpu")
HALF = torch.bfloat16
NAMES = ["qwen3", "mistral", "gemma2", "phi3", "gpt2", "bert", "modernbert", "deberta-v3"]


@pytest.fixture
def runner_of(tmp_path, monkeypatch):
    """Return an architecture's runner in 16 bits, which is looked at as on a GPU."""
    monkeypatch.setattr(verification, "is_looked_at_closely", lambda _: True)

    def load(name, **changes):
        folder = checkpoints.make(tmp_path / name, name, vocabulary=300, **changes)
        return model_runner.load(folder, device=CPU, dtype=HALF)

    return load


def fastest():
    """Return the first way to attend that this processor has for 16 bits."""
    return interface.names(CPU, HALF, compiled=True)[0]


@torch.inference_mode()
@pytest.mark.parametrize("name", NAMES[:-1])
def test_weights_of_16_bits_are_computed_with_in_float32(tmp_path, name):
    """One module's at a time, and afterwards they are what they were."""
    folder = checkpoints.make(tmp_path / name, name, vocabulary=300)
    load = AutoModelForSequenceClassification.from_pretrained
    model = load(folder, dtype=HALF, attn_implementation="eager")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    ids = torch.arange(1, 90)[None]
    mask = torch.ones_like(ids)
    rounded = model(input_ids=ids, attention_mask=mask).logits

    with upcasting.in_float32(model):
        found = model(input_ids=ids, attention_mask=mask).logits

    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, rounded)
    expected = model.float()(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(found, expected)
    assert not torch.equal(found, rounded.float())


def test_a_pass_that_fails_leaves_the_weights_as_they_were():
    """As where float32 doesn't fit, or DeBERTa's layers read another module's weights."""
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(5, 4)).to(HALF)

    with pytest.raises(RuntimeError), upcasting.in_float32(layers):
        layers(torch.ones(1, 4))

    assert {parameter.dtype for parameter in layers.parameters()} == {HALF}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_is_taken(runner_of, name):
    """Attention by itself and scores beside float32 are as near as 16 bits allow."""
    runner = runner_of(name)
    verification.verify(runner, compiled=True)

    padded = {"deberta-v3"}
    assert runner.attention == ("eager" if name in padded else fastest())


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        ("mistral", {}, short_window),
        ("mistral", {"sliding_window": 1500}, short_window),  # longer than the sample
        ("qwen3", {}, lost_prefix_key),
    ],
)
def test_attention_that_is_wrong_is_passed_over(runner_of, monkeypatch, name, changes, fault):
    """Though the scores of the sample are within rounding; it is said which layers are wrong."""
    runner, name = runner_of(name, **changes), fastest().removeprefix("assay-")
    monkeypatch.setitem(interface._BACKENDS, name, fault)

    verification.verify(runner, compiled=True)

    assert runner.attention != f"assay-{name}"
    (why,) = [one for one in runner.warnings if "attention runs as" in one]
    assert f"not {name}: its" in why


def test_attention_that_was_asked_for_and_is_wrong_is_refused(runner_of, monkeypatch):
    """It isn't served in another way."""
    monkeypatch.setitem(interface._BACKENDS, "blocks", lost_prefix_key)

    with pytest.raises(CheckpointError, match="its attention is off by"):
        verification.verify(runner_of("qwen3"), attention="blocks")


def test_scores_are_held_against_float32(runner_of, monkeypatch):
    """Twice as far as the model's own pass in 16 bits; what was let pass was 0.1 and more."""
    runner = runner_of("qwen3")
    launch = runner.launch
    monkeypatch.setattr(runner, "launch", lambda batch: launch(batch) + 0.09)

    with pytest.raises(CheckpointError, match="scores differ"):
        verification.verify(runner, compiled=True)


def test_where_float32_does_not_fit_its_own_scores_are_the_measure(runner_of, monkeypatch):
    """As they are on a CPU."""
    runner = runner_of("qwen3")
    expected = verification.own_scores

    def short_of_memory(runner, sample):
        if in_float32:
            raise torch.OutOfMemoryError
        return expected(runner, sample)

    in_float32 = []
    grown = upcasting.in_float32

    def noted(model):
        in_float32.append(True)
        return grown(model)

    monkeypatch.setattr(upcasting, "in_float32", noted)
    monkeypatch.setattr(verification, "own_scores", short_of_memory)

    verification.verify(runner, compiled=True)

    assert in_float32
    assert runner.attention == fastest()
