"""From answers to a calibration: divided by prompt, the best kept, refused where it can't be."""

import json
from dataclasses import replace

import numpy as np
import pytest

from assay.bulk import Target
from assay.calibration import fit, measured, pairs, plot, procedure
from assay.calibration.pairs import Example
from assay.cards import calibration as cards
from assay.errors import InvalidField

TARGET = Target(model="m", revision="r")
OVERCONFIDENT = 4.0  # how many times its margins are what they should be
# The sums of a fit in another order.
ROUNDING = 1e-6


def compared(number, margins, length=5):
    """Return a pair and its answer by members with these margins."""
    example = Example("chosen", f"g{number}", f"p{number}", ("a" * length, "b"))
    members = {f"member-{place}": float(margin) for place, margin in enumerate(margins)}
    mean = float(np.mean(margins))
    return example, {
        "scores": [mean, 0.0],
        "margin_std": float(np.std(margins)),
        "members": [members, dict.fromkeys(members, 0.0)],
    }


def labelled(number, label, score):
    """Return a labelled response and its answer by one model."""
    example = Example("label", f"g{number}", f"p{number}", ("a" * 7,), float(label))
    return example, {"score": float(score), "uncertainty": None}


def drawn(count, seed=0):
    """Return pairs by two overconfident members, and as many labelled responses."""
    chance = np.random.default_rng(seed)
    found = []
    for number in range(count):
        size = chance.exponential(1.0)
        sign = 1 if chance.random() < 1 / (1 + np.exp(-size)) else -1
        noise = chance.normal(size=2) / 4
        margins = OVERCONFIDENT * (sign * size + noise - noise.mean())
        found.append(compared(number, margins, int(chance.integers(2, 400))))
    for number in range(count):
        label = chance.random() < 0.5
        found.append(labelled(number, label, chance.normal(2.0 * label)))
    return found


def calibrated(cases, options=None):
    """Return the calibration and the report of pairs with their answers."""
    examples, answers = zip(*cases, strict=True)
    found = measured.measured(examples, answers)
    return procedure.calibrate(found, TARGET, "pairs.jsonl", options or procedure.Options())


@pytest.fixture(scope="module")
def result():
    """A calibration of many pairs, and its report."""
    return calibrated(drawn(1_500))


def test_an_overconfident_target_is_calibrated(result):
    """NLL, Brier score and ECE fall on the held-out half; so by the intervals of the change."""
    calibration, _ = result
    report = calibration.preference.report

    for name in ("nll", "brier", "ece"):
        assert getattr(report.after, name).value < getattr(report.before, name).value
        assert getattr(report.change, name).interval[1] < 0
    assert calibration.preference.probability(OVERCONFIDENT) == pytest.approx(
        1 / (1 + np.exp(-1)), abs=0.1
    )


def test_the_method_with_the_lowest_cross_validated_nll_is_kept(result):
    """Each was tried, and none at all; that helps here."""
    calibration, report = result

    methods = report["preference"]["methods"]
    assert methods.keys() == {"none", "temperature", "platt", "isotonic"}
    assert calibration.preference.method == min(methods, key=methods.get)
    assert report["preference"]["helps"] is True


def test_a_method_is_chosen_without_what_is_reported():
    """Other held-out pairs, all of them wrong, have the same method by the same numbers."""
    cases = drawn(400)
    turned = [
        (example, {**answer, "scores": answer["scores"][::-1], "members": answer["members"][::-1]})
        if example.kind == "chosen" and pairs.is_held_out(example.group, 0)
        else (example, answer)
        for example, answer in cases
    ]

    one, other = (calibrated(each)[0].preference for each in (cases, turned))

    assert other.report.methods == one.report.methods
    assert other.model_dump(exclude={"report"}) == one.model_dump(exclude={"report"})
    assert other.report.after.nll.value > one.report.after.nll.value


def test_cross_validation_leaves_whole_prompts_out():
    """By hand: each fifth of the prompts by what is fitted to the others."""
    cases = [case for case in drawn(400) if case[0].kind == "chosen"]
    calibration, _ = calibrated(cases)

    fitted_on = [case for case in cases if not pairs.is_held_out(case[0].group, 0)]
    margins = np.array([answer["scores"][0] for _, answer in fitted_on])
    folds = np.array(pairs.folds([example.group for example, _ in fitted_on], 0))
    losses = np.concatenate(
        [
            np.logaddexp(
                0, -margins[folds == fold] / fit.temperature(margins[folds != fold]).temperature
            )
            for fold in range(5)
        ]
    )
    assert calibration.preference.report.methods["temperature"] == pytest.approx(
        losses.mean(), abs=ROUNDING
    )


