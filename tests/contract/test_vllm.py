"""vLLM's routes: its shapes, and the native numbers to the last bit."""

from __future__ import annotations

import base64
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest

from assay import __version__
from assay.api.contracts import vllm
from assay.errors import DeadlineExceeded, ForwardFailed, ItemTooLong, Overloaded
from assay.reward.transform import sigmoid
from tests.contract.conftest import entries, exchanges, replay, scores
from tests.contract.served import overloaded
from tests.families.process import HENS, LAID
from tests.http.texts import CONVERSATION, PAIR, PROMPT, RESPONSE, RESPONSES

if TYPE_CHECKING:
    from assay.errors import AssayError
    from tests.http.processes import Server

TEXTS = ["<|im_start|>user\nHello<|im_end|>\n", "Basil dies.", "🌞 — ünïcode"]
IDS = [[5, 17, 300, 42, 7], [42, 7]]
TURNS = CONVERSATION["messages"]
PAIRED = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
NAMES = ["use_activation", "activation", "softmax", "normalize"]
MODELS = ["tiny", "both"]
CHAIN = {"prompt": HENS, "steps": LAID}
MARKED = [
    {"role": "user", "content": HENS},
    {"role": "assistant", "content": "".join(f"{step}<extra_0>" for step in LAID)},
]
UNKNOWN = {
    "user": "me",
    "truncate_prompt_tokens": -1,
    "padding": False,
    "priority": 0,
    "request_id": "mine",
    "cache_salt": "salt",
    "add_special_tokens": True,
    "mm_processor_kwargs": None,
    "invented": {"deep": [1]},
}


def post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def classified(server: Server, **body: Any) -> list[float]:
    return [entry["probs"][-1] for entry in post(server, "/classify", **body)["data"]]


def pooled(server: Server, **body: Any) -> list[Any]:
    return [entry["data"] for entry in post(server, "/pooling", **body)["data"]]


def paired(server: Server, path: str = "/score", **body: Any) -> list[float]:
    return [entry["score"] for entry in post(server, path, **body)["data"]]


@pytest.mark.parametrize("name", exchanges("vllm"))
def test_answers_have_the_golden_fields(contracts: Server, name: str) -> None:
    """Fields, order, types, and status."""
    replay(contracts, name)


@pytest.mark.parametrize("model", MODELS)
def test_texts_and_ids_have_the_native_scores(contracts: Server, model: str) -> None:
    """One text, many, one sequence of ids, many: on `/classify` and `/pooling`."""
    texts = scores(contracts, *({"text": text} for text in TEXTS), model=model)
    ids = scores(contracts, *({"input_ids": one} for one in IDS), model=model)

    for given, expected in [
        (TEXTS[0], texts[:1]),
        (TEXTS, texts),
        (IDS[0], ids[:1]),
        (IDS, ids),
        ([TEXTS[1], IDS[1]], [texts[1], ids[1]]),
    ]:
        assert classified(contracts, model=model, input=given) == expected
        assert pooled(contracts, model=model, input=given) == [[one] for one in expected]


@pytest.mark.parametrize("model", MODELS)
def test_conversations_have_the_native_scores(contracts: Server, model: str) -> None:
    """A turn may come in parts."""
    expected = scores(contracts, CONVERSATION, PAIR, model=model)
    parts = [{"role": one["role"], "content": [text(one["content"])]} for one in PAIRED]

    for messages, score in [(TURNS, expected[0]), (PAIRED, expected[1]), (parts, expected[1])]:
        assert classified(contracts, model=model, messages=messages) == [score]
        assert pooled(contracts, model=model, messages=messages) == [[score]]


