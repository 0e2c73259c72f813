"""Adapters on one base, as callers and operators see them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import peft
import pytest
import torch
import transformers

from tests.http.processes import serving
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("first", "second", "third")
TOLERANCE = 1e-5


def adapter(folder: Path, base: Path, number: int) -> Path:
    """Write an adapter of the base's last layer, with a head of its own."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["q_proj", "down_proj"], layers_to_transform=[1]
    )
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(number)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return folder


@torch.inference_mode()
def expected(folder: Path, base: Path, ids: list[int]) -> float:
    """Return the score of peft's own forward pass."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        base, attn_implementation="eager"
    )
    adapted = peft.PeftModel.from_pretrained(model, folder).eval()
    adapted.config.pad_token_id = None
    return float(adapted(input_ids=torch.tensor([ids])).logits[0, 0])


# transformers warns of its own old name, which peft still uses
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_ensemble_of_adapters_on_one_base_answers_each_ones_own_scores(
    bare: Path, tmp_path: Path
) -> None:
    """`/models` says what they share; an item's bits don't depend on who else is asked."""
    folders = [adapter(tmp_path / name, bare, number) for number, name in enumerate(NAMES)]
    with serving(tmp_path / "run", *folders, ensembles=json.dumps({"three": NAMES})) as server:
        ids = server.http.post("/tokenize", json={"inputs": PAIR, "model": "first"}).json()
        together = server.score(inputs=[PAIR], model="three", include=["members"]).json()
        alone = {name: server.score(inputs=PAIR, model=name).json() for name in NAMES}
        entries = {entry["id"]: entry for entry in server.http.get("/models").json()["data"]}

    (tokenized,) = ids["data"]
    wanted = {
        name: expected(folder, bare, tokenized["input_ids"])
        for name, folder in zip(NAMES, folders, strict=True)
    }
    members = together["data"][0]["members"]
    assert members == {name: alone[name]["data"][0]["score"] for name in NAMES}
    assert members == pytest.approx(wanted, abs=TOLERANCE)
    assert len(set(members.values())) == len(NAMES)
    assert [entries[name]["shared_base"] for name in NAMES] == [list(NAMES)] * len(NAMES)
