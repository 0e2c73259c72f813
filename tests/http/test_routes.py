"""The routes around scoring: models, tokenize, health, metrics, docs; ids and logs of all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.http.processes import until
from tests.http.texts import CONVERSATION, IDS, PAIR, PROMPT, RESPONSE, TEXT

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

MEMBERS = ["member-1", "member-2", "member-3"]
HALF_A_MICROSECOND = 0.6e-6  # answers round milliseconds to three digits


def test_the_list_of_models_is_as_openai_clients_read_it(http: httpx.Client) -> None:
    """The ensemble is the default and its members are served beside it."""
    answer = http.get("/v1/models").json()

    assert answer["object"] == "list"
    assert {entry["object"] for entry in answer["data"]} == {"model"}
    assert [entry["id"] for entry in answer["data"]] == (
        ["starter", *(f"starter/{member}" for member in MEMBERS)]
    )
    assert [entry["default"] for entry in answer["data"]] == [True, False, False, False]
    assert [entry["kind"] for entry in answer["data"]] == ["ensemble", *["model"] * 3]
    assert {entry["state"] for entry in answer["data"]} == {"ready"}
    assert answer["data"][0]["members"] == MEMBERS


def test_a_model_is_shown_with_its_whole_card(http: httpx.Client) -> None:
    """The detail is the list's entry with the card; an ensemble counts its members' parameters."""
    listed = {entry["id"]: entry for entry in http.get("/models").json()["data"]}

    details = {name: http.get(f"/models/{name}").json() for name in listed}

    for name, detail in details.items():
        card = detail.pop("card")
        assert detail == listed[name]
        assert card["limits"]["max_tokens"] == detail["max_tokens"]
        assert detail["statistics"]["mean"] == card["statistics"]["mean"]
        assert (detail["device"], detail["dtype"]) == ("cpu", "float32")
    assert len({detail["revision"] for detail in details.values()}) == 4
    assert details["starter"]["parameters"] == sum(
        details[f"starter/{member}"]["parameters"] for member in MEMBERS
    )


def test_a_model_that_runs_slower_says_why_at_the_start_and_in_the_list(families: Server) -> None:
    """PairRM's DeBERTa can't be packed: the reason is a warning in the log and in `GET /models`."""
    entries = families.http.get("/models").json()["data"]
    listed = [f"{one['id']}: {said}" for one in entries for said in one.get("warnings") or []]
    warned = re.findall(r" WARNING +assay\.start (.*)", families.log.read_text())

    assert sorted(listed) == sorted(warned)
    assert [line for line in listed if line.startswith("pairrm: attention runs as eager, slower: ")]


def test_tokenize_shows_what_the_model_sees(http: httpx.Client) -> None:
    """Ids, their strings, the place that is read, and the text where there was one."""
    answer = http.post("/tokenize", json={"inputs": [PAIR, CONVERSATION, TEXT, IDS]}).json()

    assert (answer["object"], answer["model"]) == ("tokenize.list", "starter")
    for entry in answer["data"]:
        assert len(entry["input_ids"]) == len(entry["tokens"]) == entry["n_tokens"]
        assert entry["read_position"] == entry["n_tokens"] - 1
        assert entry["read_token"] == entry["tokens"][-1]
        assert entry["truncated"] is False
    pair, conversation, text, ids = answer["data"]
    assert PROMPT in pair["text"]
    assert RESPONSE in pair["text"]
    for message in CONVERSATION["messages"]:
        assert message["content"] in conversation["text"]
    assert text["text"] == TEXT["text"]
    assert (ids["text"], ids["input_ids"]) == (None, IDS["input_ids"])


def test_tokenize_takes_one_item_a_model_and_reports_bad_ones(http: httpx.Client) -> None:
    """One item needs no list; a bad item says so and the others are shown."""
    one = http.post("/tokenize", json={"inputs": {**PAIR, "id": "x"}, "model": "starter/member-2"})
    both = http.post("/tokenize", json={"inputs": [{"input_ids": []}, PAIR]}).json()["data"]

    assert one.json()["model"] == "starter/member-2"
    assert one.json()["data"][0]["id"] == "x"
    assert both[0]["error"]["code"] == "empty_item"
    assert both[1]["input_ids"] == one.json()["data"][0]["input_ids"]


def test_tokenize_and_errors_name_the_revision(http: httpx.Client) -> None:
    """In a header: ids of one revision mean nothing to another."""
    revision = http.get("/models/starter").json()["revision"]
    shown = http.post("/tokenize", json={"inputs": PAIR})
    empty = http.post("/score", json={"inputs": [{"input_ids": []}]})
    unknown = http.post("/score", json={"inputs": PAIR, "model": "nope"})

    assert shown.headers["x-assay-revision"] == revision
    assert (empty.status_code, empty.headers["x-assay-revision"]) == (422, revision)
    assert "x-assay-revision" not in unknown.headers


def test_health_says_that_the_loop_answers_and_every_model_is_ready(http: httpx.Client) -> None:
    """`live` and `ready` are 200 with no reasons against it; `/health` is `ready`."""
    live, ready, health = (http.get(f"/health{path}") for path in ("/live", "/ready", ""))

    assert (live.status_code, live.json()) == (200, {"live": True})
    assert ready.status_code == 200
    assert ready.json() == health.json()
    assert ready.json()["ready"] is True
    assert ready.json()["reasons"] == []
    assert set(ready.json()["models"].values()) == {"ready"}
    assert len(ready.json()["models"]) == 4


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_can_be_asked_without_a_body(http: httpx.Client, path: str) -> None:
    """Probes that send HEAD get the status of GET."""
    answer = http.head(path)

    assert (answer.status_code, answer.content) == (200, b"")


def test_the_loops_lag_and_the_fronts_cpu_time_are_measured(starter: Server) -> None:
    """The lag is sampled while nothing is asked; CPU seconds are the front's own."""
    count = starter.metric("assay_loop_lag_seconds_count")
    until(
        "the lag is noted again",
        lambda: starter.metric("assay_loop_lag_seconds_count") > count,
    )

    assert starter.metric("assay_process_cpu_seconds_total") > 0


