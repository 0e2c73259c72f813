"""What a real server counts of its scores: exact sums, agreement, who was turned away."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from assay.items import Contest, Conversation, Ids, Solution, Text
from assay.scoring.reward_metrics import agreements, length
from assay.telemetry.metrics import LABELS, Metrics
from assay.telemetry.score_length_sums import MOMENTS
from tests.http.processes import until
from tests.telemetry.conftest import MAX_QUEUED_TOKENS

SECRET = "vibraphone"
WORDS = "all the world is a stage and all the men and women merely players"
ITEMS = [
    {"prompt": f"q{prompt}", "response": WORDS[:size]}
    for prompt in range(3)
    for size in (3, 11, 29, 60)
]
FAT = [{"text": f"{WORDS} {one}"} for one in range(20)]


def test_a_scrape_has_no_times_of_creation(observed):
    """One beside each series, which no query asks for."""
    observed.score(inputs=ITEMS)
    families = text_string_to_metric_families(observed.http.get("/metrics").text)
    names = {sample.name for family in families for sample in family.samples}

    assert "assay_requests_total" in names
    assert [name for name in names if name.endswith("_created")] == []


def moments(server, model, kind):
    """Return the sums of a model and a kind of length."""
    return {
        name: server.metric("assay_score_moments_total", model=model, length=kind, moment=name)
        for name in MOMENTS
    }


def noted(before, after):
    return {name: after[name] - before[name] for name in MOMENTS}


def correlation(sums):
    """Return Pearson's r as deploy/prometheus/rules.yml has it."""
    n, x, xx = sums["items"], sums["length"], sums["length_squared"]
    y, yy = sums["score_positive"] - sums["score_negative"], sums["score_squared"]
    xy = sums["product_positive"] - sums["product_negative"]
    return (n * xy - x * y) / math.sqrt((n * xx - x * x) * (n * yy - y * y))


@pytest.mark.parametrize("model", ["one", "both"])
def test_mean_spread_and_correlation_follow_from_the_sums(observed, model):
    """They are those of the scores that were answered."""
    before = moments(observed, model, "response")
    answer = observed.score(model=model, inputs=ITEMS)
    sums = noted(before, moments(observed, model, "response"))
    scores = np.array([entry["score"] for entry in answer.json()["data"]])
    lengths = np.array([len(item["response"]) for item in ITEMS])
    mean = (sums["score_positive"] - sums["score_negative"]) / sums["items"]

    assert sums["items"] == len(ITEMS)
    assert mean == pytest.approx(scores.mean(), abs=1e-9)
    assert math.sqrt(sums["score_squared"] / sums["items"] - mean**2) == pytest.approx(scores.std())
    assert correlation(sums) == pytest.approx(np.corrcoef(lengths, scores)[0, 1], abs=1e-9)


def test_an_activation_changes_no_metric(observed):
    """Raw scores are noted, whatever a caller wants to see."""
    before = moments(observed, "one", "response")
    raw = observed.score(model="one", inputs=ITEMS).json()["data"]
    between = moments(observed, "one", "response")
    observed.score(model="one", inputs=ITEMS, activation="sigmoid")

    first, second = noted(before, between), noted(between, moments(observed, "one", "response"))

    assert sum(max(entry["score"], 0) for entry in raw) == pytest.approx(first["score_positive"])
    assert second == pytest.approx(first, abs=1e-9)


@pytest.mark.parametrize(
    ("items", "kind", "lengths"),
    [
        ([{"text": WORDS}], "text", len(WORDS)),
        ([{"input_ids": [5, 6, 7]}], "ids", 3),
        ([{"messages": [{"role": "assistant", "content": WORDS}]}], "response", len(WORDS)),
    ],
)
def test_lengths_of_different_kinds_are_kept_apart(observed, items, kind, lengths):
    """Characters of a response, of a whole text, and tokens can't be added."""
    before = {one: moments(observed, "one", one) for one in ("response", "text", "ids")}
    assert observed.score(model="one", inputs=items).is_success

    found = {one: noted(before[one], moments(observed, "one", one)) for one in before}

    assert found.pop(kind)["length"] == lengths
    assert {sums["items"] for sums in found.values()} == {0}


def test_agreement_is_what_a_comparison_answers(observed):
    """Of two responses: the share of members on the winner's side."""
    before = observed.metric("assay_agreement_sum", model="both")
    compared = [
        {"prompt": f"q{size}", "responses": [WORDS[:size], WORDS[size:]]}
        for size in (4, 9, 20, 33, 50)
    ]
    answer = observed.http.post("/compare", json={"model": "both", "comparisons": compared})
    told = [entry["agreement"] for entry in answer.json()["data"]]

    assert observed.metric("assay_agreement_sum", model="both") - before == pytest.approx(sum(told))


def test_neighbours_agree_or_not_where_they_answer_one_prompt(observed):
    """Each of three groups of four has three pairs; other prompts are no neighbours."""
    before = observed.metric("assay_agreement_count", model="both")
    observed.score(model="both", inputs=ITEMS)

    assert observed.metric("assay_agreement_count", model="both") - before == 9
    assert observed.metric("assay_agreement_count", model="one") == 0


ASKED = ({"role": "user", "content": "q"},)


