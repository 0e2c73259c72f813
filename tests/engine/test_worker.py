"""A device process that can't load says why, and never just dies."""

import json
import socket
import threading

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from assay.cards.card import Card
from assay.engine import worker
from assay.scheduling.policy import WARM_UP
from assay.worker_protocol import ModelSpec, Progress, Start
from tests.engine.worker_process import heard
from tests.families import scalar

TULU = next(one for one in scalar.LAYOUTS if one.name == "tulu-3")


def answer(folder, card=None, compiling="off", attention="auto"):
    """Return what a worker says that is told to load a folder."""
    spec = ModelSpec("model", folder, card or Card(), "auto", 64, None)
    ours, theirs = socket.socketpair()
    start = Start("cpu", None, compiling, (spec,), WARM_UP, attention)
    thread = threading.Thread(target=worker.run, args=(start, theirs))
    thread.start()
    with ours:
        while isinstance(message := heard(ours), Progress):
            pass
        ours.shutdown(socket.SHUT_RDWR)
        thread.join()
    theirs.close()
    return message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_attention_heads": 0}, "Error"),
        ({"num_hidden_layers": 20_000_000}, "no model has more than 2048"),
        ({"vocab_size": 10_000_000}, "the largest tensor of the files has"),
        ({"hidden_act": "no-such-function"}, "no-such-function"),
        ({"rope_parameters": {"rope_type": "no-such-kind"}}, "no-such-kind"),
    ],
)
def test_what_nobody_foresaw_is_refused_in_a_sentence(tmp_path, change, said):
    """It isn't a dead process: the same files fail again, and the error has a name."""
    TULU.build(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change), encoding="utf-8")

    message = answer(tmp_path)

    assert str(tmp_path) in message.message
    assert said in message.message
    assert "\n" not in message.message


def test_a_head_of_more_numbers_than_the_card_takes_is_refused(tmp_path):
    """What was loaded has the last word, where no header told."""
    TULU.build(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.weight"] = weights["score.weight"].repeat(2, 1)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "config.json"
    said = json.loads(path.read_text()) | {"id2label": {"0": "a", "1": "b"}}
    path.write_text(json.dumps(said), encoding="utf-8")

    message = answer(tmp_path, Card(score={"outputs": ["a", "b"], "index": 2}))

    assert message.message.startswith("score.index: 2 is beyond the last")


def test_it_attends_as_it_is_told_or_says_why_it_can_not(tmp_path):
    """Nothing else stands in for what was named."""
    TULU.build(tmp_path)

    assert answer(tmp_path, compiling="auto", attention="blocks").attention == "blocks"
    assert "attention = 'varlen' can't be had: flash attention runs on a GPU, not on cpu" in (
        answer(tmp_path, attention="varlen").message
    )


@pytest.mark.parametrize("compiling", ["auto", "off"])
def test_a_large_model_says_that_there_is_no_compiler(tmp_path, monkeypatch, compiling):
    """No slower way without a word; unless that was asked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    config = LlamaConfig(
        vocab_size=640_000,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)

    message = answer(tmp_path, compiling=compiling)

    assert not message.is_compiled
    said = [one for one in message.warnings if "its blocks run uncompiled" in one]
    assert len(said) == (compiling == "auto")