def text(content: str) -> dict[str, str]:
    return {"type": "text", "text": content}


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", ["queries documents", "queries items", "text_1 text_2"])
def test_pairs_have_the_native_scores(contracts: Server, path: str, names: str) -> None:
    """1:1, 1:N and N:N, under each pair of names."""
    one, other = names.split()
    prompts = [PROMPT, "Why?", "How long?", "Is it?"]
    against_one = scores(contracts, *({"prompt": PROMPT, "response": r} for r in RESPONSES))
    pairs = zip(prompts, RESPONSES, strict=True)
    each = scores(contracts, *({"prompt": p, "response": r} for p, r in pairs))

    assert paired(contracts, path, **{one: PROMPT, other: RESPONSES[0]}) == against_one[:1]
    assert paired(contracts, path, **{one: PROMPT, other: RESPONSES}) == against_one
    assert paired(contracts, path, **{one: [PROMPT], other: RESPONSES}) == against_one
    assert paired(contracts, path, **{one: prompts, other: RESPONSES}) == each


def test_data_1_and_data_2_are_a_pair(contracts: Server) -> None:
    """The newest names."""
    expected = scores(contracts, PAIR)

    assert paired(contracts, data_1=PROMPT, data_2=[RESPONSE]) == expected


def test_the_native_routes_keep_their_paths(contracts: Server) -> None:
    """A native body that quotes a foreign key is native."""
    odd = {"prompt": '"queries": 1, "messages":', "response": RESPONSE}
    native = contracts.http.post("/v1/score", json={"inputs": [odd]}).json()
    seen = contracts.http.post("/tokenize", json={"inputs": [{"messages": PAIRED}]}).json()

    assert native["object"] == "score.list"
    assert seen["object"] == "tokenize.list"


@pytest.mark.parametrize("name", NAMES)
def test_activation_has_had_four_names(contracts: Server, name: str) -> None:
    """True squashes; false and nothing leave the native number."""
    (raw,) = scores(contracts, PAIR)

    for value, expected in [(True, sigmoid(raw)), (False, raw), (None, raw)]:
        asked = {name: value}
        assert classified(contracts, messages=PAIRED, **asked) == [expected]
        assert pooled(contracts, messages=PAIRED, **asked) == [[expected]]
        assert paired(contracts, queries=PROMPT, documents=RESPONSE, **asked) == [expected]


def test_invocations_take_every_body(contracts: Server) -> None:
    """Told by its fields; as in vLLM, a model of steps pools and any other classifies."""
    for path, body in [
        ("/classify", {"input": TEXTS}),
        ("/classify", {"messages": PAIRED, "use_activation": True}),
        ("/score", {"queries": PROMPT, "documents": RESPONSES}),
        ("/rerank", {"query": PROMPT, "documents": RESPONSES}),
        ("/pooling", {"messages": MARKED, "model": "math"}),
    ]:
        field = "results" if path == "/rerank" else "data"

        found = post(contracts, "/invocations", **body)

        assert found[field] == post(contracts, path, **body)[field]


def test_an_ensembles_mean_is_squashed_as_the_native_activation_does(contracts: Server) -> None:
    """σ of the mean, not the mean of σ."""
    native = contracts.score(inputs=[PAIR], model="both", activation="sigmoid").json()["data"]

    found = classified(contracts, model="both", messages=PAIRED, use_activation=True)

    assert found == [native[0]["score"]]


def test_each_step_has_two_probabilities(contracts: Server) -> None:
    """Text and messages with the markers, messages that the card splits, and ids."""
    (entry,) = entries(contracts, CHAIN, model="math")
    body = {"inputs": CHAIN, "model": "math"}
    (seen,) = contracts.http.post("/tokenize", json=body).json()["data"]
    split = [MARKED[0], {"role": "assistant", "content": "\n\n".join(LAID)}]
    expected = [[1.0 - one, one] for one in entry["steps"]]

    for given in (
        {"messages": MARKED},
        {"messages": split},
        {"messages": MARKED, "use_activation": True},
        {"input": seen["text"]},
        {"input": [seen["input_ids"]]},
    ):
        assert pooled(contracts, model="math", **given) == [expected]
    assert classified(contracts, model="math", messages=MARKED) == [entry["score"]]


