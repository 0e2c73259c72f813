"""Every setting, metric and error code is in the documentation by its name."""

from pathlib import Path

import pytest

from assay.errors import AssayError
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests.test_errors import leaves

DOCS = Path(__file__).parents[1] / "docs"
BEHAVIOUR = (DOCS / "behaviour.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name):
    """In `docs/behaviour.md`, in code style."""
    assert f"`{name}`" in BEHAVIOUR


@pytest.mark.parametrize("code", [leaf.code for leaf in leaves(AssayError)])
def test_every_error_code_is_documented(code):
    """In `docs/behaviour.md`, in code style."""
    assert f"`{code}`" in BEHAVIOUR


@pytest.mark.parametrize("name", [metric.name for metric in Metrics().registry.collect()])
def test_every_metric_is_documented(name):
    """In `docs/metrics.md`, and those that the behaviour page names exist."""
    assert f"`{name}" in METRICS
