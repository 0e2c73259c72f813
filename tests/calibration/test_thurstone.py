"""Absolute targets of compared responses, against other ways to the same likelihood."""

import json
import math
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import erf, erfinv
from scipy.stats import spearmanr

from assay.calibration import pairs, thurstone
from assay.calibration.measured import Pairs

SOLVED = 1e-5  # what a minimizer without derivatives leaves of a minimum that is flat around it
PRIOR = 1e-3  # what the prior moves where thousands of comparisons speak
FIGURES = 1e-5  # relative: a report has six digits


def loss(e, better, worse):
    """Return −log of Thurstone's likelihood and of the prior, as they are defined."""
    won = (1 + erf(e[better] - e[worse])) / 2
    return -np.log(np.maximum(won, 1e-300)).sum() + 0.1 * (e**2).sum() / 2


def compared(rows, scores=None, references=(), groups=None):
    """Return pairs of (prompt, better, worse) with a score for each text."""
    texts = [(better, worse) for _, better, worse in rows]
    values = [[(scores or {}).get(text, 0.0) for text in both] for both in texts]
    found = np.array(values, dtype=float).reshape(-1, 2)
    return Pairs(
        groups or [prompt for prompt, *_ in rows],
        [prompt for prompt, *_ in rows],
        texts,
        [(better in references, worse in references) for better, worse in texts],
        found,
        found[:, :, None],
    )


@pytest.mark.parametrize("seed", range(4))
def test_strengths_are_those_of_a_general_minimizer(seed):
    """Over graphs of any density, where some responses never lose and some never win."""
    chance = np.random.default_rng(seed)
    count = int(chance.integers(3, 7))
    ends = np.array([chance.choice(count, 2, replace=False) for _ in range(3 * count * (seed + 1))])
    better, worse = np.sort(ends, axis=1).T if seed == 0 else ends.T

    found = thurstone.strengths(better, worse, count)

    expected = minimize(
        partial(loss, better=better, worse=worse),
        np.zeros(count),
        method="Nelder-Mead",
        options={
            "xatol": 1e-9,
            "fatol": 1e-13,
            "maxiter": 50_000,
            "maxfev": 50_000,
            "adaptive": True,
        },
    ).x
    assert found == pytest.approx(expected, abs=SOLVED)
    assert found.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("won", [5_000, 7_000, 9_500])
def test_two_that_were_compared_often_differ_by_the_inverse_of_the_model(won):
    """½ (1 + erf(d)) is the share that the first won."""
    better = np.repeat([0, 1], [won, 10_000 - won])

    e = thurstone.strengths(better, 1 - better, 2)

    assert e[0] - e[1] == pytest.approx(erfinv(2 * won / 10_000 - 1), abs=PRIOR)


def test_one_that_always_wins_has_a_finite_target():
    """However often: without a prior there is no maximum."""
    better, worse = np.zeros(1_000, dtype=int), np.repeat([1, 2], 500)

    e = thurstone.strengths(better, worse, 3)

    assert np.isfinite(e).all()
    assert e[0] > e[1]
    assert e[1] == pytest.approx(e[2], abs=1e-9)


def test_targets_are_of_responses_that_comparisons_connect():
    """Two alone say nothing of how good they are; what isn't connected is apart."""
    rows = [("p", "a", "b"), ("p", "b", "c"), ("p", "x", "y"), ("q", "a", "b")]

    found = thurstone.targets(compared(rows, {"a": 3.0, "b": 2.0, "c": 1.0}))

    assert found.scores.tolist() == [3.0, 2.0, 1.0]
    assert found.targets == pytest.approx(
        thurstone.strengths(np.array([0, 1]), np.array([1, 2]), 3)
    )
    assert found.groups == ["p"] * 3


def test_targets_dont_depend_on_the_order_of_lines():
    """Each response has its own."""
    chance = np.random.default_rng(5)
    rows = [
        (f"p{prompt}", *chance.choice(list("abcdef"), 2, replace=False))
        for prompt in range(9)
        for _ in range(8)
    ]
    scores = {text: place for place, text in enumerate("abcdef")}

    one, other = (
        sorted(zip(found.groups, found.scores, found.targets.round(9), strict=True))
        for found in (thurstone.targets(compared(each, scores)) for each in (rows, rows[::-1]))
    )

    assert one == other