def test_steps_without_activation_are_the_heads_numbers(contracts: Server) -> None:
    """Their softmax is what is answered otherwise."""
    (raw,) = pooled(contracts, model="math", messages=MARKED, use_activation=False)
    (probabilities,) = pooled(contracts, model="math", messages=MARKED)

    assert len(raw) == len(LAID)
    for row, pair in zip(raw, probabilities, strict=True):
        total = sum(map(math.exp, row))
        assert [math.exp(one) / total for one in row] == pytest.approx(pair, abs=1e-9)


def test_what_stands_behind_the_last_marker_changes_nothing(contracts: Server) -> None:
    """A step that isn't closed has no score."""
    open_ended = [MARKED[0], {**MARKED[1], "content": f"{MARKED[1]['content']} And so"}]

    assert pooled(contracts, model="math", messages=open_ended) == (
        pooled(contracts, model="math", messages=MARKED)
    )


def test_markers_of_numbered_steps_are_known(contracts: Server) -> None:
    """Math-Shepherd's spelling of a solution; the good label's probability is last."""
    (entry,) = entries(contracts, CHAIN, model="ki")
    spelt = "\n".join(f"Step {number}: {step} ки" for number, step in enumerate(LAID, 1))
    messages = [MARKED[0], {"role": "assistant", "content": spelt}]

    (found,) = pooled(contracts, model="ki", messages=messages)
    (raw,) = pooled(contracts, model="ki", messages=messages, use_activation=False)

    assert found == [[1.0 - one, one] for one in entry["steps"]]
    assert [row[1] > row[0] for row in raw] == [pair[1] > pair[0] for pair in found]


def test_steps_of_one_number_have_one(contracts: Server) -> None:
    """Skywork's: the last number is the step's score, as it is of two."""
    (entry,) = entries(contracts, CHAIN, model="sky")
    messages = [MARKED[0], {"role": "assistant", "content": "\n".join(LAID)}]

    (found,) = pooled(contracts, model="sky", messages=messages)
    (raw,) = pooled(contracts, model="sky", messages=messages, use_activation=False)

    assert found == [[one] for one in entry["steps"]]
    assert [[sigmoid(one)] for (one,) in raw] == found


@pytest.mark.parametrize(("endianness", "order"), [("little", "<"), ("big", ">"), ("native", "=")])
def test_base64_has_floats_of_32_bits(contracts: Server, endianness: str, order: str) -> None:
    """In the order asked for; steps one behind the other."""
    asked = {"encoding_format": "base64", "endianness": endianness}
    (one,) = pooled(contracts, messages=PAIRED, **asked)
    (steps,) = pooled(contracts, model="math", messages=MARKED, **asked)
    (plain,) = pooled(contracts, model="math", messages=MARKED)

    assert struct.unpack(f"{order}f", base64.b64decode(one)) == (
        pytest.approx(scores(contracts, PAIR), rel=1e-6)
    )
    flat = [number for step in plain for number in step]
    unpacked = struct.unpack(f"{order}{len(flat)}f", base64.b64decode(steps))
    assert unpacked == pytest.approx(flat, rel=1e-6)


def test_tokenize_shows_what_is_scored(contracts: Server) -> None:
    """Of a prompt and of messages; the ids score as the item does."""
    for given, item in [({"prompt": TEXTS[0]}, {"text": TEXTS[0]}), ({"messages": PAIRED}, PAIR)]:
        (seen,) = contracts.http.post("/tokenize", json={"inputs": item}).json()["data"]

        found = post(contracts, "/tokenize", **given, return_token_strs=True, **UNKNOWN)

        assert found["tokens"] == seen["input_ids"]
        assert found["token_strs"] == seen["tokens"]
        assert found["count"] == seen["n_tokens"]
        assert classified(contracts, input=found["tokens"]) == scores(contracts, item)


