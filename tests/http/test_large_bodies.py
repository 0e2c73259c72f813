"""Bodies that are parsed while they come: the answers of small ones, and bounds of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from assay.api.body import MOST_OPAQUE_BYTES, MOST_WHOLE_BYTES
from assay.wire import MOST_COMPARED, MOST_ITEMS

if TYPE_CHECKING:
    import httpx

    from tests.http.processes import Server

FILLER = "x" * MOST_WHOLE_BYTES
ITEMS: list[dict[str, Any]] = [
    {"prompt": "Name a prime.", "response": 'Seven: "\\7\\" \N{EURO SIGN}'},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "[{,}]"}]},
    {"text": "plain \N{GRINNING FACE}"},
    {"input_ids": list(range(5, 45))},
    {"input_ids": [5, 6, 7]},
]


def scores(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text[:200]
    return [entry["score"] for entry in answer.json()["data"]]


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_large_body_is_answered_as_a_small_one(starter: Server, ascii_only: bool) -> None:
    """Every form of item, the list cut wherever a chunk ends; ids are echoed."""
    expected = scores(starter.score(inputs=ITEMS))
    large = [{**item, "id": f"{place}{FILLER}"} for place, item in enumerate(ITEMS)]
    body = json.dumps({"inputs": large, "activation": "none"}, ensure_ascii=ascii_only)

    answer = starter.http.post("/score", content=body.encode())

    assert scores(answer) == expected
    assert [entry["id"] for entry in answer.json()["data"]] == [item["id"] for item in large]


def test_a_large_body_of_a_contract_is_answered_as_a_small_one(starter: Server) -> None:
    """On a path of its own and on one that it shares with a native route."""
    texts = ["one", "two", "three"]
    for path, small in {
        "/classify": {"input": texts},
        "/v1/embeddings": {"input": [[5] * 40, [6] * 40]},
        "/score": {"text_1": "one", "text_2": texts},
    }.items():
        large = {**small, "unknown": [FILLER[:1000]] * 300, "other": FILLER}
        answers = [starter.http.post(path, json=body).json()["data"] for body in (small, large)]

        assert answers[0] == answers[1]


def test_who_compares_or_chooses_among_many_sends_a_large_body(starter: Server) -> None:
    """The responses of one group at the top level, or of groups."""
    responses = ["good", "better"]
    for path, field in {"/compare": "comparisons", "/best-of-n": "groups"}.items():
        group = {"prompt": "a", "responses": responses}
        small = starter.http.post(path, json=group).json()["data"]
        large = starter.http.post(path, json={field: [{**group, "id": FILLER}] * 2}).json()["data"]

        assert large == [{**small[0], "index": index, "id": FILLER} for index in range(2)]


@pytest.mark.parametrize("path", ["/score", "/classify", "/get_reward"])
def test_a_large_body_that_is_no_json_is_refused(starter: Server, path: str) -> None:
    """In the shape of the path; where in the list it breaks doesn't matter."""
    for items in (f'"{FILLER}" "b"', f'"{FILLER}",', f'"{FILLER}", "b\\ud800"', f'"{FILLER}'):
        answer = starter.http.post(path, content=f'{{"inputs": [{items}], "input": 1}}'.encode())

        assert answer.status_code == 400
        assert "not valid JSON" in answer.text
        assert FILLER[:100] not in answer.text


def test_a_wrong_field_of_a_large_body_is_named(starter: Server) -> None:
    """By its path, as in a small one."""
    items = [{"text": "a", "id": FILLER}, {"text": "a", "promt": "b"}]

    error = starter.score(inputs=items).json()["error"]

    assert (error["code"], error["param"]) == ("invalid_field", "inputs[1].promt")
    wrong = starter.score(inputs=[{"input_ids": [5] * 20 + [-1]}, {"text": "a", "id": FILLER}])
    assert wrong.json()["error"]["code"] == "invalid_field"


def test_a_request_has_so_many_items(starter: Server) -> None:
    """413, told before any of them is looked at; the client sends them in several requests."""
    for path, body in {
        "/score": {"inputs": [{"text": "a"}] * (MOST_ITEMS + 1)},
        "/get_reward": {"query": ["a"] * (MOST_ITEMS + 1), "prompts": []},
        "/best-of-n": {"groups": [{"prompt": "a", "responses": ["b"] * MOST_ITEMS}] * 2},
    }.items():
        answer = starter.http.post(path, json=body)

        assert answer.status_code == 413, answer.text[:200]


def test_so_many_responses_are_compared(starter: Server) -> None:
    """Each with each is answered: a limit of its own."""
    answer = starter.http.post(
        "/compare", json={"prompt": "a", "responses": ["b"] * (MOST_COMPARED + 1)}
    )

    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "responses"


def test_what_is_no_json_at_all_may_be_smaller(starter: Server) -> None:
    """MessagePack can't be read as it comes."""
    answer = starter.http.post("/get_reward", content=b"\x81" * (MOST_OPAQUE_BYTES + 1))

    assert answer.status_code == 413


def test_what_is_late_is_not_tokenized_any_more(starter: Server) -> None:
    """Of a request that takes long to tokenize, only the beginning was when the deadline came."""
    items = [{"prompt": f"{place} " + "word " * 400, "response": "word"} for place in range(2_000)]

    answer = starter.score(inputs=items, deadline_ms=1, on_error="item")

    entries = answer.json()["data"]
    assert {entry["error"]["code"] for entry in entries[1_000:]} == {"deadline_exceeded"}
    assert {entry["n_tokens"] for entry in entries[1_000:]} == {0}
