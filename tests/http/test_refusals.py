"""What a caller can get wrong: the status, the stable code, the field, and a service unharmed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.conftest import MAX_BODY_BYTES
from tests.http.texts import FORMS, PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.http.processes import Server

SECRET = "zzz-secret"  # stands for a prompt: no answer may repeat it
SAID = {"prompt": SECRET, "response": SECRET}
LONGEST_MESSAGE = 300
MISSING = "'prompt' with 'response'"


@dataclass(frozen=True)
class Case:
    """A bad request and what answers it."""

    name: str
    body: Any
    says: str
    param: str | None = None
    status: int = 422
    code: str = "invalid_field"
    route: str = "/score"

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


def malformed(name: str, body: str | bytes, says: str = "not valid JSON") -> Case:
    return Case(name, body, says, status=400, code="malformed_body")


def deep(levels: int) -> str:
    return '{"inputs": ' * levels + "1" + "}" * levels


def item(**fields: Any) -> dict[str, Any]:
    return {"inputs": [PAIR, fields]}


def turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": role, "content": SECRET} for role in roles]


CASES = [
    malformed("no body", b""),
    malformed("half a body", '{"prompt": "zzz-secret", "resp'),
    malformed("something behind the body", '{"prompt": "zzz-secret", "response": "b"} more'),
    malformed("single quotes", "{'prompt': 'zzz-secret'}"),
    malformed("bytes that aren't UTF-8", b'{"prompt": "zzz-secret \xff", "response": "b"}'),
    malformed(
        "a lone high surrogate",
        '{"prompt": "zzz-secret \\ud83d", "response": "b"}',
        "half of a character, cut in two",
    ),
    malformed(
        "a lone low surrogate",
        '{"prompt": "zzz-secret \\udc00", "response": "b"}',
        "half of a character, cut in two",
    ),
    malformed("100,000 open brackets", "[" * 100_000),
    malformed("5,000 nested objects", deep(5_000)),
    malformed("a number of 5,000 digits", '{"inputs": {"input_ids": [' + "9" * 5_000 + "]}}"),
    Case("a list as the body", [SAID], "the body: Input should be an object"),
    Case("a string as the body", SECRET.join('""'), "the body: Input should be an object"),
    Case("null as the body", "null", "the body: Input should be an object"),
    Case("100 nested objects", deep(100), "unknown field", "inputs[0].inputs"),
    Case("neither form", {}, MISSING),
    Case("both forms", {**SAID, "inputs": [SAID]}, MISSING),
    Case("a prompt alone", {"prompt": SECRET}, "'response' is missing"),
    Case("a response alone", {"response": SECRET}, "'prompt' is missing"),
    Case("inputs that are text", {"inputs": SECRET}, "an item, or a list of items", "inputs"),
    Case("inputs that are a number", {"inputs": 5}, "an item, or a list of items", "inputs"),
    Case("an item that is text", {"inputs": [PAIR, SECRET]}, "an object", "inputs[1]"),
    Case("an item of no form", item(id="x"), "exactly one of", "inputs[1]"),
    Case("an item of two forms", item(**SAID, text=SECRET), "exactly one of", "inputs[1]"),
    Case("half an item", item(prompt=SECRET), "'response' is missing", "inputs[1]"),
    Case("the other half", item(response=SECRET), "'prompt' is missing", "inputs[1]"),
    Case("a number as prompt", {**SAID, "prompt": 5}, "send a string, or a list", "prompt"),
    Case("an object as prompt", {**SAID, "prompt": {}}, "send a string, or a list", "prompt"),
    Case("NaN as prompt", '{"prompt": NaN, "response": "b"}', "send a string", "prompt"),
    Case("no messages as prompt", {**SAID, "prompt": []}, "at least 1", "prompt"),
    Case("a list as response", {**SAID, "response": [SECRET]}, "the answer's text", "response"),
    Case("a number as text", item(text=1), "valid string", "inputs[1].text"),
    Case("a number as id", item(**SAID, id=7), "valid string", "inputs[1].id"),
    Case("no messages", item(messages=[]), "must end with the assistant", "inputs[1]"),
    Case(
        "messages that end with the user",
        item(messages=turns("assistant", "user")),
        "must end with the assistant",
        "inputs[1]",
    ),
    Case(
        "a message without content",
        item(messages=[{"role": "assistant"}]),
        "required",
        "inputs[1].messages[0].content",
    ),
    Case(
        "a message of several parts",
        item(messages=[{"role": "assistant", "content": [{"text": SECRET}, {"type": "image"}]}]),
        "text only",
        "inputs[1].messages[0].content[1]",
    ),
    Case(
        "a message without a role",
        item(messages=[{"role": "", "content": SECRET}, *turns("assistant")]),
        "at least 1 character",
        "inputs[1].messages[0].role",
    ),
    Case(
        "a role the template refuses",
        item(messages=turns("wizard", "assistant")),
        "chat template refuses",
        "inputs[1]",
        code="template_refused",
    ),
    Case("empty text", item(text=""), "no tokens", "inputs[1]", code="empty_item"),
    Case("no ids", item(input_ids=[]), "at least one id", "inputs[1]", code="empty_item"),
    Case("an id too large", item(input_ids=[1, 999_999]), "vocabulary", "inputs[1].input_ids"),
    Case("an id far too large", item(input_ids=[10**4000]), "less than", "inputs[1].input_ids[0]"),
    Case("a negative id", item(input_ids=[1, -1]), "greater than", "inputs[1].input_ids[1]"),
    Case("a boolean id", item(input_ids=[True]), "integer", "inputs[1].input_ids[0]"),
    Case("a textual id", item(input_ids=["5"]), "integer", "inputs[1].input_ids[0]"),
    Case("a fractional id", item(input_ids=[1.5]), "integer", "inputs[1].input_ids[0]"),
    Case(
        "NaN as id",
        '{"inputs": [{"input_ids": [NaN]}]}',
        "Input should be",
        "inputs[0].input_ids[0]",
    ),
    Case(
        "too many ids",
        item(input_ids=[1] * 5_000),
        "never cut",
        "inputs[1]",
        code="item_too_long",
    ),
    Case(
        "a response of a million letters",
        {"prompt": SECRET, "response": "x" * 1_000_000},
        "shorten it",
        "inputs[0]",
        code="item_too_long",
    ),
    Case(
        "a response of a million characters in words",
        item(prompt="a", response="zzz-secret" * 100_000),
        "shorten it",
        "inputs[1]",
        code="item_too_long",
    ),
    Case("an unknown field", {**SAID, "temprature": 1}, "unknown field", "temprature"),
    Case("an item's unknown field", item(**SAID, txt=""), "unknown field", "inputs[1].txt"),
    Case(
        "a conversation outside inputs",
        {"messages": turns("user", "assistant")},
        'send "inputs": [{"messages": [...]}]',
        "messages",
    ),
    Case("ids outside inputs", {"token_ids": [5]}, '"inputs": [{"input_ids": [...]}]', "token_ids"),
    Case("items", {"items": [SAID]}, "did you mean 'inputs'?", "items"),
    Case("a word of others", item(question=SECRET), "mean 'prompt'?", "inputs[1].question"),
    Case(
        "turns beside responses",
        {"messages": [{"role": "user", "content": SECRET}], "responses": [SECRET]},
        "send the turns before the responses as 'prompt'",
        "messages",
        route="/best-of-n",
    ),
    Case(
        "completions to pick from",
        {"prompt": SECRET, "completions": [SECRET]},
        "mean 'responses'?",
        "completions",
        route="/best-of-n",
    ),
    Case("a misspelt field", {**SAID, "modle": "x"}, "did you mean 'model'?", "modle"),
    Case("an item's misspelt field", item(**SAID, txt=""), "mean 'text'?", "inputs[1].txt"),
    Case(
        "a message's misspelt field",
        item(messages=[{"role": "assistant", "contents": SECRET}]),
        "mean 'content'?",
        "inputs[1].messages[0].contents",
    ),
    Case("a wrong activation", {**SAID, "activation": SECRET}, "'none' or 'sigmoid'", "activation"),
    Case(
        "a wrong include",
        {**SAID, "include": ["x"]},
        "'members', 'attributes', 'steps' or 'tokens'",
        "include[0]",
    ),
    Case("a wrong on_error", {**SAID, "on_error": "x"}, "'fail' or 'item'", "on_error"),
    Case("a wrong priority", {**SAID, "priority": 1}, "'interactive' or 'batch'", "priority"),
    Case(
        "a wrong truncation",
        {**SAID, "truncation": True},
        "'prompt_start', 'response_end' or 'longest_first'",
        "truncation",
    ),
    Case("a vague normalize", {**SAID, "normalize": 7}, "boolean", "normalize"),
    Case("a deadline of nothing", {**SAID, "deadline_ms": 0}, "greater than 0", "deadline_ms"),
    Case("a deadline in the past", {**SAID, "deadline_ms": -5}, "greater than 0", "deadline_ms"),
    Case("a deadline too far", {**SAID, "deadline_ms": 10**30}, "86400000", "deadline_ms"),
    Case(
        "a deadline of infinity",
        '{"prompt": "a", "response": "b", "deadline_ms": Infinity}',
        "finite",
        "deadline_ms",
    ),
    Case(
        "an unknown model",
        {**SAID, "model": "nope"},
        "there are 'starter'",
        "model",
        status=404,
        code="unknown_model",
    ),
    Case("a number as model", {**SAID, "model": 5}, "valid string", "model"),
    Case(
        "one response to compare",
        {"prompt": SECRET, "responses": [SECRET]},
        "at least 2",
        "responses",
        route="/compare",
    ),
    Case(
        "chosen and rejected as conversations",
        {"prompt": SECRET, "chosen": turns("user", "assistant"), "rejected": turns("assistant")},
        "the answer's text; the turns before it are the 'prompt'",
        "chosen",
        route="/compare",
    ),
    Case(
        "chosen without rejected",
        {"prompt": SECRET, "chosen": SECRET},
        "'chosen' with 'rejected'",
        route="/compare",
    ),
    Case(
        "two forms of a comparison",
        {"comparisons": [{"prompt": SECRET, "responses": ["a", "b"], "chosen": "a"}]},
        "'chosen' with 'rejected'",
        "comparisons[0]",
        route="/compare",
    ),
    Case(
        "a comparison without its prompt",
        {"comparisons": [{"responses": [SECRET, SECRET]}]},
        "required",
        "comparisons[0].prompt",
        route="/compare",
    ),
    Case("nothing to compare", {}, "'comparisons', or 'prompt'", route="/compare"),
    Case(
        "a temperature of nothing",
        {"prompt": SECRET, "responses": ["a", "b"], "temperature": 0},
        "greater than 0",
        "temperature",
        route="/compare",
    ),
    Case(
        "NaN as tie_margin",
        '{"prompt": "a", "responses": ["a", "b"], "tie_margin": NaN}',
        "finite",
        "tie_margin",
        route="/compare",
    ),
    Case(
        "no responses to pick from",
        {"prompt": SECRET, "responses": []},
        "at least 1",
        "responses",
        route="/best-of-n",
    ),
    Case(
        "a wrong rule",
        {"prompt": SECRET, "responses": [SECRET], "rule": "best"},
        "'variance_penalty' or 'vote'",
        "rule",
        route="/best-of-n",
    ),
    Case(
        "a negative penalty",
        {"prompt": SECRET, "responses": [SECRET], "penalty": -1},
        "greater than or equal to 0",
        "penalty",
        route="/best-of-n",
    ),
    Case(
        "the best none",
        {"prompt": SECRET, "responses": [SECRET], "top_k": 0},
        "greater than or equal to 1",
        "top_k",
        route="/best-of-n",
    ),
    Case(
        "a response over the limit",
        {"groups": [{"prompt": SECRET, "responses": ["a", "zzz-secret " * 3_000]}]},
        "shorten it",
        "groups[0].responses[1]",
        code="item_too_long",
        route="/best-of-n",
    ),
    Case("nothing to tokenize", {}, "required", "inputs", route="/tokenize"),
    Case(
        "tokenizing for an unknown model",
        {"inputs": [PAIR], "model": "nope"},
        "there are 'starter'",
        "model",
        status=404,
        code="unknown_model",
        route="/tokenize",
    ),
]


def check(answer: httpx.Response, status: int, code: str, says: str, param: str | None) -> None:
    """Assert the native shape of an error, what it says, and what it keeps to itself."""
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code)
    assert set(body) == {"error", "request_id"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["error"]["retryable"] is False
    assert body["error"].get("param") == param
    assert says in body["error"]["message"]
    assert " " in body["error"]["message"]
    assert len(body["error"]["message"]) <= LONGEST_MESSAGE
    assert "zzz" not in answer.text


@pytest.fixture(scope="module")
def sound(starter: Server) -> list[dict[str, Any]]:
    """What a good request is answered before anything bad was sent."""
    return starter.score(inputs=FORMS).json()["data"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_request_is_refused_and_harms_nothing(
    starter: Server, sound: list[dict[str, Any]], case: Case
) -> None:
    """The answer names the field and what would be right; the next request gets the same bits."""
    answer = starter.http.post(case.route, content=case.content)

    check(answer, case.status, case.code, case.says, case.param)
    assert starter.score(inputs=FORMS).json()["data"] == sound


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        ("GET", "/nope", 404, "unknown_route", "/docs"),
        ("POST", "/v2/score", 404, "unknown_route", "/docs"),
        ("GET", "/%00", 404, "unknown_route", "/docs"),
        ("GET", "/score", 405, "method_not_allowed", "doesn't take GET"),
        ("GET", "/v1/compare", 405, "method_not_allowed", "doesn't take GET"),
        ("DELETE", "/models", 405, "method_not_allowed", "doesn't take DELETE"),
    ],
)
def test_an_unknown_route_or_method_is_refused_in_the_same_shape(
    http: httpx.Client, method: str, path: str, status: int, code: str, says: str
) -> None:
    """The router's own errors are native errors, and a 405 states the methods there are."""
    answer = http.request(method, path)

    check(answer, status, code, says, None)
    if status == 405:
        expected = "GET" if path == "/models" else "POST"
        assert answer.headers["allow"] == expected