def test_text_gets_one_bos_whether_it_has_one_or_not(contracts: Server) -> None:
    """Clients strip it or leave it; with `add_special_tokens: false` nothing is added."""
    text = f"{HENS} Step 1: {LAID[0]} ки"
    (entry,) = entries(contracts, {"text": text}, model="ki")
    expected = [[1.0 - one, one] for one in entry["steps"]]

    for given in (text, f"<s>{text}", f"<s><s>{text}"):
        for option in ({}, {"add_special_tokens": True}):
            (found,) = pooled(contracts, model="ki", input=given, **option)
            assert found == expected
    (found,) = pooled(contracts, model="ki", input=f"<s>{text}", add_special_tokens=False)
    assert found == expected
    (found,) = pooled(contracts, model="ki", input=text, add_special_tokens=False)
    assert found != expected


def test_ids_and_usage_are_real(contracts: Server) -> None:
    """The caller's request id is in the answer's; tokens are the items'."""
    tokens = sum(one["n_tokens"] for one in entries(contracts, *({"text": t} for t in TEXTS)))
    for path, prefix in [("/classify", "classify"), ("/pooling", "pool")]:
        answer = contracts.http.post(
            path, json={"input": TEXTS, "model": "both"}, headers={"X-Request-Id": "r-1"}
        ).json()

        assert (answer["id"], answer["model"]) == (f"{prefix}-r-1", "both")
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] == tokens


def test_unknown_fields_are_taken(contracts: Server) -> None:
    """And change nothing."""
    assert classified(contracts, input=TEXTS, **UNKNOWN) == classified(contracts, input=TEXTS)
    assert pooled(contracts, messages=PAIRED, **UNKNOWN) == pooled(contracts, messages=PAIRED)
    assert paired(contracts, queries=PROMPT, documents=RESPONSE, **UNKNOWN) == (
        scores(contracts, PAIR)
    )


@pytest.mark.parametrize(
    "path", ["/classify", "/pooling", "/score", "/rerank", "/v1/chat/completions"]
)
def test_a_salt_sets_prefixes_apart(contracts: Server, path: str) -> None:
    """What is kept of a request with one is gone on from with the same one only."""
    item = {"prompt": f"What is {path} when it is served again and again?", "response": RESPONSE}
    chat = [
        {"role": role, "content": item[part]}
        for role, part in [("user", "prompt"), ("assistant", "response")]
    ]
    body = {
        "/score": {"queries": item["prompt"], "documents": RESPONSE},
        "/rerank": {"query": item["prompt"], "documents": [RESPONSE]},
    }.get(path, {"messages": chat})

    def shared(**option: str) -> int:
        usage = post(contracts, "/score", inputs=item, **option)["usage"]
        return int(usage["shared_tokens"])

    first = post(contracts, path, **body, cache_salt=path)

    assert first["usage"]["prompt_tokens"] > 16
    assert (shared(cache_salt="another"), shared()) == (0, 0)
    assert shared(cache_salt=path) >= 16


def test_the_models_own_limit_may_be_named(contracts: Server) -> None:
    """As -1, as it is, or as more; a text that is longer keeps its end."""
    text = "many words " * 400
    expected = scores(contracts, {"text": text})

    for limit in (-1, None, 512, 100_000):
        asked = {"truncate_prompt_tokens": limit, "truncation_side": "left"}
        assert classified(contracts, input=text, **asked) == expected


def test_tokenize_takes_the_native_item_at_the_top_level(contracts: Server) -> None:
    """As `/score` does; a response is never dropped, and the text is that behind the ids."""
    long = {"prompt": "Why? " * 600, "response": "Because."}
    for item in (PAIR, long, {"prompt": [{"role": "user", "content": "Hi"}], "response": "Ho"}):
        short = post(contracts, "/tokenize", **item)

        assert short == post(contracts, "/tokenize", inputs=[item])
        (seen,) = short["data"]
        text = post(contracts, "/tokenize", inputs={"text": seen["text"]})["data"][0]
        assert text["input_ids"] == seen["input_ids"]
        assert seen["text"].count(item["response"]) == 1
    bare = contracts.http.post("/tokenize", json={"response": "Ho"})
    assert bare.status_code == 422


def test_floats_have_no_type(contracts: Server) -> None:
    """`embed_dtype` is of base64 alone, as in vLLM."""
    assert pooled(contracts, input=TEXTS, embed_dtype="float16") == pooled(contracts, input=TEXTS)