def test_what_is_calibrated_by_itself_stays_as_it_is():
    """No method is kept where none has a lower log loss; the report says that nothing is gained."""
    chance = np.random.default_rng(3)
    sizes = chance.exponential(2.0, 800)
    right = chance.random(800) < 1 / (1 + np.exp(-sizes))
    cases = [
        compared(number, [size if is_right else -size])
        for number, (size, is_right) in enumerate(zip(sizes, right, strict=True))
    ]

    calibration, report = calibrated(cases)

    assert calibration.preference.method == "none"
    assert calibration.preference.report.change.nll.value == 0
    assert report["preference"]["helps"] is False
    assert calibration.preference.probability(-1.5) == pytest.approx(1 / (1 + np.exp(1.5)))


def test_a_report_says_what_is_needed_to_judge_it(result):
    """Reliability, sharpness, risk-coverage, accuracy by margin and agreement, AUROC; all JSON."""
    _, report = result

    uncertainty = report["uncertainty"]
    assert {"by_margin", "by_margin_over_std", "by_agreement", "auroc", "risk_coverage"} <= (
        uncertainty.keys()
    )
    assert uncertainty["auroc"]["margin"]["value"] > 0.6
    assert len(report["preference"]["reliability"][1]) == 10
    length = report["length"]
    assert {"spearman", "longer_wins", "accuracy", "balanced"} <= length.keys()
    for value, (low, high) in zip(length["spearman"], length["spearman_intervals"], strict=True):
        assert low < value < high
    assert json.loads(json.dumps(report, allow_nan=False)) is not None


def test_each_threshold_covers_what_it_promises(result):
    """Within what two samples of these sizes may differ by, at 3.3 standard deviations."""
    calibration, _ = result
    counts = calibration.counts

    for threshold in calibration.abstention.thresholds:
        rate = threshold.error_rate
        spread = rate * (1 - rate) * (1 / counts.pairs_fitted + 1 / counts.pairs_held_out)
        assert threshold.coverage == pytest.approx(1 - rate, abs=3.3 * spread**0.5)
        assert threshold.interval[0] < threshold.coverage < threshold.interval[1]


def test_a_calibration_doesnt_depend_on_the_order_of_lines(result):
    """Which prompts are held out is by their hash; sums are of the same numbers."""
    calibration, _ = result
    other, _ = calibrated(drawn(1_500)[::-1])

    asked = np.linspace(-8, 8, 41)
    assert other.counts == calibration.counts
    assert [other.preference.probability(each) for each in asked] == pytest.approx(
        [calibration.preference.probability(each) for each in asked], abs=ROUNDING
    )
    assert [one.margin for one in other.abstention.thresholds] == pytest.approx(
        [one.margin for one in calibration.abstention.thresholds], abs=ROUNDING
    )


def test_pairs_of_one_prompt_stay_on_one_side():
    """The counts are those of the groups' own sides."""
    cases = [compared(number % 60, [1.0 if number % 3 else -0.5]) for number in range(240)]

    calibration, _ = calibrated(cases)

    out = sum(pairs.is_held_out(f"g{number}", 0) for number in range(60))
    assert calibration.counts.pairs_held_out == 4 * out
    assert calibration.counts.prompts == 60


def test_what_has_no_score_is_left_out_and_counted():
    """By the code of its error."""
    refused = compared(999, [0.0])[0], {"error": {"code": "item_too_long", "message": ""}}

    calibration, report = calibrated([*drawn(100), refused, refused])

    assert report["errors"] == {"item_too_long": 2}
    assert calibration.counts.failed == 2


def test_scores_of_one_prompt_are_pairs():
    """The higher one is the chosen one."""
    cases = []
    for number in range(60):
        for value in (0.0, 1.0):
            example = Example("score", f"g{number}", f"p{number}", (f"a{value}",), value)
            cases.append((example, {"score": value + number % 3, "uncertainty": None}))

    calibration, report = calibrated(cases)

    assert calibration.counts.pairs_fitted + calibration.counts.pairs_held_out == 60
    assert report["uncertainty"]["accuracy"]["accuracy"] == 1


def test_several_responses_to_a_prompt_have_absolute_targets():
    """From pairs that share responses; of raw scores and of controlled ones, in figures of JSON."""
    chance = np.random.default_rng(11)
    cases = []
    for prompt in range(120):
        quality = chance.normal(size=3)
        scores = 2.0 * quality + chance.normal(size=3)
        for pair in ((0, 1), (1, 2), (2, 0)):
            j, i = sorted(pair, key=quality.__getitem__)
            texts = tuple(f"{prompt} {place}" * (place + 1) for place in (i, j))
            example = Example("chosen", f"g{prompt}", f"p{prompt}", texts)
            answer = {"scores": [scores[i], scores[j]], "margin_std": None}
            cases.append((example, answer))

    calibration, report = calibrated(cases)

    assert calibration.absolute.fitted + calibration.absolute.held_out == 360
    assert calibration.absolute.rmse.value < calibration.absolute.constant.value
    assert calibration.length.absolute not in (None, calibration.absolute)
    assert report["absolute"]["spearman"]["value"] > 0.5
    assert json.loads(json.dumps(report, allow_nan=False)) is not None


