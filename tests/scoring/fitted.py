"""A small calibration of any target, for tests of what is served by it."""

from __future__ import annotations

from datetime import UTC, datetime

from assay.cards import calibration as cards

RATES = (0.1, 0.2)
THRESHOLDS = (1.5, 0.25)
KNOTS = [(-2.0, 0.1, 0.3), (0.0, 0.4, 0.5), (2.0, 0.7, 0.9)]
LENGTHS = [(0.0, -1.0), (1000.0, 1.0)]
MEAN = 0.125
SLOPE, INTERCEPT = 0.5, -0.25


def fitted(
    target: str, revision: str, *, temperature: float = 2.0, labels: bool = True
) -> cards.Calibration:
    """Return one with every table; without `labels` none of one response alone."""
    figure = cards.Figure(value=0.5, interval=(0.25, 0.75))
    abstention = cards.Abstention(
        thresholds=[
            cards.Threshold(error_rate=rate, margin=margin)
            for rate, margin in zip(RATES, THRESHOLDS, strict=True)
        ]
    )
    return cards.Calibration(
        id="0" * 12,
        target=target,
        revision=revision,
        created=datetime(2026, 12, 1, tzinfo=UTC),
        source="pairs.jsonl",
        counts=cards.Counts(prompts=100, pairs_fitted=50, pairs_held_out=50),
        preference=cards.Temperature(temperature=temperature),
        acceptable=cards.Acceptable(knots=KNOTS) if labels else None,
        absolute=cards.Absolute(
            slope=SLOPE,
            intercept=INTERCEPT,
            fitted=40,
            held_out=40,
            prompts=10,
            constant=figure,
            rmse=figure,
            spearman=figure,
        )
        if labels
        else None,
        abstention=abstention,
        length=cards.LengthControl(
            mean=MEAN, knots=LENGTHS, preference=cards.Platt(slope=1.0, intercept=0.5)
        ),
        moments=cards.Baseline(mean=0.0, std=1.0, margin_absolute=0.75, margin_squared=1.0),
    ).identified()