def test_empty_lists_are_answered_with_empty_lists(contracts: Server) -> None:
    """Nothing to score is no error."""
    for path, body in [
        ("/classify", {"input": []}),
        ("/pooling", {"input": []}),
        ("/score", {"queries": PROMPT, "documents": []}),
        ("/score", {"text_1": [], "text_2": []}),
    ]:
        answer = post(contracts, path, **body)

        assert (answer["data"], answer["usage"]["prompt_tokens"]) == ([], 0)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"input": "Yes."}),
        ("/classify", {"input": []}),
        ("/pooling", {"messages": PAIRED}),
        ("/score", {"queries": "a", "documents": "b"}),
        ("/v1/score", {"text_1": "a", "text_2": "b"}),
        ("/tokenize", {"prompt": "a"}),
    ],
)
def test_an_unknown_model_is_not_found(contracts: Server, path: str, body: dict[str, Any]) -> None:
    """In vLLM's shape, on every route."""
    answer = contracts.http.post(path, json={**body, "model": "nobody"})

    error = answer.json()["error"]
    assert answer.status_code == error["code"] == 404
    assert (error["type"], error["param"]) == ("NotFoundError", "model")
    assert "'nobody'" in error["message"]


LONG = [5] * 600
CUT = ("the model's own limit of 512 tokens", "truncate_prompt_tokens")
REFUSALS: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "nothing": ("/classify", {}, "'input' or 'messages'", "input"),
    "a number": ("/classify", {"input": 7}, "token ids", "input"),
    "a bad item": ("/classify", {"input": ["Yes.", None]}, "token ids", "input[1]"),
    "an id below zero": ("/pooling", {"input": [[5], [-1]]}, "from 0", "input[1]"),
    "an id that is true": ("/pooling", {"input": [[5], [True]]}, "token ids", "input[1]"),
    "an id of no token": ("/pooling", {"input": [[5], [2**30]]}, "vocabulary", "input[1]"),
    "an empty item": ("/classify", {"input": ["Yes.", ""]}, "no tokens", "input[1]"),
    "a long item": ("/classify", {"input": [[5], LONG]}, "tokens", "input[1]"),
    "a user turn last": ("/pooling", {"messages": PAIRED[:1]}, "assistant", "messages"),
    "no turns": ("/pooling", {"messages": []}, "assistant", "messages"),
    "a template": ("/pooling", {"messages": PAIRED, "chat_template": "x"}, "own", "chat_template"),
    "embeddings": ("/pooling", {"input": "Yes.", "task": "embed"}, "token_classify", "task"),
    "float16": (
        "/pooling",
        {"input": "Yes.", "encoding_format": "base64", "embed_dtype": "float16"},
        "'float32'",
        "embed_dtype",
    ),
    "fewer tokens": ("/classify", {"input": "Yes.", "truncate_prompt_tokens": 100}, *CUT),
    "no tokens": ("/pooling", {"messages": PAIRED, "truncate_prompt_tokens": 0}, *CUT),
    "a shorter pair": (
        "/score",
        {"queries": "a", "documents": "b", "truncate_prompt_tokens": 8},
        *CUT,
    ),
    "fewer than none": (
        "/classify",
        {"input": "Yes.", "truncate_prompt_tokens": -2},
        "greater than or equal to -1",
        "truncate_prompt_tokens",
    ),
    "cut from the right": (
        "/classify",
        {"input": "Yes.", "truncate_prompt_tokens": -1, "truncation_side": "right"},
        "'left'",
        "truncation_side",
    ),
    "bytes": ("/pooling", {"input": "Yes.", "encoding_format": "bytes"}, "base64", None),
    "no salt": ("/classify", {"input": "Yes.", "cache_salt": ""}, "at least 1", "cache_salt"),
    "half a pair": ("/score", {"queries": "a"}, "'documents'", "queries"),
    "two with three": (
        "/score",
        {"queries": ["a", "b"], "documents": ["c", "d", "e"]},
        "2 'queries' don't go with 3 'documents'",
        "queries",
    ),
    "a bad document": (
        "/score",
        {"queries": "a", "documents": ["b", 7]},
        "send a text",
        "documents[1]",
    ),
    "a number of documents": ("/score", {"queries": "a", "documents": 7}, "a list", "documents"),
    "text without markers": ("/pooling", {"input": "x", "model": "math"}, "marker", "input"),
    "one that compares": ("/classify", {"input": "x", "model": "gpm"}, "/compare", "model"),
    "messages to one that compares": (
        "/score",
        {"queries": "x", "documents": "y", "model": "gpm"},
        "/compare",
        "model",
    ),
    "tokens of nothing": ("/tokenize", {"messages": None}, "'prompt' or 'messages'", "prompt"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_request_is_a_400(contracts: Server, name: str) -> None:
    """The message says what to send, `param` where; one bad item fails the request."""
    path, body, says, param = REFUSALS[name]

    answer = contracts.http.post(path, json=body)

    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert (answer.status_code, error["code"], error["type"]) == (400, 400, "BadRequestError")
    assert says in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize("content", [b"{", b"[]", b""])
def test_a_body_that_is_no_object_is_a_400(contracts: Server, content: bytes) -> None:
    """In the shape of the path's own contract."""
    answer = contracts.http.post("/classify", content=content)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (400, 400, "BadRequestError")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (Overloaded("x"), 503, "ServiceUnavailableError"),
        (DeadlineExceeded("x"), 504, "GatewayTimeoutError"),
        (ForwardFailed("x"), 500, "InternalServerError"),
        (ItemTooLong("x"), 400, "BadRequestError"),
    ],
)
def test_each_status_has_its_type(error: AssayError, status: int, kind: str) -> None:
    """As vLLM names them: the status' own phrase."""
    expected = {"message": "x", "type": kind, "param": None, "code": status}
    for contract in vllm.CONTRACTS:
        assert contract.problem(error, "r-1") == (status, {"error": expected})


