"""The how-to pages: what they name is there, and what they show runs."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from assay.cards.card import Card
from assay.settings import Settings
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WATCH = (DOCS / "watch.md").read_text(encoding="utf-8")
COMBINE = (DOCS / "combine.md").read_text(encoding="utf-8")
CLOSE = 1e-4  # other processors sum in another order
ITEM = {"prompt": "Name a prime number.", "response": "Seven is a prime number."}


def test_what_to_look_at_names_alerts_that_there_are() -> None:
    """As `rules.yml` calls them."""
    groups = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    named = set(re.findall(r"`(Assay[A-Z]\w+)`", WATCH))

    assert named
    assert named - alerts == set()
    assert {one["alert"] for one in groups[1]["rules"] if "alert" in one} <= named


def test_what_to_look_at_names_panels_that_there_are() -> None:
    """As the dashboards call them."""
    panels = {
        panel.get("title")
        for file in (ROOT / "deploy/grafana/dashboards").glob("*.json")
        for panel in json.loads(file.read_text())["panels"]
    }
    rows = [line.split("|") for line in WATCH.splitlines() if line.startswith("| ")]
    named = {one for row in rows for one in re.findall(r"\*([^*]+)\*", row[-3])}

    assert named
    assert named - panels == set()


@pytest.fixture(scope="module")
def combined(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the page's examples for the starter, all in one file."""
    folder = tmp_path_factory.mktemp("combine")
    blocks = re.findall(r"```toml\n(.*?)```", COMBINE, re.DOTALL)
    own = [block for block in blocks if 'models = ["starter"]' in block]
    assert len(own) == 5
    tables: dict[str, str] = {}
    for block in own:
        for table in block.split("\n\n"):
            tables[table.partition("\n")[0]] = table
    config = folder / "assay.toml"
    config.write_text("\n\n".join(tables.values()), encoding="utf-8")
    with serving(folder / "run", config=config) as server:
        yield server


def entry(server: Server, model: str, **options: Any) -> dict[str, Any]:
    """Return the one entry of an answer."""
    answer = server.score(**ITEM, model=model, **options)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["data"]
    return found


def test_the_ensemble_of_the_page_is_its_members_mean(combined: Server) -> None:
    """With their spread."""
    found = entry(combined, "two", include=["members"])

    assert list(found["members"]) == ["starter/member-1", "starter/member-2"]
    assert found["score"] == pytest.approx(sum(found["members"].values()) / 2, abs=1e-12)
    assert found["uncertainty"]["members"] == 2


def test_the_composite_of_the_page_is_what_it_says(combined: Server) -> None:
    """A weighted sum of its parts where the gate's part passes, else the gate's number."""
    found = entry(combined, "strict")
    parts = found["attributes"]
    weighed = entry(combined, "strict", attributes={"second": 1.0})

    assert found["gated"] is (parts["second"] < -1.0)
    expected = -10.0 if found["gated"] else 0.7 * parts["quality"] + 0.3 * parts["second"]
    assert found["score"] == pytest.approx(expected, abs=1e-12)
    assert weighed["score"] == (-10.0 if found["gated"] else parts["second"])


def test_the_rules_of_the_page_are_what_they_say(combined: Server) -> None:
    """The smallest part is the reward; an order has none, and compares."""
    found = entry(combined, "worst-case")
    body = {"prompt": ITEM["prompt"], "responses": [ITEM["response"], "No."]}

    order = combined.http.post("/compare", json={**body, "model": "first-then-second"}).json()
    score = combined.score(**ITEM, model="first-then-second")

    assert found["score"] == min(found["attributes"].values())
    assert order["data"][0]["probability"] in {0, 0.5, 1}
    assert score.status_code == 422


def test_the_rewards_of_the_page_are_what_a_server_answers(combined: Server) -> None:
    """Field by field, but for the names of the answer and its times."""
    request, stated = (
        json.loads(one) for one in re.findall(r"```json\n(.*?)```", COMBINE, re.DOTALL)[:2]
    )

    answer = combined.score(**request).json()

    assert answer.keys() - stated.keys() == {"created", "timing_ms"}
    assert answer["targets"].keys() == stated["targets"].keys()
    assert (answer["model"], answer["usage"]) == (stated["model"], stated["usage"])
    (found,), (expected,) = answer["data"], stated["data"]
    rewards, expected_rewards = found.pop("rewards"), expected.pop("rewards")
    assert found == expected
    assert rewards.keys() == expected_rewards.keys()
    for name, reward in expected_rewards.items():
        assert rewards[name].keys() == reward.keys()
        assert rewards[name]["score"] == pytest.approx(reward["score"], abs=CLOSE)


def test_the_aliases_of_the_page_are_the_starter(combined: Server) -> None:
    """Under each name the same score."""
    scores = {entry(combined, one)["score"] for one in ("starter", "judge", "gpt-4o-judge")}

    assert len(scores) == 1


def test_the_environment_lines_of_the_page_are_json(combined: Server) -> None:
    """Each names what is served."""
    del combined
    lines = re.findall(r"^ASSAY_(\w+)='(.*)'$", COMBINE, re.MULTILINE)

    assert [name for name, _ in lines] == ["ENSEMBLES", "ALIASES", "COMPOSITES"]
    for _, value in lines:
        assert json.loads(value)


def test_the_readmes_first_answer_is_the_servers(combined: Server) -> None:
    """The starter gets it right, as the README shows it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"\$ curl localhost:8000/compare -d '(.*?)'\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    shown = json.loads(found[2])

    answer = combined.http.post("/compare", content=found[1]).json()

    (own,), (entry,) = shown["data"], answer["data"]
    assert own["winner"] == 0
    assert (answer["model"], answer["revision"]) == (shown["model"], shown["revision"])
    assert answer.keys() == shown.keys()
    assert entry.keys() == own.keys()
    for name, value in own.items():
        assert entry[name] == pytest.approx(value, abs=CLOSE), name


def test_the_quickstarts_requests_are_answered(combined: Server) -> None:
    """Each as it stands there."""
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    asked = re.findall(r"\$ curl localhost:8000(/\S+) -d '(.*?)'\n", page, re.DOTALL)

    assert [path for path, _ in asked] == ["/score", "/best-of-n"]
    answers = [combined.http.post(path, content=body).json()["data"][0] for path, body in asked]
    assert answers[0]["uncertainty"]["members"] == 3
    assert answers[1]["best"]["index"] == 0


def test_every_example_is_of_settings() -> None:
    """Each block of TOML can be copied into `assay.toml`, or into the card that it names."""
    blocks = [
        block
        for page in DOCS.glob("*.md")
        if page.name != "cards.md"
        for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    ]

    assert len(blocks) > len(Settings.model_fields)
    for block in blocks:
        kind = Card if block.startswith("# card.toml\n") else Settings
        kind(**tomllib.loads(block))
