"""What a request uses of its target's calibration, and what it is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from assay import wire
from assay.cards.card import Card
from assay.errors import InvalidField
from assay.items import Conversation, Solution
from assay.scoring import calibrated
from assay.scoring.combination import Combination
from assay.scoring.targets import Target
from tests.scoring.fitted import RATES, THRESHOLDS, fitted

if TYPE_CHECKING:
    from typing import Any

    from assay.cards.calibration import Calibration

WHOLE = fitted("m", "r")
BARE = fitted("m", "r", labels=False).model_copy(update={"length": None, "abstention": None})


def target(calibration: Calibration | None) -> Target:
    return Target("m", Card(), (), "model", "r", calibration=calibration)


def score(**options: Any) -> wire.ScoreRequest:
    return wire.ScoreRequest(inputs=[], **options)


def compare(**options: Any) -> wire.CompareRequest:
    return wire.CompareRequest(comparisons=[], **options)


def best(**options: Any) -> wire.BestOfNRequest:
    return wire.BestOfNRequest(groups=[], **options)


def test_a_comparison_is_calibrated_unless_it_has_a_temperature() -> None:
    """Even one of 1; null is as if it weren't there."""
    used = calibrated.of(target(WHOLE), compare())

    assert used.probability is not None
    assert used.id == WHOLE.id
    assert used.probability(2.0) == pytest.approx(0.7310585786300049)  # σ(2 / 2)
    assert calibrated.of(target(WHOLE), compare(temperature=None)).id == WHOLE.id
    assert calibrated.of(target(WHOLE), compare(temperature=1.0)) == calibrated.Calibrated()


@pytest.mark.parametrize(
    "options", [{"normalize": True}, {"aggregate": "min"}, {"attributes": {"a": 1.0}}]
)
def test_another_score_than_the_targets_own_isnt_calibrated(options: dict[str, Any]) -> None:
    """What was fitted to raw scores says nothing of it; who asks for both is refused."""
    assert calibrated.of(target(WHOLE), compare(**options)) == calibrated.Calibrated()
    with pytest.raises(InvalidField, match=f"own raw score; leave '{next(iter(options))}' out"):
        calibrated.of(target(WHOLE), compare(abstain_at=0.1, **options))


@pytest.mark.parametrize(
    ("options", "is_own"),
    [
        ({}, True),
        ({"rule": "lower_bound"}, True),
        ({"penalty": 2.0}, True),
        ({"penalty": 0.0}, False),
        ({"rule": "lower_bound", "penalty": 1.0}, False),
        ({"rule": "mean"}, False),
    ],
)
def test_another_rule_than_the_targets_own_isnt_calibrated(
    options: dict[str, Any], is_own: bool
) -> None:
    """Nor another penalty, of which 0 is one; its own, said again, is."""
    careful = replace(target(WHOLE), combination=Combination("lower_bound", 2.0))

    assert (calibrated.of(careful, compare(**options)).id == WHOLE.id) is is_own


@pytest.mark.parametrize("request_", [score(), best()])
def test_what_asks_for_nothing_fitted_names_no_calibration(request_: wire.Options) -> None:
    """Scores and selections are of raw rewards."""
    used = calibrated.of(target(WHOLE), request_)

    assert used == calibrated.Calibrated(probability=used.probability)
    assert used.id is None


@pytest.mark.parametrize("left_out", ["acceptable", "absolute"])
def test_calibrated_answers_what_was_fitted_of_the_two(left_out: str) -> None:
    """Without labels there is no probability, without graphs of pairs no absolute reward."""
    used = calibrated.of(target(WHOLE.model_copy(update={left_out: None})), score(calibrated=True))

    assert (used.acceptable is None) == (left_out == "acceptable")
    assert (used.absolute is None) == (left_out == "absolute")
    assert used.id == WHOLE.id


def test_a_threshold_is_that_of_the_error_rate() -> None:
    """Each rate has its own."""
    found = [calibrated.of(target(WHOLE), best(abstain_at=rate)).threshold for rate in RATES]

    assert found == list(THRESHOLDS)


def test_controlled_scores_have_what_was_fitted_to_them() -> None:
    """Another probability of the same margin; thresholds that weren't fitted are refused."""
    used = calibrated.of(target(WHOLE), compare(length_control=True))

    assert used.length == WHOLE.length
    assert used.probability is not None
    assert used.probability(2.0) == pytest.approx(0.9241418199787566)  # σ(2 + 0.5)
    with pytest.raises(InvalidField, match="a calibration of no pairs"):
        calibrated.of(target(WHOLE), best(length_control=True, abstain_at=0.1))


@pytest.mark.parametrize(
    ("calibration", "request_", "param", "reason"),
    [
        (None, score(calibrated=True), "calibrated", "has no calibration"),
        (None, compare(abstain_at=0.1), "abstain_at", "has no calibration"),
        (None, best(length_control=True), "length_control", "has no calibration"),
        (BARE, score(calibrated=True), "calibrated", "of no labels"),
        (BARE, compare(abstain_at=0.1), "abstain_at", "of no pairs"),
        (BARE, best(length_control=True), "length_control", "without length control"),
        (WHOLE, best(abstain_at=0.15), "abstain_at", "error rate 0.15; send one of 0.1, 0.2"),
    ],
)
def test_what_wasnt_fitted_is_refused(
    calibration: Calibration | None, request_: wire.Options, param: str, reason: str
) -> None:
    """By the field, with what there is."""
    with pytest.raises(InvalidField, match=reason) as caught:
        calibrated.of(target(calibration), request_)

    assert caught.value.param == param


def test_a_response_is_the_last_turn_or_the_steps() -> None:
    """Its length is what is controlled for."""
    turns = ({"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"})

    assert calibrated.response_of(Conversation(turns)) == "de"
    assert calibrated.response_of(Solution(turns[:1], ("a", "b"))) == "a\nb"


@pytest.mark.parametrize("item", [{"text": "a"}, {"input_ids": [1]}])
def test_length_control_needs_a_response(item: dict[str, Any]) -> None:
    """A rendered text has its prompt in it."""
    with pytest.raises(ValueError, match="doesn't tell apart"):
        wire.ScoreRequest.model_validate({"inputs": [item], "length_control": True})
