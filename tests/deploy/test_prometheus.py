"""A real Prometheus reads the files of deploy/prometheus and scrapes a server at work."""

from __future__ import annotations

import json
import math
import subprocess
import threading

import httpx
import numpy as np
import pytest
import yaml

from assay.calibration import overlay
from assay.settings import Settings
from tests import resolving
from tests.deploy import prometheus, queries
from tests.http import checkpoints
from tests.http.processes import serving, until
from tests.scoring.fitted import fitted

FOLDER = queries.DEPLOY / "prometheus"
LIMIT = 64  # tokens that an item may have
WORDS = "the tide comes in twice a day because the moon pulls at the water and so does the sun"
PROMPTS = ("Why is there a tide?", "What is 7 times 8?", "Say something kind.")
FAT = [{"prompt": PROMPTS[0], "response": WORDS[: 4 + one % 70]} for one in range(200)]


@pytest.fixture(scope="module")
def programs(request):
    """Where prometheus and promtool are."""
    return prometheus.programs(request.config.cache.mkdir("prometheus"))


@pytest.fixture(scope="module")
def crew(tmp_path_factory):
    """The folders of two models that don't always agree."""
    folder = tmp_path_factory.mktemp("crew")
    one = checkpoints.build(folder / "one")
    other = checkpoints.copy(one, folder / "other")
    checkpoints.edit_weights(
        other,
        lambda tensors: tensors.update(
            {"score.weight": np.roll(tensors["score.weight"], 5, axis=1)}
        ),
    )
    return one, other


def bodies():
    """Return the requests of a busy minute, each with its path: all routes, all kinds of items."""
    groups = [{"prompt": one, "responses": [WORDS, WORDS[:40], "no", "56"]} for one in PROMPTS]
    pairs = [{"prompt": one, "responses": [WORDS, "no"]} for one in PROMPTS]
    chats = [
        {"prompt": prompt, "response": WORDS[:size]} for prompt in PROMPTS for size in (5, 30, 80)
    ]
    long = {"prompt": WORDS * 20, "response": "yes"}
    rendered = [{"text": WORDS[:size]} for size in (9, 21, 60)]
    ids = [{"input_ids": list(range(5, 5 + size))} for size in (4, 9, 30)]
    return [
        *(("/score", {"model": name, "inputs": chats}) for name in ("crew", "one")),
        ("/score", {"model": "crew", "inputs": [long, *rendered, *ids]}),
        ("/score", {"model": "crew", "inputs": chats, "deadline_ms": 1, "on_error": "item"}),
        ("/compare", {"model": "crew", "comparisons": groups}),
        ("/compare", {"model": "crew", "comparisons": pairs, "abstain_at": 0.1}),
        ("/best-of-n", {"model": "crew", "groups": groups}),
        *[("/score", {"model": "crew", "inputs": FAT})] * 2,
    ]


@pytest.fixture(scope="module")
def scraped(programs, crew, tmp_path_factory):
    """A Prometheus that scrapes, each second, a server with more work than it admits."""
    folder = tmp_path_factory.mktemp("scraped")
    members = {"crew": ("one", "other")}
    settings = Settings(models=tuple(map(str, crew)), ensembles=members, max_tokens=LIMIT)
    target = resolving.load(settings).by_name["crew"]
    overlay.write(fitted("crew", target.revision), folder / "crew.toml")
    with serving(
        folder / "run",
        *crew,
        ensembles=json.dumps(members),
        calibrations=json.dumps({"crew": str(folder / "crew.toml")}),
        max_tokens=LIMIT,
        max_queued_tokens=8_000,
        batch_tokens=512,
    ) as server:
        config = configured(folder, server.http.base_url.netloc.decode())
        with Busy(server), prometheus.running(programs["prometheus"], folder, config) as one:
            yield one


def configured(folder, target):
    """Return the configuration that is deployed, but for whom it scrapes and how often."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "rules.yml").write_text(queries.RULES.read_text())
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


class Busy:
    """Three callers who ask a server again and again while the block runs."""

    def __init__(self, server):
        self._server = server
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        with httpx.Client(base_url=self._server.url, timeout=60) as http:
            while True:
                for path, body in bodies():
                    http.post(path, json=body)
                    if self._is_over.wait(0.02):
                        return


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_accepts_what_is_deployed(programs, arguments):
    """The files are valid, and the rules make of known series what they should."""
    done = subprocess.run(
        [programs["promtool"], *arguments], cwd=FOLDER, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires():
    """And one in which it doesn't."""
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", [])]
    fires = {case["alertname"] for case in cases if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    alerts = {rule["alert"] for rule in queries.rules() if "alert" in rule}

    assert fires == alerts
    assert silent == alerts


def test_every_alert_says_what_to_do_and_where_to_read_on():
    """In a sentence, and at a heading of a document of this repository."""
    for rule in queries.rules():
        if "alert" in rule:
            assert rule["annotations"].keys() == {"summary", "description", "runbook"}
            file, anchor = rule["annotations"]["runbook"].split("#")
            assert anchor in anchors((queries.DEPLOY.parent / file).read_text())


def anchors(text):
    """Return what a page's headings are called in its address."""
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return {heading.lower().replace(" ", "-") for heading in headings}


def test_every_rule_is_evaluated_without_an_error(scraped):
    """Prometheus says of each rule how it went."""

    def found():
        groups = scraped.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] != "unknown" for rule in rules) else None

    rules = until("every rule was evaluated", found)

    assert len(rules) == len(queries.rules())
    assert [rule for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize("query", queries.of_dashboards("crew"), ids=lambda query: query.where)
def test_a_panel_has_an_answer_for_an_ensemble(scraped, query):
    """Whose members run on the device under names of their own."""
    assert until(f"{query.text} has an answer", lambda: scraped.values(query.text))


@pytest.mark.parametrize(
    "query", [*queries.of_dashboards(), *queries.of_rules()], ids=lambda query: query.where
)
def test_every_query_has_an_answer(scraped, query):
    """Each panel shows something and each rule has something to go by, once a server works."""
    values = until(
        f"{query.text} has an answer",
        lambda: [one for one in scraped.values(query.text) if math.isfinite(one)],
    )

    assert values