def test_an_unknown_model_lists_those_served(http: httpx.Client) -> None:
    """The 404 of `/models/{name}` is the one of `model` in a body."""
    answer = http.get("/models/starter/member-9")

    check(answer, 404, "unknown_model", "'starter/member-3'", "model")


def test_a_long_name_is_cut_where_an_error_repeats_it(http: httpx.Client) -> None:
    """Of models, fields, attributes and paths."""
    name = "x" * 5_000
    answers = [
        http.post("/score", json={"inputs": SAID, "model": name}),
        http.post("/score", json={"inputs": SAID, name: 1}),
        http.post("/score", json={"inputs": SAID, "attributes": {name: 1.0}}),
        http.post("/classify", json={"input": "text", "model": name}),
        http.get(f"/{name}"),
    ]

    assert [answer.status_code for answer in answers] == [404, 422, 422, 404, 404]
    assert all("xxx" in answer.text for answer in answers)
    assert max(len(answer.text) for answer in answers) < 1_000


def test_bad_items_fail_alone_where_that_is_asked(
    starter: Server, sound: list[dict[str, Any]]
) -> None:
    """`on_error: "item"`: the good keep bits and places, each bad one has a code and message."""
    bad = {
        "template_refused": {"messages": turns("wizard", "assistant")},
        "empty_item": {"input_ids": []},
        "invalid_field": {"input_ids": [999_999], "id": "bad id"},
        "item_too_long": {"prompt": SECRET, "response": SECRET * 2_000},
    }
    mixed = [item for pair in zip(bad.values(), FORMS, strict=True) for item in pair]

    answer = starter.score(inputs=mixed, on_error="item")

    data = answer.json()["data"]
    assert answer.status_code == 200
    assert [entry["index"] for entry in data] == list(range(8))
    assert [entry["score"] for entry in data[1::2]] == [entry["score"] for entry in sound]
    assert [entry["error"]["code"] for entry in data[::2]] == list(bad)
    assert [entry["score"] for entry in data[::2]] == [None] * 4
    assert all(" " in entry["error"]["message"] for entry in data[::2])
    assert not any("error" in entry for entry in data[1::2])
    assert "zzz" not in answer.text


