"""A last layer's Laplace approximation: against the second derivative, and served as a head."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from assay.cards import catalogue, repository
from assay.errors import CheckpointError, MalformedBody
from assay.offline import laplace
from assay.settings import Settings
from tests.families import layout as layouts
from tests.families import scalar
from tests.families.serving import Served
from tests.http import checkpoints

PRECISION = 0.5
WORDS = "one two three four five six seven eight nine ten eleven twelve".split()
PAIRS = [
    {
        "prompt": f"Say {WORDS[i % 12]} and {WORDS[(5 * i + 1) % 12]}.",
        "chosen": f"{WORDS[i % 12]} {WORDS[(5 * i + 1) % 12]}",
        "rejected": " ".join(WORDS[j % 12] for j in range(i % 7, i % 7 + 1 + i % 5)) + "!",
    }
    for i in range(laplace.LEAST_PAIRS + 4)
]

ITEMS = [{"prompt": pair["prompt"], "response": pair["rejected"]} for pair in PAIRS[:5]]
INF_ORM = next(one for one in scalar.LAYOUTS if one.name == "inf-orm")
CLOSE = 1e-4  # of a variance: float32 states through a factor that is ill conditioned


def test_the_precision_is_the_second_derivative_of_the_loss():
    """Of Bradley-Terry's negative log-likelihood and a Gaussian prior, by torch's autograd."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    theta = torch.randn(5, generator=generator, dtype=torch.float64)

    def loss(weights):
        prior = PRECISION / 2 * weights @ weights
        return prior - torch.nn.functional.logsigmoid(z @ weights).sum()

    expected = torch.autograd.functional.hessian(loss, theta).numpy()
    found = PRECISION * np.eye(5) + laplace.hessian_of(z.numpy(), (z @ theta).numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def found(folder):
    """Return what a folder is."""
    return repository.find(str(folder), folder.parent)


def written(path, rows):
    """Write a file of lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def fit(folder, file):
    """Fit as the command does."""
    settings = Settings(compile="off", device=("cpu",))
    return await laplace.fit(found(folder), file, settings, precision=PRECISION)


def covariance(phi, weight):
    """Return H⁻¹ of the pairs, one at a time, of φ of an item and the last layer's weight."""
    hessian = PRECISION * np.eye(len(weight))
    for pair in PAIRS:
        chosen, rejected = (
            phi({"prompt": pair["prompt"], "response": pair[key]}) for key in ("chosen", "rejected")
        )
        z = chosen - rejected
        p = 1 / (1 + math.exp(-(weight @ z)))
        hessian += p * (1 - p) * np.outer(z, z)
    return np.linalg.inv(hessian)


def last_states(folder):
    """Return the function from an item to the trunk's state at its last token, by transformers."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    trunk = transformers.AutoModel.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    ).eval()

    @torch.no_grad()
    def read(item):
        text = tokenizer.apply_chat_template(layouts.turns(item), tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        return trunk(input_ids=ids).last_hidden_state[0, -1].double().numpy()

    return read


def agree(verdicts, phi, weight):
    """Assert that each item's variance is φᵀH⁻¹φ."""
    inverse = covariance(phi, weight)
    for item, verdict in zip(ITEMS, verdicts, strict=True):
        assert verdict.spread.kind == "laplace"
        expected = phi(item) @ inverse @ phi(item)
        assert verdict.spread.variance == pytest.approx(expected, rel=CLOSE)


async def test_a_stock_checkpoint_says_how_sure_it_is_once_fitted(tmp_path):
    """√(φᵀH⁻¹φ) of the hidden state that `score.weight` takes; its scores keep every bit."""
    folder = checkpoints.build(tmp_path / "tiny")
    (folder / "card.toml").write_text("# Kept.\n[statistics]\nmean = 0.0\nstd = 4.0\n")
    before = Served(folder)

    fitted = await fit(folder, written(tmp_path / "pairs.jsonl", PAIRS))

    after = Served(folder)
    plain, verdicts = before.verdicts(ITEMS), after.verdicts(ITEMS)
    assert fitted.pairs == len(PAIRS)
    assert [one.rewards for one in verdicts] == [one.rewards for one in plain]
    weight = load_file(folder / "model.safetensors")["score.weight"][0].astype(float)
    agree(verdicts, last_states(folder), weight)
    assert (folder / "card.toml").read_text().startswith("# Kept.\n[statistics]\n")
    assert after.target.revision != before.target.revision


async def test_layers_below_the_last_one_go_along_into_the_heads_own_file(tmp_path):
    """φ is what they give: of INF-ORM's head a product and a ReLU."""
    folder = tmp_path / "inf-orm"
    folder.mkdir()
    INF_ORM.build(folder)
    shutil.copy(catalogue.embedded() / INF_ORM.card / "card.toml", folder)

    await fit(folder, written(tmp_path / "pairs.jsonl", PAIRS))

    tensors, _ = layouts.read(folder)
    own = load_file(folder / laplace.FILE_NAME)
    state = last_states(folder)

    def phi(item):
        inner = tensors["score.0.weight"].double().numpy() @ state(item)
        return np.maximum(inner + tensors["score.0.bias"].double().numpy(), 0)

    assert set(own) == {"laplace.factor", "score.0.weight", "score.0.bias"}
    agree(Served(folder).verdicts(ITEMS), phi, tensors["score.2.weight"][0].double().numpy())


def with_row(place, **changed):
    """Return the pairs with one changed."""
    rows = [dict(row) for row in PAIRS]
    rows[place] = {key: value for key, value in {**rows[place], **changed}.items() if value}
    return rows


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (PAIRS[:49], "has 49 pairs; a fit needs at least 50"),
        ([], "has 0 pairs"),
        (with_row(2, rejected=PAIRS[2]["chosen"]), "line 3: both responses are the same text"),
        (with_row(1, rejected=None), "line 2: send either 'responses', or 'chosen'"),
        (with_row(4, prompt=None), "line 5: prompt: "),
        (with_row(0, label=1), "line 1: label: unknown field"),
    ],
)
async def test_pairs_that_are_none_are_refused_by_their_line(tmp_path, rows, words):
    """One sentence, and nothing is written."""
    folder = checkpoints.build(tmp_path / "tiny")
    before = sorted(folder.iterdir())
    with pytest.raises(MalformedBody) as error:
        await fit(folder, written(tmp_path / "pairs.jsonl", rows))

    assert words in error.value.message
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("[score]\ntransform = 'sigmoid'\n", "isn't the one number of a last linear layer"),
        (
            "heads.reward.layers = [{op = 'linear', weight = 'score.weight'}, {op = 'tanh'}]",
            "doesn't end in a linear layer",
        ),
        ("[ensemble]\nmembers = ['a', 'b']\n", "isn't one model with one score"),
    ],
)
async def test_a_model_without_such_a_last_layer_is_refused(tmp_path, card, words):
    """Before anything is loaded."""
    folder = checkpoints.build(tmp_path / "tiny")
    (folder / "card.toml").write_text(card)
    with pytest.raises(CheckpointError) as error:
        await fit(folder, written(tmp_path / "pairs.jsonl", PAIRS))

    assert words in error.value.message
