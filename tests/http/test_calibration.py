"""A target with a calibration: probabilities, abstention and length control over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

from assay import Client
from assay.calibration import overlay
from assay.cards import calibration as cards
from assay.cli.app import app
from assay.reward.transform import sigmoid
from assay.settings import Settings
from tests import resolving
from tests.http.processes import run, serving
from tests.http.texts import PROMPT, RESPONSES
from tests.scoring.fitted import INTERCEPT, KNOTS, LENGTHS, MEAN, RATES, SLOPE, THRESHOLDS, fitted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

BAR = 0.45  # the probability of being acceptable that the composite "sure" wants
ALIKE = 0.6  # the probability of preference up to which the composite "first" finds two alike
COMPOSITES = {
    "sure": {
        "parts": {"plain": {"target": "starter"}, "other": {"target": "starter/member-1"}},
        "gate": {"part": "plain", "at_least": BAR, "otherwise": -7.0, "calibrated": True},
    },
    "first": {
        "rule": "lexicographic",
        "parts": {
            "plain": {"target": "starter", "weight": 3.0, "tolerance": ALIKE, "calibrated": True},
            "other": {"target": "starter/member-1"},
        },
    },
}
ROUNDING = 1e-12  # one number computed in two orders of float64 operations
PAIRS = 120


@pytest.fixture(scope="module")
def ours() -> cards.Calibration:
    """A calibration of the starter as it is."""
    return fitted("starter", resolving.load(Settings()).default.revision)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ours: cards.Calibration) -> Iterator[Server]:
    """The starter's server with it, and composites by it."""
    folder = tmp_path_factory.mktemp("calibrated")
    overlay.write(ours, folder / "ours.toml")
    calibrations = json.dumps({"starter": str(folder / "ours.toml")})
    composites = json.dumps(COMPOSITES)
    with serving(
        folder / "run", "starter", calibrations=calibrations, composites=composites
    ) as server:
        yield server


def posted(server: Server, path: str, **body: Any) -> dict[str, Any]:
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def offset(response: str) -> float:
    """Return what length control adds, from the knots."""
    return MEAN - float(np.interp(len(response), *zip(*LENGTHS, strict=True)))


def test_a_probability_is_by_the_calibration(server: Server, ours: cards.Calibration) -> None:
    """Of the margin of mean rewards; the answer names it. With a temperature it is as without."""
    answer = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES[:2])
    (entry,) = answer["data"]
    back = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES[1::-1])
    plain = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES[:2], temperature=1)

    assert answer["calibration"] == ours.id
    assert entry["probability"] == pytest.approx(sigmoid(entry["margin"] / 2), abs=ROUNDING)
    assert back["data"][0]["probability"] == 1 - entry["probability"]
    assert "calibration" not in plain
    assert plain["data"][0]["probability"] != entry["probability"]


def test_all_pairs_of_a_comparison_are_calibrated(server: Server) -> None:
    """P(i ≻ j) = 1 − P(j ≻ i), to the bit."""
    (entry,) = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES)["data"]
    matrix = np.array(entry["probabilities"])

    assert (matrix == 1 - matrix.T).all()
    assert matrix[0, 1] == pytest.approx(
        sigmoid((entry["scores"][0] - entry["scores"][1]) / 2), abs=ROUNDING
    )


@pytest.mark.parametrize(("rate", "threshold"), [*zip(RATES, THRESHOLDS, strict=True)])
def test_comparisons_are_undecided_up_to_the_threshold(
    server: Server, rate: float, threshold: float
) -> None:
    """The winner stays; best-of-n says it of the first two of the ranking."""
    (entry,) = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES, abstain_at=rate)[
        "data"
    ]
    (best,) = posted(server, "/best-of-n", prompt=PROMPT, responses=RESPONSES, abstain_at=rate)[
        "data"
    ]
    (alone,) = posted(
        server, "/best-of-n", prompt=PROMPT, responses=RESPONSES[:1], abstain_at=rate
    )["data"]
    lead = best["ranking"][0]["score"] - best["ranking"][1]["score"]

    assert entry["undecided"] == (abs(entry["margin"]) <= threshold)
    assert entry["winner"] is not None
    assert best["undecided"] == (lead <= threshold)
    assert alone["undecided"] is False


