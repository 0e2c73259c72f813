"""What dashboards and rules ask for exists: read by a parser of PromQL, without a Prometheus."""

from __future__ import annotations

import json
import re

import promql_parser as promql
import pytest
import yaml

from assay.errors import AssayError
from assay.telemetry import reference
from assay.telemetry.metrics import (
    CHANGE_OUTCOMES,
    DECISIONS,
    MARGIN_MOMENTS,
    SHED_REASONS,
    Metrics,
)
from assay.telemetry.score_length_sums import MOMENTS
from tests.deploy import queries

# Labelled with what runs on the device: a model by itself, or each member of a target.
OF_MEMBERS = (
    *("assay_batch_", "assay_queue_items", "assay_queue_tokens", "assay_computed_tokens_total"),
    *("assay_held_tokens_total", "assay_padded_tokens_total", "assay:shared_tokens"),
)
OF_THE_SCRAPE = {"job", "instance"}
EVERY = [*queries.of_dashboards(), *queries.of_rules()]


def samples():
    """Return the labels of every series of a scrape, by its name."""
    found = {"up": OF_THE_SCRAPE}
    for row in reference.rows(Metrics()):
        for name in row.series:
            labels = {*row.labels, *OF_THE_SCRAPE}
            found[name] = labels | {"le"} if name.endswith("_bucket") else labels
    return found


def named(text):
    """Return every part of a query, and of it the series."""
    parts = []
    promql.walk(promql.parse(text), parts.append)
    series = [one for one in parts if isinstance(one, promql.VectorSelector)]
    series += [one.vector_selector for one in parts if isinstance(one, promql.MatrixSelector)]
    return parts, series


def labels_of(series):
    """Return the labels that some series have, those that rules record among them."""
    known = samples()
    for name, text in queries.recorded().items():
        known[name] = labels_of_result(text, known)
    return set().union(*(known.get(one.name, set()) for one in series))


def labels_of_result(text, known):
    """Return the labels that a recorded query's result may have."""
    parts, series = named(text)
    kept = [set(one.modifier.labels) for one in parts if isinstance(one, promql.AggregateExpr)]
    plain = [known.get(one.name, set()) for one in series] if not kept else []
    return set().union(*kept, *plain)


@pytest.mark.parametrize("query", EVERY, ids=lambda query: query.where)
def test_every_series_that_is_asked_for_exists(query):
    """Each is one of a scrape, or recorded by a rule."""
    _, series = named(query.text)
    known = samples().keys() | queries.recorded().keys()

    assert series
    assert {one.name for one in series} - known == set()


@pytest.mark.parametrize("query", EVERY, ids=lambda query: query.where)
def test_every_label_that_is_asked_for_exists(query):
    """A misspelt label selects everything, or nothing, without a word."""
    parts, series = named(query.text)
    matchers = {one.name for each in series for one in each.matchers.matchers}
    kept = {
        label
        for one in parts
        if isinstance(one, promql.AggregateExpr) and one.modifier
        for label in one.modifier.labels
    }

    assert (matchers | kept) - labels_of(series) == set()


def test_every_value_of_a_label_that_is_asked_for_exists():
    """Outcomes are codes of errors; reasons, moments and decisions are those that are counted."""
    codes = {leaf.code for leaf in leaves(AssayError)}
    codes |= set(CHANGE_OUTCOMES)
    moments = {*MOMENTS, *MARGIN_MOMENTS}
    allowed = {"outcome": codes, "reason": set(SHED_REASONS), "moment": moments}
    allowed["decision"] = set(DECISIONS)
    asked = {
        (one.name, value)
        for query in EVERY
        for each in named(query.text)[1]
        for one in each.matchers.matchers
        if one.name in allowed
        for value in one.value.split("|")
    }

    assert {name for name, _ in asked} == allowed.keys()
    assert [(name, value) for name, value in asked if value not in allowed[name]] == []


def test_every_recorded_series_is_used():
    """By a panel or an alert, at first or second hand."""
    used = {one.name for query in EVERY for one in named(query.text)[1]}

    assert queries.recorded().keys() - used == set()


@pytest.mark.parametrize("path", queries.DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_reads_the_provisioned_data_source(path):
    """Every panel that asks, and every variable, uses the data source that Grafana is given."""
    file = queries.DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
    provisioned = [one["uid"] for one in yaml.safe_load(file.read_text())["datasources"]]
    variables = json.loads(path.read_text())["templating"]["list"]

    assert queries.panels(path)
    for one in [*queries.panels(path), *variables]:
        assert one["datasource"]["uid"] in provisioned


@pytest.mark.parametrize("path", queries.DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_variable_lists_what_there_is(path):
    """The values of a label that a metric has."""
    known = samples()
    for variable in json.loads(path.read_text())["templating"]["list"]:
        found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"])

        assert found[2] in known[found[1]]
        assert variable["query"]["query"] == variable["definition"]


def test_what_is_repeated_for_each_model_has_its_row_alone():
    """Grafana puts the copies beside the first, over whatever lies there."""
    for path in queries.DASHBOARDS:
        panels = json.loads(path.read_text())["panels"]
        for panel in panels:
            if panel.get("repeatDirection") == "h":
                place = panel["gridPos"]
                beside = [
                    one["title"]
                    for one in panels
                    if one is not panel
                    and one["gridPos"]["y"] < place["y"] + place["h"]
                    and place["y"] < one["gridPos"]["y"] + one["gridPos"]["h"]
                ]

                assert (place["x"], place["w"], beside) == (0, 24, [])


def test_only_models_that_score_can_be_chosen_on_the_reward_dashboard():
    """A model that is only part of an ensemble would leave every panel empty."""
    (path,) = [one for one in queries.DASHBOARDS if one.stem == "reward"]
    (variable,) = json.loads(path.read_text())["templating"]["list"]

    assert variable["definition"] == "label_values(assay_score_count, model)"


@pytest.mark.parametrize("path", queries.DASHBOARDS, ids=lambda path: path.stem)
def test_what_is_of_members_is_not_chosen_by_target(path):
    """An ensemble or a composite is no model of the device: its name would leave a panel empty."""
    chosen = {
        (one.name, one_of.value)
        for panel in queries.panels(path)
        for target in panel["targets"]
        for one in named(target["expr"].replace("$__rate_interval", "1m"))[1]
        for one_of in one.matchers.matchers
        if one_of.name == "model"
    }

    of_members = {name for name, value in chosen if value == "$member"}
    assert {value for _, value in chosen} <= {"$model", "$member"}
    assert {name for name, _ in chosen if name.startswith(OF_MEMBERS)} == of_members


@pytest.mark.parametrize("path", queries.DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_panels_lie_side_by_side(path):
    """Each has a number of its own, a place on the grid of 24 columns, and no other over it."""
    panels = json.loads(path.read_text())["panels"]
    cells = [
        (x, y)
        for panel in panels
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23


def test_the_dashboards_link_to_each_other():
    """By the addresses that they are provisioned under."""
    boards = [json.loads(path.read_text()) for path in queries.DASHBOARDS]
    linked = {link["url"] for board in boards for link in board["links"]}

    assert [board["uid"] for board in boards] == ["assay-reward", "assay-service"]
    assert linked == {f"/d/{board['uid']}" for board in boards}


def leaves(error):
    children = error.__subclasses__()
    return [leaf for child in children for leaf in leaves(child)] or [error]