def test_version_and_ping_answer(contracts: Server) -> None:
    """`/ping` by both methods, without a body."""
    assert contracts.http.get("/version").json() == {"version": __version__}
    for answer in (contracts.http.get("/ping"), contracts.http.post("/ping")):
        assert (answer.status_code, answer.content) == (200, b"")


def test_load_counts_the_requests_that_are_being_answered(served: Server) -> None:
    """vLLM's own word for it."""
    idle = served.http.get("/load").json()
    with overloaded(served):
        busy = served.http.get("/load").json()

    assert (idle, busy) == ({"server_load": 0}, {"server_load": 1})


def test_routes_are_counted_by_their_names(contracts: Server) -> None:
    """Each contract has its own label."""
    for path, route, body in [
        ("/classify", "vllm.classify", {"input": "a"}),
        ("/pooling", "vllm.pooling", {"input": "a"}),
        ("/score", "vllm.score", {"queries": "a", "documents": "b"}),
        ("/tokenize", "vllm.tokenize", {"prompt": "a"}),
    ]:
        labels = {"model": "tiny", "route": route, "outcome": "ok"}
        before = contracts.metric("assay_requests_total", **labels)
        post(contracts, path, **body)
        assert contracts.metric("assay_requests_total", **labels) == before + 1


def test_a_reward_of_internlm2s_kind_is_a_row_as_xtuner_reads_it(contracts: Server) -> None:
    """A replay of its client of POLAR: `data[-1][0]` of each, the reward token written or not."""
    texts = ["<s>a question\nan answer", "<s>a question\nanother"]
    inputs = [{"text": text} for text in texts]
    written = [f"{text}[UNUSED_TOKEN_130]" for text in texts]
    expected = [one["score"] for one in entries(contracts, *inputs, model="intern")]

    for sent in (texts, written):
        answer = post(contracts, "/pooling", input=sent, model="intern")
        assert [one["data"][-1][0] for one in answer["data"]] == expected