def test_a_response_has_a_probability_of_being_acceptable(server: Server) -> None:
    """With its interval, from the knots; the score is what it was."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    data = posted(server, "/score", inputs=items, calibrated=True)["data"]
    plain = posted(server, "/score", inputs=items)["data"]
    places, lows, highs = zip(*KNOTS, strict=True)

    assert [entry["score"] for entry in data] == [entry["score"] for entry in plain]
    for entry in data:
        low, high = (np.interp(entry["score"], places, ends) for ends in (lows, highs))
        assert entry["probability_interval"] == pytest.approx([low, high], abs=ROUNDING)
        assert entry["probability"] == pytest.approx(high / (1 - low + high), abs=ROUNDING)
        assert entry["absolute"] == pytest.approx(SLOPE * entry["score"] + INTERCEPT, abs=ROUNDING)
        assert "absolute" not in plain[0]


def test_calibrated_numbers_dont_depend_on_other_items(server: Server) -> None:
    """Alone, in another order or beside others: the same bits."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    options = {"calibrated": True, "length_control": False}
    together = posted(server, "/score", inputs=items[::-1], **options)["data"][::-1]

    for item, entry in zip(items, together, strict=True):
        (alone,) = posted(server, "/score", inputs=[item], **options)["data"]
        assert alone["probability"] == entry["probability"]


def test_length_control_answers_both_scores(server: Server) -> None:
    """Controlled and raw, on each route; all else is of the controlled score."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    raw = [entry["score"] for entry in posted(server, "/score", inputs=items)["data"]]
    expected = [score + offset(text) for score, text in zip(raw, RESPONSES, strict=True)]
    data = posted(server, "/score", inputs=items, length_control=True, include=["members"])["data"]
    (entry,) = posted(
        server, "/compare", prompt=PROMPT, responses=RESPONSES[:2], length_control=True
    )["data"]
    (best,) = posted(server, "/best-of-n", prompt=PROMPT, responses=RESPONSES, length_control=True)[
        "data"
    ]

    assert [one["raw_score"] for one in data] == raw
    assert [one["score"] for one in data] == pytest.approx(expected, abs=ROUNDING)
    for one in data:
        assert np.mean([*one["members"].values()]) == pytest.approx(one["score"], abs=ROUNDING)
    assert entry["raw_scores"] == raw[:2]
    assert entry["margin"] == pytest.approx(expected[0] - expected[1], abs=ROUNDING)
    sure = sigmoid(abs(entry["margin"]) + 0.5)
    assert entry["probability"] == pytest.approx(
        sure if entry["margin"] > 0 else 1 - sure, abs=ROUNDING
    )
    assert {one["index"]: one["raw_score"] for one in best["ranking"]} == dict(enumerate(raw))
    assert [one["score"] for one in best["ranking"]] == pytest.approx(
        sorted(expected, reverse=True), abs=ROUNDING
    )


def acceptable(score: float) -> float:
    """Return the probability of being acceptable, from the knots."""
    places, lows, highs = zip(*KNOTS, strict=True)
    low, high = (np.interp(score, places, ends) for ends in (lows, highs))
    return float(high / (1 - low + high))


def test_a_gate_may_be_a_probability(server: Server, ours: cards.Calibration) -> None:
    """On each route, and as one of several targets; answers name the calibration, by its part."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    plain = [entry["score"] for entry in posted(server, "/score", inputs=items)["data"]]
    other = [
        entry["score"]
        for entry in posted(server, "/score", inputs=items, model="starter/member-1")["data"]
    ]
    passes = [acceptable(score) >= BAR for score in plain]
    assert 0 < sum(passes) < len(passes)
    expected = [
        a + b if is_good else -7.0 for a, b, is_good in zip(plain, other, passes, strict=True)
    ]

    scored = posted(server, "/score", inputs=items, model="sure")
    compared = posted(server, "/compare", prompt=PROMPT, responses=RESPONSES, model="sure")
    best = posted(server, "/best-of-n", prompt=PROMPT, responses=RESPONSES, model="sure")
    several = posted(server, "/score", inputs=items, targets=["sure", "starter"])

    assert [entry["score"] for entry in scored["data"]] == pytest.approx(expected, abs=ROUNDING)
    assert [entry["gated"] for entry in scored["data"]] == [not is_good for is_good in passes]
    assert compared["data"][0]["scores"] == [entry["score"] for entry in scored["data"]]
    assert compared["data"][0]["gated"] == [not is_good for is_good in passes]
    assert {one["index"]: one["gated"] for one in best["data"][0]["ranking"]} == dict(
        enumerate(not is_good for is_good in passes)
    )
    with Client(server.url) as client:
        asked = client.score([(PROMPT, response) for response in RESPONSES], model="sure")
    assert [entry.gated for entry in asked] == [not is_good for is_good in passes]
    for answer in (scored, compared, best, several["targets"]["sure"]):
        assert answer["calibrations"] == {"plain": ours.id}
    assert "calibrations" not in several["targets"]["starter"]
    assert "calibrations" not in several


