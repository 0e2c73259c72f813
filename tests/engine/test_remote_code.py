"""Code of a checkpoint's own: run where it is trusted, with its own numbers; else never."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cards import code
from assay.cards.card import Card
from assay.engine import checkpoint, remote_code, trusted
from assay.errors import CheckpointError
from assay.worker_protocol import PrefixBatch
from tests.engine import own_code
from tests.fidelity import checkpoints, quantizing, reference

CPU = torch.device("cpu")


@pytest.fixture
def plain(tmp_path):
    """A small Qwen3 reward checkpoint, whose folder's name no other test's has."""
    return checkpoints.make(tmp_path / f"{tmp_path.name}-model", "qwen3", vocabulary=300)


def ids():
    """Return sequences of several lengths."""
    random = np.random.default_rng(3)
    return [random.integers(3, 300, size=size).astype(np.int32) for size in (1, 2, 17, 90, 91)]


def load(folder, card=None):
    """Load on CPU and verify."""
    trust = code.Trust(code.digest(folder), folder.parent / "private")
    trunk = remote_code.load("mine", folder, card or Card(), trust, device=CPU, dtype=torch.float32)
    trunk.verify()
    return trunk


@torch.inference_mode()
def doubled(plain):
    """Return what the code computes, by transformers' own class."""
    return 2 * reference.eager(plain, ids()) + 1


def test_without_trust_the_code_is_not_run_and_the_reason_said(plain):
    """The refusal names the class, and the flag with what it would have to say."""
    folder, marker = own_code.bring(plain)

    trusting = f"--trust-remote-code NAME@{code.digest(folder)}"
    with pytest.raises(CheckpointError, match=rf"class 'Doubled'.*{trusting}"):
        checkpoint.load(folder, Card(), device=CPU, dtype=torch.float32)

    assert not marker.exists()


def test_a_class_that_transformers_has_needs_no_code(plain):
    """Code beside a known class is left alone."""
    wanted = reference.eager(plain, ids())
    folder, marker = own_code.bring(plain)
    path = folder / "config.json"
    known = {"model_type": "qwen3", "architectures": ["Qwen3ForSequenceClassification"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | known))

    scores = reference.alone(reference.load(folder), ids())

    assert np.abs(scores - wanted).max() < reference.FLOAT32_TOLERANCE
    assert not marker.exists()


def test_a_quantized_checkpoint_is_not_run_by_its_own_code(plain):
    """What its code makes of packed weights is nobody's to say; none of it is run."""
    quantizing.quantize(plain, *quantizing.int8())
    folder, marker = own_code.bring(plain)

    with pytest.raises(CheckpointError, match=r"quantized \(bitsandbytes, 8 bit\) and brings code"):
        load(folder)

    assert not marker.exists()


@pytest.mark.parametrize(
    "last", ["attention_mask.sum(1) - 1", "-1"], ids=["padded", "only right alone"]
)
def test_trusted_code_gives_its_own_numbers(plain, last):
    """In one batch and alone; where padding would change them, items run alone."""
    wanted = doubled(plain)
    folder, marker = own_code.bring(plain, last=last)

    trunk = load(folder)
    together = trunk.score(PrefixBatch.unshared(ids()))[:, 0]

    assert marker.exists()
    assert trunk.forward == "padded"
    assert (trunk.padded_tokens(PrefixBatch.unshared(ids())) > 0) == (last != "-1")
    assert trunk.outputs == {"reward": 1}
    assert wanted.std() > 0.01
    assert np.abs(together - wanted).max() < reference.FLOAT32_TOLERANCE
    assert np.abs(reference.alone(trunk, ids()) - wanted).max() < reference.FLOAT32_TOLERANCE


def test_several_numbers_need_a_card_that_names_them(plain):
    """What each of them is can't be guessed."""
    folder, _ = own_code.bring(plain, logits="self.score(hidden[rows, last]).repeat(1, 2)")
    card = Card.model_validate({"score": {"outputs": ["help", "harm"]}})

    with pytest.raises(CheckpointError, match=r"shape \(1, 2\)"):
        load(folder)

    assert load(folder, card).outputs == {"reward": 2}