def turns(answer, asked=ASKED):
    return Conversation((*asked, {"role": "assistant", "content": answer}))


def agreed(sources, rewards):
    means = [sum(one) / len(one) if one else 0.0 for one in rewards]
    return list(agreements(sources, rewards, means))


@pytest.mark.parametrize(
    ("rewards", "shares"),
    [
        ([(1, 2, 3), (0, 1, 2)], [1.0]),
        ([(1, 2, 3), (0, 3, 4)], [2 / 3]),
        ([(3, 0, 0), (0, 1, 1)], [1 / 3]),
        ([(1, 1), (1, 1)], []),
        ([(1, 2), ()], []),
    ],
)
def test_agreement_is_the_share_of_members_on_the_means_side(rewards, shares):
    """A tie has no side; an item without rewards no say."""
    assert agreed([turns("a"), turns("b")], rewards) == shares


def test_only_what_shows_its_prompt_is_compared():
    """Texts and ids may answer anything."""
    pairs = [
        [turns("a"), turns("b", asked=())],
        [Text("a"), Text("b")],
        [Ids((1,)), Ids((2,))],
        [turns("a"), Solution(ASKED, ("b",))],
    ]

    assert [agreed(pair, [(1, 2), (3, 4)]) for pair in pairs] == [[]] * 4
    assert agreed([Solution(ASKED, ("a",))] * 2, [(1,), (2,)]) == [1.0]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (turns("four"), ("response", 4)),
        (Solution(ASKED, ("one", "three")), ("response", 8)),
        (Contest(ASKED, "a", "bc"), ("response", 3)),
        (Text("seven.."), ("text", 7)),
        (Ids((1, 2)), ("ids", 2)),
    ],
)
def test_a_length_is_the_responses_where_it_can_be_told(source, expected):
    """And the whole item's where it can't."""
    assert length(source) == expected


def shed(server, reason):
    return server.metric("assay_shed_items_total", reason=reason)


def test_what_is_turned_away_is_counted_in_items(observed):
    """By why: no room, too late, or nobody waits any more."""
    before = {one: shed(observed, one) for one in ("overloaded", "deadline_exceeded")}
    many = FAT * 4  # more than half of what may wait

    with ThreadPoolExecutor(1) as pool, observed.held():
        first = pool.submit(observed.score, model="one", inputs=many)
        until("it waits", lambda: observed.metric("assay_admitted_tokens") > 0)
        late = observed.score(model="one", inputs=FAT[:1], deadline_ms=1, on_error="item")
        refused = observed.score(model="one", inputs=many)

    assert first.result().is_success
    assert refused.json()["error"]["code"] == "overloaded"
    assert late.json()["data"][0]["error"]["code"] == "deadline_exceeded"
    assert shed(observed, "overloaded") - before["overloaded"] == len(many)
    assert shed(observed, "deadline_exceeded") - before["deadline_exceeded"] == 1


def test_callers_who_leave_shed_what_wasnt_scored(observed):
    """Each of their items is one."""
    before = shed(observed, "client_gone")
    hasty = httpx.Client(base_url=observed.url, timeout=0.5)
    with hasty, observed.held():  # until they are counted, or some would be scored after all
        with pytest.raises(httpx.ReadTimeout):
            hasty.post("/score", json={"model": "one", "inputs": FAT})
        until("they are counted", lambda: shed(observed, "client_gone") - before == len(FAT))


def test_workers_are_described(observed):
    """Whether they are up, what they hold, and counters that are there before they count."""
    assert observed.metric("assay_worker_up", device="cpu") == 1
    assert observed.metric("assay_worker_memory_bytes", device="cpu", kind="resident") > 1e7
    text = observed.http.get("/metrics").text
    assert 'assay_worker_restarts_total{device="cpu",reason="died"} 0.0' in text
    assert 'assay_out_of_memory_total{device="cpu",model="one"} 0.0' in text
    assert observed.metric("assay_admitted_tokens_limit") == MAX_QUEUED_TOKENS


def test_failures_are_counted_from_the_first_request_on():
    """A counter that appears with 1 hasn't increased, as far as Prometheus can tell."""
    metrics = Metrics()
    metrics.request("judge", "score", "ok")
    labels = {"model": "judge", "route": "score", "outcome": "forward_failed"}

    assert metrics.registry.get_sample_value("assay_requests_total", labels) == 0


def test_no_label_is_a_callers_word(observed):
    """Names, ids, paths, texts: whatever is sent, the series are of closed sets."""
    item = {"id": SECRET, "prompt": SECRET, "response": SECRET}
    headers = {"X-Request-Id": SECRET, "User-Agent": SECRET}
    for path, body in [
        ("/score", {"inputs": [item]}),
        ("/score", {"inputs": [item], "model": SECRET}),
        ("/score", {SECRET: SECRET}),
        ("/score/" + SECRET, {}),
        ("/rerank", {"query": SECRET, "texts": [SECRET], "model": SECRET}),
        ("/v1/embeddings", {"input": SECRET, "model": SECRET, "user": SECRET}),
    ]:
        observed.http.post(path, content=json.dumps(body), headers=headers)
    text = observed.http.get("/metrics").text
    named = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }

    assert SECRET not in text
    assert named - LABELS.keys() == set()