def test_alike_may_be_a_probability(server: Server, ours: cards.Calibration) -> None:
    """Whoever is likely enough the better one stands first, whatever the weight of the part."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    first, second = (
        [entry["score"] for entry in posted(server, "/score", inputs=items, model=name)["data"]]
        for name in ("starter", "starter/member-1")
    )
    pairs = [(i, j) for i in range(len(first)) for j in range(i)]
    sure = {pair: sigmoid(abs(first[pair[0]] - first[pair[1]]) / 2) > ALIKE for pair in pairs}
    assert 0 < sum(sure.values()) < len(pairs)

    for (i, j), is_sure in sure.items():
        answer = posted(
            server, "/compare", prompt=PROMPT, responses=[RESPONSES[i], RESPONSES[j]], model="first"
        )
        by = first if is_sure else second
        assert answer["data"][0]["winner"] == int(by[i] < by[j])
        assert answer["calibrations"] == {"plain": ours.id}
    part = server.http.get("/models/first").json()["parts"]["plain"]
    assert (part["alike_up_to"], part["calibration"]) == (ALIKE, ours.id)
    assert part["tolerance"] == pytest.approx(3.0 * 2.0 * np.log(ALIKE / (1 - ALIKE)))
    assert server.http.get("/models/sure").json()["gate"]["calibrated"] is True


@pytest.mark.parametrize("option", ["calibrated", "length_control"])
def test_an_optional_target_without_a_calibration_is_its_own_error(
    server: Server, ours: cards.Calibration, option: str
) -> None:
    """The other one answers; a required one refuses the request, as does an optional one alone."""
    bare = {"target": "starter/member-1", "required": False}
    body = {"prompt": PROMPT, "response": RESPONSES[0], option: True}

    answer = posted(server, "/score", **body, targets=[bare, "starter"])
    refused = [
        server.http.post("/score", json={**body, "targets": targets})
        for targets in ([bare["target"], "starter"], [bare])
    ]

    (entry,) = answer["data"]
    (alone,) = posted(server, "/score", **body)["data"]
    assert entry["rewards"]["starter"] == {
        name: value for name, value in alone.items() if name != "index"
    }
    assert entry["rewards"]["starter/member-1"]["score"] is None
    assert "has no calibration" in entry["rewards"]["starter/member-1"]["error"]["message"]
    assert answer["targets"]["starter"]["calibration"] == ours.id
    for response in refused:
        assert (response.status_code, response.json()["error"]["param"]) == (422, option)


def test_other_servers_contracts_have_the_gate(server: Server) -> None:
    """A reranker's answer has the score that the gate leaves."""
    items = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
    scores = [
        entry["score"] for entry in posted(server, "/score", inputs=items, model="sure")["data"]
    ]

    answer = posted(server, "/v1/rerank", model="sure", query=PROMPT, documents=RESPONSES)

    found = {one["index"]: one["relevance_score"] for one in answer["results"]}
    assert {index for index, score in found.items() if score == min(found.values())} == {
        index for index, score in enumerate(scores) if score == -7.0
    }


def test_what_wasnt_fitted_is_refused_by_its_field(server: Server, starter: Server) -> None:
    """422, with the rates that are; a target without a calibration has none."""
    pair = {"prompt": PROMPT, "responses": RESPONSES[:2]}
    other = server.http.post("/compare", json={**pair, "abstain_at": 0.3})
    none = starter.http.post("/compare", json={**pair, "abstain_at": 0.1})
    text = server.http.post("/score", json={"inputs": {"text": "a"}, "length_control": True})

    for answer, param in ((other, "abstain_at"), (none, "abstain_at"), (text, None)):
        assert answer.status_code == 422
        assert answer.json()["error"].get("param") == param or param is None
    assert "send one of 0.1, 0.2" in other.json()["error"]["message"]
    assert "has no calibration" in none.json()["error"]["message"]


def test_a_target_shows_its_calibration(server: Server, ours: cards.Calibration) -> None:
    """Its id and age, what it was fitted on, and what may be asked."""
    shown = server.http.get("/models/starter").json()["calibration"]

    assert shown["id"] == ours.id
    assert (shown["method"], shown["calibrated"]) == ("temperature", True)
    assert shown["absolute"] == "prompt"
    assert (shown["error_rates"], shown["covariate"]) == (list(RATES), "characters")
    assert "calibration" not in server.http.get("/models/starter%2Fmember-1").json()


