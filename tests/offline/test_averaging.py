"""The mean of checkpoints' weights, against torch's own, and what isn't averaged."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from assay.cards import card as cards
from assay.cards import headers, repository
from assay.cli import app
from assay.errors import CheckpointError
from assay.offline import averaging
from tests.http import checkpoints

CARD = "summary = 'One of three.'\n[statistics]\nmean = 1.0\nstd = 2.0\n[limits]\nmax_tokens = 99\n"
SHARD = "model-0000{}-of-00002.safetensors"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint with a card, of two shards."""
    folder = checkpoints.build(tmp_path_factory.mktemp("averaging") / "start")
    (folder / "card.toml").write_text(CARD)
    weights = load_file(folder / headers.WEIGHTS)
    names = sorted(weights)
    halves = names[::2], names[1::2]
    for number, half in enumerate(halves, 1):
        save_file({name: weights[name] for name in half}, folder / SHARD.format(number))
    places = {name: SHARD.format(n) for n, half in enumerate(halves, 1) for name in half}
    (folder / headers.INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / headers.WEIGHTS).unlink()
    return folder


def tuned(start, folder, seed, change=None):
    """Copy a checkpoint, every number moved at random, in one file; then changed."""
    shutil.copytree(start, folder)
    weights, generator = of(start), torch.Generator().manual_seed(seed)
    moved = {
        name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }
    (folder / headers.INDEX).unlink()
    for number in (1, 2):
        (folder / SHARD.format(number)).unlink()
    save_file(change(moved) if change else moved, folder / headers.WEIGHTS)
    return folder


def of(folder):
    """Return every tensor of a folder."""
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def average(*folders, output):
    """Average as the command does."""
    averaging.average([repository.find(str(one), output.parent) for one in folders], output)
    return output


def test_the_average_is_torchs_mean_whatever_files_the_numbers_are_in(start, tmp_path):
    """WARM is θ = Σ θ_i / M; the first one's shards and names stay."""
    others = [tuned(start, tmp_path / str(seed), seed) for seed in (1, 2)]

    found = of(average(start, *others, output=tmp_path / "mean"))

    every = [of(folder) for folder in (start, *others)]
    assert found.keys() == every[0].keys()
    for name, tensor in found.items():
        expected = torch.stack([weights[name] for weights in every]).mean(0)
        torch.testing.assert_close(tensor, expected, rtol=1e-6, atol=1e-7)
    assert headers.weights(tmp_path / "mean").name == headers.INDEX


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_keep_their_type_and_are_added_in_float32(start, tmp_path, dtype):
    """Of 16 bits the mean is rounded once, to nearest."""
    folders = [
        tuned(start, tmp_path / str(seed), seed, lambda w: {n: t.to(dtype) for n, t in w.items()})
        for seed in (1, 2, 3)
    ]

    found = of(average(*folders, output=tmp_path / "mean"))

    every = [of(folder) for folder in folders]
    for name, tensor in found.items():
        a, b, c = (weights[name].float() for weights in every)
        assert tensor.dtype == dtype
        assert torch.equal(tensor, ((a + b + c) / 3).to(dtype)), name


def test_the_card_is_the_first_ones_and_names_all_of_them(start, tmp_path):
    """Nothing that was measured of one is said of the mean."""
    other = tuned(start, tmp_path / "other", 1)
    (other / "card.toml").write_text("summary = 'Another.'\n")

    card = cards.read(average(start, other, output=tmp_path / "mean"))

    assert (card.summary, card.statistics, card.limits.max_tokens) == ("One of three.", None, 99)
    assert [(one.name, one.revision) for one in card.averaged] == [
        (folder.name, repository.revision(folder, cards.read(folder))) for folder in (start, other)
    ]


def edited(file, change):
    """Return what edits a folder's JSON file."""

    def edit(folder):
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))

    return edit


def without(name):
    """Return what takes a tensor away."""
    return lambda weights: {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("change", "edit", "words"),
    [
        (without("score.weight"), None, "has a tensor 'score.weight' and"),
        (
            lambda w: {**w, "score.weight": w["score.weight"][:, :8].contiguous()},
            None,
            "differ in the shape of 'score.weight': [1, 32] and [1, 8]",
        ),
        (
            lambda w: {**w, "score.weight": w["score.weight"].half()},
            None,
            "differ in the dtype of 'score.weight': F32 and F16",
        ),
        (
            lambda w: {**w, "score.weight": w["score.weight"] / 0},
            None,
            "'score.weight' has numbers whose mean isn't finite",
        ),
        (
            None,
            edited("config.json", lambda content: content.update(rope_theta=5.0)),
            "differ in config.json: 'rope_theta' isn't the same",
        ),
        (
            None,
            lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
            "differ in their tokenizer's files or chat template",
        ),
        (
            None,
            lambda folder: (folder / "card.toml").write_text("[score]\ntransform = 'negate'\n"),
            "differ in their cards",
        ),
    ],
)
def test_what_is_no_fine_tune_of_the_same_is_refused(start, tmp_path, change, edit, words):
    """In one sentence, and nothing is left."""
    other = tuned(start, tmp_path / "other", 1, change)
    if edit is not None:
        edit(other)
    with pytest.raises(CheckpointError) as error:
        average(start, other, output=tmp_path / "out" / "mean")

    assert words in error.value.message
    assert not list((tmp_path / "out").iterdir() if (tmp_path / "out").exists() else [])


def test_an_output_that_is_there_and_a_lone_checkpoint_are_refused(start, tmp_path):
    """Nothing is written over."""
    other = tuned(start, tmp_path / "other", 1)
    for folders, output, words in (
        ((start, other), start, "is there already"),
        ((start,), tmp_path / "mean", "at least two different checkpoints"),
        ((start, start), tmp_path / "mean", "at least two different checkpoints"),
    ):
        with pytest.raises(CheckpointError, match=words):
            average(*folders, output=output)


def test_the_command_says_what_it_wrote_or_why_nothing(start, tmp_path):
    """Exit codes as those of other commands: 3 where a checkpoint can't be used."""
    other = tuned(start, tmp_path / "other", 1)
    arguments = ["average", str(start), str(other), "--output", str(tmp_path / "mean")]
    first, again = (CliRunner().invoke(app, arguments) for _ in range(2))

    assert (first.exit_code, again.exit_code) == (0, 3)
    assert "has the mean of 2 checkpoints' weights" in first.stdout.replace("\n", " ")
    assert (tmp_path / "mean" / headers.INDEX).is_file()