def test_reference_answers_are_at_zero():
    """On average, prompt by prompt; what isn't compared with one is left out."""
    rows = [("p", "a", "r"), ("p", "r", "c"), ("p", "s", "c"), ("q", "a", "b"), ("q", "b", "c")]
    pairs_ = compared(rows, dict(zip("arcsb", range(5), strict=True)), references=("r", "s"))

    plain, anchored = (thurstone.targets(pairs_, zero) for zero in ("prompt", "reference"))

    by_score = dict(zip(anchored.scores, anchored.targets, strict=True))
    assert by_score[1] + by_score[3] == pytest.approx(0)
    assert anchored.groups == ["p"] * 4
    assert anchored.targets - plain.targets[:4] == pytest.approx(
        anchored.targets[0] - plain.targets[0]
    )
    assert plain.targets[:4].sum() == pytest.approx(0)


def graphs(seed, prompts, slope, references=()):
    """Return comparisons of four responses to each prompt, by scores that differ in quality."""
    chance = np.random.default_rng(seed)
    rows, scores = [], {}
    for prompt in range(prompts):
        texts = [f"{seed} {prompt} {place}" for place in range(4)]
        quality = chance.normal(size=4)
        scores |= dict(zip(texts, slope * quality + 5.0, strict=True))
        for _ in range(12):
            i, j = chance.choice(4, 2, replace=False)
            first = chance.random() < (1 + math.erf(quality[i] - quality[j])) / 2
            rows.append((f"{seed} {prompt}", texts[i if first else j], texts[j if first else i]))
    return compared(rows, scores, references)


def test_the_line_is_that_of_least_squares():
    """And its report is of the other responses, against scipy's rank correlation."""
    fitted_on, held_out = graphs(1, 60, 3.0), graphs(2, 60, 3.0)

    table, said = thurstone.absolute(fitted_on, held_out, 0)

    inside, outside = thurstone.targets(fitted_on), thurstone.targets(held_out)
    slope, intercept = np.polyfit(inside.scores, inside.targets, 1)
    assert (table.slope, table.intercept) == pytest.approx((slope, intercept))
    errors = outside.targets - (slope * outside.scores + intercept)
    assert table.rmse.value == pytest.approx(np.sqrt((errors**2).mean()), rel=FIGURES)
    assert table.constant.value == pytest.approx(
        np.sqrt(((outside.targets - inside.targets.mean()) ** 2).mean()), rel=FIGURES
    )
    assert table.spearman.value == pytest.approx(
        spearmanr(outside.scores, outside.targets).statistic, rel=FIGURES
    )
    assert table.rmse.value < table.constant.value
    for figure in (table.rmse, table.constant, table.spearman):
        assert figure.interval[0] < figure.value < figure.interval[1]
    assert (table.fitted, table.held_out, table.prompts) == (240, 240, 60)
    assert json.loads(json.dumps(said, allow_nan=False))["zero"] == "prompt"


def test_a_score_that_goes_the_wrong_way_says_nothing():
    """A better response has no lower reward; the mean is all that is left."""
    table, _ = thurstone.absolute(graphs(1, 30, -1.0), graphs(2, 30, -1.0), 0)

    assert table.slope == 0
    assert table.reward(100.0) == pytest.approx(0, abs=1e-9)
    assert table.spearman.value < 0


def test_a_reference_decides_what_zero_is():
    """Each prompt's is there, and the line is fitted to what the others are by it."""
    references = {f"{seed} {prompt} 0" for seed in (1, 2) for prompt in range(40)}
    sides = [graphs(seed, 40, 2.0, references) for seed in (1, 2)]

    table, _ = thurstone.absolute(*sides, 0)

    inside = thurstone.targets(sides[0], "reference")
    at = np.isin(inside.scores, sides[0].scores[np.array(sides[0].references)])
    assert table.zero == "reference"
    assert at.sum() == 40
    assert inside.targets[at].mean() == pytest.approx(0, abs=1e-9)
    assert (table.slope, table.intercept) == pytest.approx(
        tuple(np.polyfit(inside.scores, inside.targets, 1))
    )


@pytest.mark.parametrize("prompts", [(5, 60), (60, 5)])
def test_few_responses_in_graphs_are_no_targets(prompts):
    """On either side; pairs of two responses each never are."""
    alone = compared([(f"p{number}", f"a{number}", f"b{number}") for number in range(90)])

    assert thurstone.absolute(graphs(1, prompts[0], 1.0), graphs(2, prompts[1], 1.0), 0) is None
    assert thurstone.absolute(alone, alone, 0) is None


def test_a_line_may_name_a_reference_answer(tmp_path):
    """A text, or messages that end with it; beside a pair or a score."""
    line = {"prompt": "p", "chosen": "a", "rejected": "b"}
    file = tmp_path / "pairs.jsonl"
    messages = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}]
    lines = [
        {**line, "reference": "b"},
        {"prompt": "p", "response": "a", "score": 1.0, "reference": messages},
        line,
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))

    assert [example.reference for example in pairs.read(file)] == ["b", "r", None]