def test_margins_are_counted_beside_those_of_the_calibration(server: Server) -> None:
    """A pair that is decided, its raw margin, and how old the calibration is."""
    before = [
        server.metric("assay_margins_total", model="starter", moment=moment)
        for moment in ("absolute", "squared")
    ]
    (entry,) = posted(
        server, "/compare", prompt=PROMPT, responses=RESPONSES[:2], length_control=True
    )["data"]
    margin = entry["raw_scores"][0] - entry["raw_scores"][1]
    after = [
        server.metric("assay_margins_total", model="starter", moment=moment)
        for moment in ("absolute", "squared")
    ]

    assert after[0] - before[0] == pytest.approx(abs(margin))
    assert after[1] - before[1] == pytest.approx(margin**2)
    assert server.metric("assay_calibration_margin", model="starter", moment="absolute") == 0.75
    assert server.metric("assay_calibration_age_seconds", model="starter") != 0
    assert server.metric("assay_comparisons_total", model="starter") > 0


def pairs(count: int) -> list[dict[str, Any]]:
    """Return pairs and labelled responses of as many prompts."""
    chosen, rejected = RESPONSES[:2]
    return [
        line
        for number in range(count)
        for line in (
            {"prompt": f"{PROMPT} {number}", "chosen": chosen, "rejected": rejected},
            {"prompt": f"{PROMPT} {number}", "response": chosen, "label": number % 2},
        )
    ]


def write(folder: Path, lines: list[dict[str, Any]]) -> Path:
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_file_of_pairs_becomes_a_calibration(starter: Server, tmp_path: Path) -> None:
    """`assay calibrate` by a server: the file is of its revision, and names the pairs."""
    file, output = write(tmp_path, pairs(PAIRS)), tmp_path / "calibration.toml"
    command = ["calibrate", "starter", str(file), "--url", starter.url, "-o", str(output)]

    done = CliRunner().invoke(app, [*command, "--alpha", "0.1", "--json"])

    assert done.exit_code == 0, done.output
    found, report = cards.read(output), json.loads(done.stdout)
    assert found.id == report["id"]
    assert found.revision == starter.http.get("/models/starter").json()["revision"]
    assert found.source == "pairs.jsonl"
    assert report["counts"]["pairs_fitted"] + report["counts"]["pairs_held_out"] == PAIRS
    assert [one.error_rate for one in found.abstention.thresholds] == [0.1]
    assert found.acceptable is not None


@pytest.mark.parametrize(
    ("lines", "options", "reason"),
    [
        ([], [], "has no lines"),
        (pairs(30), [], "there are 30 pairs, and at least 50 are needed"),
        ([{**pairs(1)[0], "rejected": RESPONSES[0]}], [], "line 1: 'chosen' and 'rejected' are"),
        (pairs(60), ["-o", "no/such/folder/c.toml"], "can't be written"),
        (pairs(60), ["--alpha", "2"], "give up to 32 numbers between 0 and 1"),
        (pairs(60), ["--covariate", "beauty"], "it is one of characters, markdown, list_items"),
    ],
)
def test_pairs_that_say_too_little_are_refused_before_they_are_scored(
    starter: Server,
    tmp_path: Path,
    lines: list[dict[str, Any]],
    options: list[str],
    reason: str,
) -> None:
    """One sentence, and no file."""
    file, output = write(tmp_path, lines), tmp_path / "calibration.toml"
    command = ["calibrate", "starter", str(file), "--url", starter.url, "-o", str(output)]

    done = CliRunner().invoke(app, [*command, *options])

    assert done.exit_code != 0
    assert reason in " ".join(done.output.replace("│", " ").split())
    assert not output.exists()


def test_what_a_composite_waits_for_can_be_fitted(tiny: Path, tmp_path: Path) -> None:
    """An ensemble whose calibration a composite's gate is by, then the composite, then a score."""
    file, toml = write(tmp_path, pairs(PAIRS)), tmp_path / "assay.toml"
    gate = '{ part = "a", at_least = 0.0, otherwise = -7.0, calibrated = true }'
    served = f"""
models = ["{tiny}"]
[ensembles]
all = ["tiny"]
[aliases]
strict = "c"
[composites.c]
parts.a = {{ target = "all" }}
gate = {gate}
[calibrations]
all = "{tmp_path / "all.toml"}"
strict = "{tmp_path / "c.toml"}"
"""
    toml.write_text(served)

    for target in ("all", "c"):
        output = tmp_path / f"{target}.toml"
        command = ("calibrate", target, file, "--config", toml, "-o", output)
        done = run(*command, cwd=tmp_path, device="cpu", threads=1)
        assert done.returncode == 0, done.stderr
        assert cards.read(output).target == target
    items, scores = tmp_path / "items.jsonl", tmp_path / "scores.jsonl"
    items.write_text(json.dumps({"prompt": PROMPT, "response": RESPONSES[0]}) + "\n")
    command = ("score", items, "--config", toml, "--model", "strict", "-o", scores)
    done = run(*command, cwd=tmp_path, device="cpu", threads=1)

    assert done.returncode == 0, done.stderr
    assert json.loads(scores.read_text())["gated"] is False