def test_code_that_was_changed_is_not_run(plain):
    """Neither what was there before it was read, nor what came after: nothing at all."""
    folder, marker = own_code.bring(plain)
    trust = code.Trust(code.digest(folder), folder.parent / "private")
    with (folder / "modeling_doubled.py").open("a") as file:
        file.write("\n# another line\n")

    with pytest.raises(CheckpointError, match=f"trusted at {trust.digest}, and here is"):
        remote_code.load("mine", folder, Card(), trust, device=CPU, dtype=torch.float32)

    assert not marker.exists()
    assert not trust.private.exists()


def test_what_was_held_against_the_pin_is_what_is_run(plain):
    """Whoever changes the folder from then on changes nothing, nor does a compiled file in it."""
    folder, marker = own_code.bring(plain)
    trust = code.Trust(code.digest(folder), folder.parent / "private")
    with trusted.copied("mine", folder, trust) as private:
        for path in folder.glob("*.py"):
            path.write_text("raise SystemExit")

        found = trusted.model_class(private, trust.digest, "AutoModelForSequenceClassification")

    assert found.__name__ == "Doubled"
    assert Path(sys.modules[found.__module__].__file__).parent == trust.private
    assert marker.exists()
    assert trust.private.stat().st_mode & 0o777 == 0o700


def test_what_is_not_pinned_is_not_there_for_the_code(plain):
    """A library, a pickle, what is hidden: only what was read when it was trusted, and weights."""
    folder, _ = own_code.bring(plain)
    for name in ("kernel.so", "head.pt", ".hidden.py", "__pycache__/modeling_doubled.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"anything")
    trust = code.Trust(code.digest(folder), folder.parent / "private")

    with trusted.copied("mine", folder, trust) as private:
        there = {path.name for path in private.rglob("*")}

    assert {"modeling_doubled.py", "config.json", "model.safetensors"} <= there
    assert not there & {"kernel.so", "head.pt", ".hidden.py", "modeling_doubled.pyc"}


def test_an_error_names_the_folder_that_the_operator_knows(plain):
    """Not the private one."""
    folder, _ = own_code.bring(plain)
    (folder / "modeling_doubled.py").write_text("raise ValueError('no')")

    with pytest.raises(CheckpointError) as refused:
        load(folder)

    assert str(folder) in refused.value.message
    assert "private" not in refused.value.message


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ("self.score(hidden)", r"gives numbers of shape \(1, 5, 1\)"),
        ("undefined", r"forward pass fails \(NameError\)"),
        ("self.score(hidden[rows, last]) / 0", "aren't finite"),
    ],
)
def test_a_forward_pass_that_is_no_reward_is_refused(plain, logits, message):
    """One number for each token, an exception and infinity each say so."""
    folder, _ = own_code.bring(plain, logits=logits)

    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_every_tensor_is_accounted_for(plain):
    """Code of its own may no more leave a tensor random, or unread, than transformers'."""
    folder, _ = own_code.bring(plain)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"v_head.weight": torch.ones(1)}, path, metadata={"format": "pt"})

    with pytest.raises(CheckpointError, match=r"holds 'v_head\.weight'"):
        load(folder)

    del tensors["score.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 'score\.weight'"):
        load(folder)


def test_code_that_fails_to_load_is_refused_with_its_error(plain):
    """An import that isn't there names the module."""
    folder, _ = own_code.bring(plain)
    with (folder / "modeling_doubled.py").open("a") as file:
        file.write("\nimport flash_attention_of_yesterday\n")

    with pytest.raises(CheckpointError, match="flash_attention_of_yesterday"):
        load(folder)


def test_a_card_that_reads_elsewhere_is_refused(plain):
    """Reading places belong to Assay's heads."""
    folder, marker = own_code.bring(plain)
    card = Card.model_validate({"read": {"at": "pattern", "pattern": ["+"]}})

    with pytest.raises(CheckpointError, match="its card can't have"):
        load(folder, card)

    assert not marker.exists()
