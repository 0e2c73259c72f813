"""`assay inspect` and `assay verify`: what a checkpoint is taken for, and whether it is right."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file, save_file

from assay.cards import catalogue, repository
from tests.families import attributes, contrast, process, scalar
from tests.http.processes import COMMAND, environment, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.families.layout import Layout

LAYOUTS = {
    layout.name: layout
    for module in (attributes, contrast, process, scalar)
    for layout in module.LAYOUTS
}


def build(name: str, folder: Path, *, has_card: bool = False) -> Layout:
    """Make a family's checkpoint, with the catalogue's card beside it if wanted."""
    layout = LAYOUTS[name]
    folder.mkdir(parents=True)
    layout.build(folder)
    if has_card:
        shutil.copy(catalogue.embedded() / layout.card / "card.toml", folder)
    return layout


def test_inspect_prints_the_card_and_the_tokens_that_are_read(tmp_path: Path) -> None:
    """A gated head is read at the prompt's end and at the last token."""
    build("armorm", tmp_path / "model")
    shown = run("inspect", tmp_path / "model", cwd=tmp_path)

    assert shown.returncode == 0
    assert "ArmoRM" in shown.stdout
    assert 'weight = "gating.layers.0.weight"' in shown.stdout
    assert "a sample of 23 tokens is read at 12, 22" in shown.stdout.replace("22, 12", "12, 22")
    assert "<|eot_id|> <|start_header_id|> assistant" in shown.stdout


def test_inspect_ends_with_3_where_it_is_in_doubt(tmp_path: Path) -> None:
    """It prints the card all the same, to begin with."""
    build("qwen2.5-math-prm", tmp_path / "model")
    shown = run("inspect", tmp_path / "model", cwd=tmp_path)

    assert shown.returncode == 3
    assert "doubt models/reasonflux-prm-7b" in shown.stdout
    assert 'pattern = [\n    "<extra_0>",\n]' in shown.stdout
    assert "isn't served until this is settled" in shown.stderr


def test_a_named_card_settles_it(tmp_path: Path) -> None:
    """`NAME=PATH` says whose files these are."""
    layout = build("qwen2.5-math-prm", tmp_path / "model")
    shown = run("inspect", f"{layout.card}={tmp_path / 'model'}", cwd=tmp_path)

    assert shown.returncode == 0
    assert "doubt" not in shown.stdout


def test_inspect_ends_with_3_where_a_start_would(tmp_path: Path) -> None:
    """A tensor of the trunk that the files lack, found without a weight being read."""
    layout = build("athene", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})

    shown = run("inspect", f"{layout.card}={tmp_path / 'model'}", "--json", cwd=tmp_path)

    said = json.loads(shown.stdout)
    assert shown.returncode == 3
    assert said["card"]["heads"]["reward"]["layers"][0]["weight"] == "v_head.weight"
    assert said["sample"]["read_positions"] == [len(said["sample"]["tokens"]) - 1]
    assert "lacks 'layers.1.mlp.up_proj.weight'" in said["error"]
    assert said["error"] in shown.stderr


def test_the_card_that_inspect_writes_is_the_one_that_is_taken(tmp_path: Path) -> None:
    """Into the checkpoint's own folder, where the shell makes an empty file first."""
    build("armorm", tmp_path / "model")
    found = repository.find(str(tmp_path / "model"), tmp_path)
    command = [*COMMAND, "inspect", str(tmp_path / "model"), "--card"]
    with (tmp_path / "model" / "card.toml").open("wb") as file:
        ended = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=file, check=False)

    assert ended.returncode == 0
    assert repository.find(str(tmp_path / "model"), tmp_path).card == found.card
    assert found.card.heads["gate"].layers


def test_inspect_refuses_what_has_no_reward(tmp_path: Path) -> None:
    """The message names the cards that such files could be of."""
    build("math-shepherd", tmp_path / "model")
    shown = run("inspect", tmp_path / "model", cwd=tmp_path)

    assert shown.returncode == 3
    assert "models/math-shepherd-mistral-7b-prm" in shown.stderr


@pytest.mark.parametrize(
    ("off", "options", "code", "word"), [(0.0, [], 0, "right"), (0.5, ["--json"], 1, "wrong")]
)
def test_verify_compares_the_golden_examples(
    tmp_path: Path, off: float, options: list[str], code: int, word: str
) -> None:
    """Weights, template and head are those the card was written for, or they aren't."""
    folder = tmp_path / "models" / "judge"
    layout = build("skywork-v2-qwen3", folder, has_card=True)
    item = layout.items[0]
    expected = layout.reference(folder, item).score
    assert expected is not None
    golden = (
        f'[[golden]]\nprompt = "{item["prompt"]}"\nresponse = "{item["response"]}"\n'
        f'score = {expected + off}\ntolerance = 0.0001\norigin = "the reference"\n'
    )
    card = (folder / "card.toml").read_text(encoding="utf-8")
    (folder / "card.toml").write_text(f"{card}\n{golden}", encoding="utf-8")
    command = ("verify", "judge", *options, "--repository", tmp_path / "models")
    shown = run(*command, cwd=tmp_path)

    assert shown.returncode == code
    assert word in shown.stdout
    if options:
        assert [row["verdict"] for row in json.loads(shown.stdout)] == [word]


def test_verify_needs_golden_examples(tmp_path: Path) -> None:
    """A card without any says so."""
    build("ultrarm", tmp_path / "models" / "judge", has_card=True)
    shown = run("verify", "judge", "--repository", tmp_path / "models", cwd=tmp_path)

    assert shown.returncode == 3
    assert "no golden examples" in shown.stderr