def test_the_metrics_parse_and_name_what_is_served(http: httpx.Client) -> None:
    """`/metrics` is Prometheus text in which every family is Assay's and has a help line."""
    answer = http.get("/metrics")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}

    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert all(name.startswith("assay_") for name in families)
    assert all(one.documentation for one in families.values())
    assert {sample.labels["model"] for sample in families["assay_model_info"].samples} == (
        {"starter", *(f"starter/{member}" for member in MEMBERS)}
    )


@pytest.mark.parametrize("route", ["score", "compare", "best-of-n"])
def test_an_answer_and_the_metrics_state_the_same_numbers(starter: Server, route: str) -> None:
    """Counts rise by the request's items and tokens, sums of seconds by its own milliseconds."""
    group = {"prompt": PROMPT, "responses": [RESPONSE, "No.", "Yes."]}
    body = {"inputs": [{"prompt": PROMPT, "response": one} for one in group["responses"]]}
    labels = {"model": "starter", "route": route}
    times = {
        "total": "request_duration",
        "tokenize": "tokenize",
        "queue": "queue",
        "compute": "compute",
    }
    names = [f"assay_{name}_seconds_sum" for name in times.values()]
    names += ["assay_items_total", "assay_tokens_total", "assay_compute_seconds_count"]
    names += ["assay_http_seconds_count"]
    before = {name: starter.metric(name, **labels) for name in names}
    ok = starter.metric("assay_requests_total", outcome="ok", **labels)

    answer = starter.http.post(f"/{route}", json=body if route == "score" else group).json()

    rise = {name: starter.metric(name, **labels) - before[name] for name in names}
    assert starter.metric("assay_requests_total", outcome="ok", **labels) == ok + 1
    assert rise["assay_items_total"] == 3
    assert rise["assay_tokens_total"] == answer["usage"]["tokens"]
    assert rise["assay_compute_seconds_count"] == 1
    assert rise["assay_http_seconds_count"] == 1
    for key, name in times.items():
        assert rise[f"assay_{name}_seconds_sum"] == (
            pytest.approx(answer["timing_ms"][key] / 1e3, abs=HALF_A_MICROSECOND)
        )


def test_computed_tokens_and_scores_are_counted_by_model(starter: Server) -> None:
    """Each member counts what it computed; the target counts each score and its spread."""
    computed = [
        starter.metric("assay_computed_tokens_total", model=f"starter/{m}") for m in MEMBERS
    ]
    scores = starter.metric("assay_score_count", model="starter")
    stds = starter.metric("assay_ensemble_std_count", model="starter")

    usage = starter.score(inputs=[PAIR, IDS]).json()["usage"]

    after = [starter.metric("assay_computed_tokens_total", model=f"starter/{m}") for m in MEMBERS]
    assert sum(after) - sum(computed) == usage["computed_tokens"]
    assert min(new - old for new, old in zip(after, computed, strict=True)) > 0
    assert starter.metric("assay_score_count", model="starter") == scores + 2
    assert starter.metric("assay_ensemble_std_count", model="starter") == stds + 2


