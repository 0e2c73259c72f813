"""The metrics as Markdown: a row for each, from the registry itself.

`python -m assay.telemetry.reference docs/metrics.md` writes it between the marks of a document,
whose other words stay.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from assay.cards.reference import filled
from assay.telemetry.metrics import LABELS, Metrics

# What a scrape of each type is called, after the name in its TYPE line.
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One metric; `series` are the names that a scrape has of it."""

    name: str
    type: str
    labels: tuple[str, ...]
    text: str
    series: tuple[str, ...]


def rows(metrics: Metrics) -> list[Row]:
    """Return every metric, by name."""
    collected = [
        Row(
            name=metric.name + ("_total" if metric.type == "counter" else ""),
            type=metric.type,
            labels=metrics.labels.get(metric.name, ()),
            text=metric.documentation,
            series=tuple(metric.name + suffix for suffix in _SUFFIXES[metric.type]),
        )
        for metric in metrics.registry.collect()
    ]
    return sorted(collected, key=lambda row: row.name)


def markdown() -> str:
    """Return the reference: the metrics, then what each label may be."""
    metrics = ["| metric | type | labels | |", "|---|---|---|---|"]
    for row in rows(Metrics()):
        labels = ", ".join(f"`{label}`" for label in row.labels)
        metrics.append(f"| `{row.name}` | {row.type} | {labels} | {row.text} |")
    labels_table = [
        "| label | |",
        "|---|---|",
        *(f"| `{label}` | {LABELS[label]} |" for label in LABELS),
    ]
    return "\n".join([*metrics, "", "### Labels", "", *labels_table]) + "\n"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8"), markdown()), encoding="utf-8")