def test_reference_answers_are_what_scores_are_less():
    """Where lines name them; else chosen responses stand for them."""
    cases = [compared(number, [1.0 + number % 3]) for number in range(99)]
    named = [(replace(example, reference="b"), answer) for example, answer in cases]

    one, other = (calibrated(each)[0].moments for each in (cases, named))

    assert one.reference_mean == pytest.approx(one.margin_absolute)
    assert other.reference_mean == 0


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        (drawn(49)[:49], "there are 49 pairs, and at least 50 are needed"),
        (drawn(49)[49:], "there are 49 labelled responses, and at least 50 are needed"),
        ([compared(0, [1.0])] * 60, "no pairs would be (fitted on|held out).*1 prompt"),
        ([compared(number % 2, [1.0]) for number in range(60)], "fitted on are of one prompt"),
        ([labelled(number, 1, 0.0) for number in range(60)], "have the label 1"),
        (
            [labelled(number, number % 2, 0.5) for number in range(99)],
            "all labelled responses have one score",
        ),
        ([compared(number, [1e200]) for number in range(99)], "a score is over 1e\\+100"),
        (
            [(compared(number, [1.0])[0], {"error": {"code": "bad"}}) for number in range(60)],
            "nothing to fit; of some lines there is no score: 60 × bad",
        ),
    ],
)
def test_what_cant_be_fitted_is_one_sentence(cases, reason):
    """Too few, one prompt alone, labels of one kind, or no scores."""
    with pytest.raises(InvalidField, match=reason):
        calibrated(cases)


def test_what_is_fitted_is_the_targets_own_score():
    """By whatever rule it comes of its members, whose own margins are what they disagree by."""
    cases = [
        (example, {**answer, "scores": [3.0 * answer["scores"][0] - 0.5, 0.0]})
        for example, answer in (compared(number, [1.0 + number % 3, 2.0]) for number in range(99))
    ]

    found, _ = calibrated(cases)

    held_in = [case for case in cases if not pairs.is_held_out(case[0].group, 0)]
    scores = np.array([answer["scores"] for _, answer in held_in])
    assert found.moments.margin_absolute == pytest.approx(np.abs(scores[:, 0]).mean())
    assert found.moments.mean == pytest.approx(scores.mean())


def test_length_control_is_calibrated_by_itself(result):
    """Probabilities and thresholds of controlled scores are fitted to these."""
    calibration, report = result

    assert isinstance(calibration.length, cards.LengthControl)
    assert calibration.length.preference.report is not None
    assert calibration.length.abstention != calibration.abstention
    assert report["length"]["preference"]["method"] == calibration.length.preference.method


def test_a_report_can_be_drawn(result, tmp_path):
    """The reliability diagrams, as a picture; an ending of none is refused."""
    plot.draw(result[1], tmp_path / "plot.png")

    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidField, match="can't be written"):
        plot.draw(result[1], tmp_path / "plot.nothing")


@pytest.mark.parametrize(
    ("lines", "options", "reason"),
    [
        (
            [compared(number, [1.0]) for number in range(60)],
            {"error_rates": (0.01,)},
            "0.01 needs 99",
        ),
        (drawn(30)[:30], {}, "there are 30 pairs, and at least 50"),
        (drawn(30)[30:], {}, "there are 30 labelled responses, and at least 50"),
        ([labelled(number, 1, 0.0) for number in range(60)], {}, "have the label 1"),
        ([compared(0, [1.0])] * 60, {}, "all are of 1 prompt"),
    ],
)
def test_what_cant_be_fitted_is_known_before_anything_is_scored(lines, options, reason):
    """From the lines alone: how many there are on each side, and of which labels."""
    with pytest.raises(InvalidField, match=reason):
        procedure.check([example for example, _ in lines], procedure.Options(**options))


def test_responses_with_scores_are_counted_as_the_pairs_that_they_make():
    """Five of a prompt make ten; those of one score none."""
    examples = [
        Example("score", f"g{prompt}", f"p{prompt}", (f"a{value}",), float(value))
        for prompt in range(8)
        for value in range(5)
    ]
    alike = [Example("score", one.group, one.prompt, one.responses, 1.0) for one in examples]

    procedure.check(examples, procedure.Options())
    with pytest.raises(InvalidField, match="there are 0 pairs"):
        procedure.check(alike, procedure.Options())
