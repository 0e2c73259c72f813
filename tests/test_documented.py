"""Every setting, metric and error code is in the documentation by its name."""

import re
from pathlib import Path

import pytest

from assay.client.adapters.reward import Reward
from assay.errors import AssayError
from assay.settings import Settings
from assay.telemetry import reference
from assay.telemetry.metrics import Metrics
from tests.test_errors import leaves

DOCS = Path(__file__).parents[1] / "docs"
BEHAVIOUR = (DOCS / "behaviour.md").read_text()
METRICS = (DOCS / "metrics.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", BEHAVIOUR, re.MULTILINE))
GOVERNED = (
    "Limits before cost",
    "Overload",
    "Whose turn it is",
    "Deadlines and callers who leave",
    "Failure",
    "Change",
    "Stopping",
)
SERIES = {name for row in reference.rows(Metrics()) for name in (row.name, *row.series)}


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
    """In `docs/metrics.md`, in code style."""
    assert f"`{name}" in METRICS


@pytest.mark.parametrize("title", GOVERNED)
def test_a_section_names_what_governs_and_what_shows_it(title):
    """A setting and a metric, so that an operator can change it and see it."""
    named = set(re.findall(r"`(\w+)`", SECTIONS[title]))

    assert named & Settings.model_fields.keys()
    assert named & SERIES


def test_every_metric_that_is_named_exists():
    """On each page of the documentation, as a scrape has it or without a histogram's ending."""
    pages = [*DOCS.glob("*.md"), DOCS.parent / "deploy/README.md"]
    named = {name for page in pages for name in re.findall(r"`(assay_\w+)`", page.read_text())}

    assert named - SERIES == set()


def test_every_setting_that_is_listed_exists():
    """In the tables of settings, and as a variable of the environment."""
    tables = re.findall(r"^\| setting .*\n\|[-|]+\n((?:\|.*\n)+)", BEHAVIOUR, re.MULTILINE)
    rows = "".join(tables).splitlines()
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    variables = {
        name.lower()
        for page in DOCS.glob("*.md")
        for name in re.findall(r"(?<!/)\bASSAY_([A-Z_]+[A-Z])", page.read_text())
    }
    of_clients = {name for name in variables if name.startswith("client_")}

    assert listed - Settings.model_fields.keys() == set()
    assert variables - of_clients - {"config"} - Settings.model_fields.keys() == set()
    assert {name.removeprefix("client_") for name in of_clients} <= Reward.model_fields.keys()


PITFALLS = re.findall(r"^- `(tests/\S+)::(\w+)`$", (DOCS / "pitfalls.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), PITFALLS)
def test_every_pitfall_names_a_test_that_there_is(file, name):
    """`docs/pitfalls.md` claims nothing that no test shows."""
    assert f"def {name}(" in (DOCS.parent / file).read_text()


def test_every_pitfall_names_a_test():
    """Each entry has one."""
    entries = re.split(r"^### ", (DOCS / "pitfalls.md").read_text(), flags=re.MULTILINE)[1:]

    assert [entry for entry in entries if "Shown by:\n- `tests/" not in entry] == []
