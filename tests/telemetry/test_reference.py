"""docs/metrics.md says what the registry says."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay.cards.reference import filled
from assay.errors import AssayError
from assay.telemetry import reference
from assay.telemetry.metrics import LABELS, RESTART_REASONS, SHED_REASONS, Metrics
from assay.telemetry.score_length_sums import MOMENTS

DOCUMENT = Path(__file__).parents[2] / "docs/metrics.md"


def test_what_is_generated_is_up_to_date():
    """The document's generated part is what the registry gives."""
    text = DOCUMENT.read_text(encoding="utf-8")
    command = "python -m assay.telemetry.reference docs/metrics.md"

    assert filled(text, reference.markdown()) == text, f"docs/metrics.md is old; run: {command}"


def test_every_metric_has_a_row_with_its_labels():
    """Nothing of a scrape is left out."""
    metrics = Metrics()
    text = reference.markdown()
    rows = reference.rows(metrics)

    assert len(rows) == len(list(metrics.registry.collect()))
    for row in rows:
        labels = ", ".join(f"`{label}`" for label in row.labels)
        assert f"| `{row.name}` | {row.type} | {labels} | {row.text} |" in text


@pytest.mark.parametrize(
    "line",
    [
        "| `assay_requests_total` | counter | `model`, `route`, `outcome` |",
        "| `assay_score` | histogram | `model` | Raw scores. |",
        "| `assay_queue_tokens` | gauge | `model` | Tokens waiting. |",
        "| `assay_score_moments_total` | counter | `model`, `length`, `moment` |",
    ],
)
def test_a_row_has_the_name_that_is_asked_for(line):
    """With a counter's ending, and the labels in the order that they are declared in."""
    assert line in reference.markdown()


def test_every_label_says_what_it_may_be():
    """And none is described that no metric has."""
    used = {label for row in reference.rows(Metrics()) for label in row.labels} | {"le"}

    assert LABELS.keys() == used


def test_closed_sets_are_written_out():
    """Each value of those that are counted."""
    for label, values in {
        "reason": (*SHED_REASONS, *RESTART_REASONS),
        "moment": MOMENTS,
    }.items():
        assert [value for value in values if f"`{value}`" not in LABELS[label]] == []


def test_reasons_are_codes_of_errors():
    """But for callers who left, whom nobody answers."""

    def leaves(error):
        children = error.__subclasses__()
        return [leaf for child in children for leaf in leaves(child)] or [error]

    codes = {leaf.code for leaf in leaves(AssayError)}

    assert set(SHED_REASONS) - codes == {"client_gone"}