@pytest.mark.parametrize(
    ("body", "model", "outcome"),
    [
        ({"inputs": [{"input_ids": []}], "on_error": "item"}, "starter", "partial"),
        ({"inputs": [{"input_ids": []}]}, "starter", "empty_item"),
        ({"inputs": [], "model": "nope"}, "", "unknown_model"),
        ({"inputs": 5}, "", "invalid_field"),
    ],
)
def test_requests_are_counted_by_how_they_ended(
    starter: Server, body: dict[str, object], model: str, outcome: str
) -> None:
    """The outcome is `partial` or the error's code; what callers make up is no label."""
    labels = {"route": "score", "outcome": outcome, "model": model}
    before = starter.metric("assay_requests_total", **labels)

    starter.score(**body)

    assert starter.metric("assay_requests_total", **labels) == before + 1
    assert "nope" not in starter.http.get("/metrics").text


def test_the_docs_and_the_schema_answer(http: httpx.Client) -> None:
    """Every native route is there with its body and answer, beside a contract's where shared."""
    docs, schema = http.get("/docs"), http.get("/openapi.json").json()

    assert docs.status_code == 200
    assert 'openapi.json"' in docs.text
    models = schema["components"]["schemas"]
    for route, name in {
        "/score": "Score",
        "/compare": "Compare",
        "/best-of-n": "BestOfN",
        "/tokenize": "Tokenize",
    }.items():
        post = schema["paths"][route]["post"]
        body = post["requestBody"]["content"]["application/json"]["schema"]
        answer = post["responses"]["200"]["content"]["application/json"]["schema"]
        assert {"$ref": f"#/components/schemas/{name}Request"} in body.get("anyOf", [body])
        assert {"$ref": f"#/components/schemas/{name}Answer"} in answer.get("anyOf", [answer])
        assert models[f"{name}Request"]["properties"]
    for path in ("/models", "/models/{name}", "/health", "/health/live", "/health/ready"):
        assert "get" in schema["paths"][path]


def test_every_reference_of_the_schema_leads_somewhere(http: httpx.Client) -> None:
    """A client can be generated from the schema: no `$ref` dangles."""
    schema = http.get("/openapi.json").json()
    pending, references = [schema], set()
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            references |= {one["$ref"]} if isinstance(one.get("$ref"), str) else set()
            pending += one.values()
        elif isinstance(one, list):
            pending += one

    assert len(references) > 10
    for reference in references:
        place = schema
        for part in reference.removeprefix("#/").split("/"):
            assert part in place, reference
            place = place[part]


def test_a_request_id_is_echoed(http: httpx.Client) -> None:
    """The caller's `X-Request-Id` comes back in the header and in every body that has one."""
    for method, path in (("POST", "/score"), ("GET", "/health"), ("GET", "/nope")):
        answer = http.request(method, path, headers={"X-Request-Id": "run-7/step.3"}, content="{}")

        assert answer.headers["x-request-id"] == "run-7/step.3"
        if answer.status_code >= 400:
            assert answer.json()["request_id"] == "run-7/step.3"


@pytest.mark.parametrize("given", [None, "", "two words", "x" * 129, "caf\xe9"])
def test_a_request_id_that_cant_be_logged_is_made(http: httpx.Client, given: str | None) -> None:
    """Absent, overlong or unprintable ids are replaced by one of 32 hex digits."""
    headers = {} if given is None else {b"X-Request-Id": given.encode("latin-1")}

    made = http.get("/health/live", headers=headers).headers["x-request-id"]

    assert len(made) == 32
    assert int(made, 16) >= 0


def test_the_log_has_a_line_for_a_request_and_none_of_its_text(starter: Server) -> None:
    """A request is logged by route, status, time and id, never by what it said."""
    headers = {"X-Request-Id": "logged-once"}
    secret = {"prompt": "zzz-prompt-secret", "response": "zzz-response-secret"}
    starter.http.post("/score", json=secret, headers=headers)
    starter.http.post("/score", json={**secret, "typo": "zzz"}, headers=headers)
    starter.http.get("/health", headers=headers)

    def logged() -> list[str]:
        return [one for one in starter.log.read_text().splitlines() if "id=logged-once" in one]

    until("both lines are written", lambda: len(logged()) >= 2)
    lines, log = logged(), starter.log.read_text()
    assert ["POST /score 200" in lines[0], "POST /score 422" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert "zzz" not in log
    assert "Traceback" not in log