def test_the_first_bad_item_is_named_where_one_fails_all(starter: Server) -> None:
    """`on_error: "fail"`, the default: the path of the first bad item, also far into a list."""
    items = [*[PAIR] * 300, {"input_ids": []}, {"text": ""}]
    for options in ({}, {"on_error": "fail"}):
        answer = starter.score(inputs=items, **options)

        check(answer, 422, "empty_item", "at least one id", "inputs[300]")


def test_a_body_over_the_limit_is_refused_by_its_stated_length(narrow: Server) -> None:
    """Content-Length over `max_body_bytes` is a 413; a body of just that size is read."""
    limit = f"{MAX_BODY_BYTES} bytes"

    answer = narrow.http.post("/score", content=b" " * (MAX_BODY_BYTES + 1))
    whole = narrow.http.post("/score", content=b" " * MAX_BODY_BYTES)

    check(answer, 413, "body_too_large", limit, None)
    check(whole, 400, "malformed_body", "not valid JSON", None)


def test_a_body_over_the_limit_is_refused_while_it_streams(narrow: Server) -> None:
    """A chunked body states no length: it is refused once it has grown too long."""
    good = narrow.score(**PAIR).json()["data"]

    def chunks(count: int) -> Iterator[bytes]:
        yield json.dumps(PAIR).encode()
        yield from [b" " * 1024] * count

    answer = narrow.http.post("/score", content=chunks(64))
    whole = narrow.http.post("/score", content=chunks(63))

    check(answer, 413, "body_too_large", "fewer items", None)
    assert whole.json()["data"] == good
