"""What holds for every foreign contract: its numbers, its sizes, its errors."""

from __future__ import annotations

import gzip
import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from assay.api.contracts import CONTRACTS
from tests.contract.cases import CASES, NATIVE, Case, Item, form, place, real_items
from tests.contract.served import overloaded, post, sigmoid
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np

    from tests.http.processes import Server

NO_SCORES = {"vllm.tokenize", "oat.compare"}  # the one shows ids; the other has a test of its own
SHARED = {"/score", "/v1/score", "/compare"}  # with a native route: unreadable bodies are its own
REAL = real_items()
POISON = "‽"  # the only character here that is spelt with the byte 0xBD
ODD = ["🌞", "👩\u200d👩\u200d👧", "a\0b", "\ufeffa", "e\u0301\u202e"]
LONG = "many words " * 600  # more than the tiny model takes
UNKNOWN: dict[str, Any] = {"user": "me", "cache_salt": "x", "invented": {"deep": [1, None]}}


KEYED = {"questions", "criteria"}  # by the caller's own names, where they are objects


def widened(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body in which each object but the whole has fields that nobody knows."""
    return {name: _widened(name, one) for name, one in body.items()}


def _widened(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_widened("", one) for one in value]
    if not isinstance(value, dict):
        return value
    return widened(value) if name in KEYED else {**widened(value), **UNKNOWN}


NESTED = [case for case in CASES if widened(case.body(REAL[:2])) != case.body(REAL[:2])]
LISTS = [case for case in CASES if case.takes != "one"]
BY_NAME = {case.id: case for case in CASES}
LARGE = [  # one of each way from a body to items
    BY_NAME[name]
    for name in (
        "nemo-gym.compare /compare",
        "oat.feedback /get_feedback packed",
        "infinity.classify /classify",
        "llama-factory.score /v1/score/evaluation",
        "openrlhf.get_reward /get_reward",
        "rerank /v2/rerank",
        "sglang.classify /classify conv",
        "sglang.embeddings /v1/embeddings",
        "sglang.score /v1/score",
        "tei.predict /predict",
        "tei.vertex /vertex",
        "vllm.classify /classify",
        "vllm.pooling /pooling",
        "vllm.score /score",
        "kserve.infer /v2/models/tiny/infer",
    )
]
NUMBERS = [Item("Say a number.", str(number)) for number in range(10_000)]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a model of two names, which answers NaN to POISON."""
    root = tmp_path_factory.mktemp("wide")
    tiny = checkpoints.build(root / "tiny")
    vocabulary = json.loads((tiny / "tokenizer.json").read_text())["model"]["vocab"]

    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][vocabulary["½"]] = math.nan  # how 0xBD is spelt

    checkpoints.edit_weights(tiny, poison)
    with serving(root / "run", tiny, aliases='{"judge": "tiny"}') as server:
        yield server


@pytest.fixture(scope="module")
def real(wide: Server) -> list[float]:
    """The native scores of the real items."""
    return natively(wide, REAL)


@pytest.fixture(scope="module")
def numbers(wide: Server) -> list[float]:
    """The native scores of many short items of one prompt."""
    return natively(wide, NUMBERS)


def natively(server: Server, items: Sequence[Item]) -> list[float]:
    answer = post(server, "/score", inputs=[item.native for item in items])
    return [one["score"] for one in answer["data"]]


def few(case: Case) -> list[Item]:
    """Return as few items as a request may have."""
    return REAL[: case.least]


def named(case: Case) -> str:
    return case.id


@pytest.fixture(params=CASES, ids=named)
def case(request: pytest.FixtureRequest) -> Case:
    """Each contract."""
    one: Case = request.param
    return one


@pytest.fixture(params=LISTS, ids=named)
def lists(request: pytest.FixtureRequest) -> Case:
    """Each contract that takes lists."""
    one: Case = request.param
    return one


def test_an_encoded_body_is_answered_as_a_plain_one(wide: Server, case: Case) -> None:
    """In gzip, with a byte-order mark where it is JSON; another coding or charset is a 415."""
    body, mark = case.body(few(case)), b"" if case.is_packed else b"\xef\xbb\xbf"
    raw = msgspec.msgpack.encode(body) if case.is_packed else mark + json.dumps(body).encode()
    sent = {"content-encoding": "gzip"}

    answer = wide.http.post(case.path, content=gzip.compress(raw), headers=sent)
    half = wide.http.post(case.path, content=gzip.compress(raw)[:-9], headers=sent)
    refused = [
        wide.http.post(case.path, content=raw, headers=headers)
        for headers in ({"content-encoding": "zstd"}, {"content-type": "a/b; charset=utf-16"})
    ]

    assert case.read(answer) == case.scores(wide, few(case))
    assert (half.status_code, "ends before its gzip" in half.text) == (400, True)
    assert [one.status_code for one in refused] == [415, 415]
    assert refused[0].headers["accept-encoding"] == "gzip, deflate"


def test_every_contract_is_here() -> None:
    """Whatever has scores has a row at each of its paths."""
    every = {
        (contract.route, path)
        for contract in CONTRACTS
        for path in contract.paths
        if contract.route not in NO_SCORES
    }

    assert {(case.route, case.written) for case in CASES} == every


def test_the_items_are_as_the_template_has_them(wide: Server) -> None:
    """50 items, each scored whole."""
    answer = post(wide, "/tokenize", inputs=[item.native for item in REAL])["data"]

    assert len(REAL) == 50
    assert [one["text"] for one in answer] == [item.text for item in REAL]
    assert not any(one["truncated"] for one in answer)


def test_real_items_have_the_native_scores(wide: Server, real: list[float], case: Case) -> None:
    """To the last bit, or by the documented transform; and again, and again."""
    for _ in range(3):
        assert case.scores(wide, REAL) == case.expected(REAL, real)


@pytest.mark.parametrize("is_packed", [False, True], ids=["json", "packed"])
@pytest.mark.parametrize("path", ["/compare", "/get_feedback"])
def test_real_pairs_have_the_sigmoid_of_their_margin(
    wide: Server, real: list[float], path: str, is_packed: bool
) -> None:
    """OAT's oracle: which of the two responses to a prompt wins."""
    body = {
        "batch_prompt": [item.prompt for item in REAL[::2]],
        "batch_candidates": [
            [one.response, other.response] for one, other in zip(REAL[::2], REAL[1::2], strict=True)
        ],
    }
    expected = [sigmoid(a - b) for a, b in zip(real[::2], real[1::2], strict=True)]
    content = msgspec.msgpack.encode(body) if is_packed else json.dumps(body).encode()

    for _ in range(3):
        answer = wide.http.post(path, content=content)
        decoded = msgspec.msgpack.decode(answer.content) if is_packed else answer.json()
        assert decoded["batch_first_win_prob"] == expected


IDS = [
    ("vllm.classify /classify", lambda ids: {"input": ids}),
    ("vllm.pooling /pooling", lambda ids: {"input": ids}),
    ("vllm.pooling /pooling base64", lambda ids: {"input": ids, "encoding_format": "base64"}),
    ("vllm.invocations /invocations", lambda ids: {"input": ids}),
    ("sglang.classify /classify", lambda ids: {"input_ids": ids}),
    ("sglang.v1-classify /v1/classify", lambda ids: {"input": ids}),
    ("sglang.embeddings /v1/embeddings", lambda ids: {"input": ids}),
    ("sglang.score /v1/score", lambda ids: {"query": [], "items": ids}),
    (
        "sglang.score /v1/score",
        lambda ids: {"query": ids[0][:3], "items": [one[3:] for one in ids]},
    ),
]


@pytest.mark.parametrize(("name", "body"), IDS)
def test_ids_of_real_items_have_the_native_scores(
    wide: Server, real: list[float], name: str, body: Callable[[list[list[int]]], dict[str, Any]]
) -> None:
    """On every route that takes them: those that `/tokenize` shows."""
    case = BY_NAME[name]
    seen = post(wide, "/tokenize", inputs=[item.native for item in REAL])["data"]
    ids = [one["input_ids"] for one in seen]
    assert len({tuple(one[:3]) for one in ids}) == 1  # the opening of a user's turn

    for _ in range(3):
        answer = wide.http.post(case.path, json=body(ids))
        assert case.read(answer) == case.expected(REAL, real)


def test_an_empty_list_is_answered(wide: Server, lists: Case) -> None:
    """With an empty one; TEI alone refuses it, and a question has options."""
    answer = lists.send(wide, [])

    assert answer.status_code == lists.empty, answer.text
    if lists.empty == 200:
        assert lists.read(answer) == []
    else:
        assert form(answer.json()) == (lists.wrong or lists.error)


@pytest.mark.parametrize("count", ["least", 1024])
def test_lists_of_any_length_keep_their_order(
    wide: Server, numbers: list[float], lists: Case, count: int | str
) -> None:
    """Every item has its own score at its place."""
    size = lists.least if isinstance(count, str) else count
    items = NUMBERS[:size]

    assert lists.read(lists.send(wide, items)) == lists.expected(items, numbers[:size])


@pytest.mark.parametrize("large", LARGE, ids=named)
def test_a_list_may_have_10000_items(wide: Server, numbers: list[float], large: Case) -> None:
    """In one request."""
    assert large.read(large.send(wide, NUMBERS)) == large.expected(NUMBERS, numbers)


def test_an_item_that_is_too_long_is_cut_or_named(wide: Server, case: Case) -> None:
    """A templated text is cut from the left, as natively.

    A response is cut where the contract's own server cuts, else refused with its place.
    """
    items = [REAL[0], *([] if case.takes == "one" else REAL[1:2]), Item(REAL[0].prompt, LONG)]

    asked = items[-1:] if case.takes == "one" else items

    answer = case.send(wide, asked)

    if case.is_text or case.cuts:
        sent = [{"text": one.text} if case.is_text else one.native for one in asked]
        native = post(wide, "/score", inputs=sent, truncation="longest_first")["data"]
        assert native[-1]["truncated"]
        assert answer.headers["x-assay-truncated"] == "1"
        assert case.read(answer) == case.expected(asked, [one["score"] for one in native])
    else:
        assert answer.status_code == case.invalid, answer.text
        assert form(answer.json()) == (case.wrong or case.error)
        assert case.path_of(len(items) - 1) in place(answer.json())
        assert "many words" not in answer.text
        assert "truncation" not in answer.text  # a field of the native routes


def test_odd_characters_are_scored_as_natively(wide: Server, case: Case) -> None:
    """Emoji, joined ones, NUL, a byte order mark, and what isn't normalised."""
    items = [Item(REAL[0].prompt, text) for text in ODD]

    assert case.scores(wide, items) == case.expected(items, natively(wide, items))


@pytest.mark.parametrize("lone", ["\\ud800", "\\udc00"])
def test_a_lone_surrogate_is_refused(wide: Server, case: Case, lone: str) -> None:
    """It is half a character; of MessagePack, it isn't UTF-8."""
    items = [*few(case)[1:], Item(REAL[0].prompt, "here: HALF")]
    body = json.dumps(case.body(items))
    content = body.replace("HALF", lone).encode()
    if case.is_packed:
        packed = msgspec.msgpack.encode(case.body(items))
        content = packed.replace(b"HALF", b"\xed\xa0\x80.")

    answer = wide.http.post(case.path, content=content)

    assert answer.status_code == 400, answer.text
    shapes = [error for other in CASES if other.path == case.path for error in other.errors]
    assert form(answer.json()) in (NATIVE if case.path in SHARED else None, *shapes)
    assert "here" not in answer.text


def test_nan_is_an_error(wide: Server, case: Case) -> None:
    """In the contract's shape, never a number; the item is named, and its neighbours are well."""
    good = [] if case.takes == "one" else REAL[:2]
    items = [*good, Item(REAL[0].prompt, f"What{POISON}")]

    answer = case.send(wide, items)

    assert answer.status_code == case.broken, answer.text
    assert form(answer.json()) == case.error
    assert case.path_of(2) in answer.text
    assert "NaN" not in answer.text
    assert case.scores(wide, REAL[:2]) == case.expected(REAL[:2], natively(wide, REAL[:2]))


def test_an_alias_is_a_name_and_any_other_is_not(wide: Server, case: Case) -> None:
    """404 in the contract's shape; a contract whose clients name no model of ours takes any."""
    items = few(case)
    expected = case.expected(items, natively(wide, items))

    unknown = case.send(wide, items, model="nobody")

    assert case.scores(wide, items, model="judge") == expected
    if case.has_model:
        assert (unknown.status_code, form(unknown.json())) == (404, case.error)
        assert "'nobody'" in unknown.text
    else:
        assert case.read(unknown) == expected


def test_no_name_and_an_empty_one_are_the_default(wide: Server, case: Case) -> None:
    """As is null; clients that must name a model send what they have."""
    items = few(case)
    expected = case.expected(items, natively(wide, items))

    for name in ("", None):
        assert case.scores(wide, items, model=name) == expected


def test_unknown_fields_are_taken(wide: Server, case: Case) -> None:
    """And change nothing."""
    items = few(case)

    assert case.scores(wide, items, **UNKNOWN) == case.expected(items, natively(wide, items))


@pytest.mark.parametrize("nested", NESTED, ids=named)
def test_unknown_fields_of_nested_objects_are_taken(wide: Server, nested: Case) -> None:
    """A turn's, a document's, an instance's: each object in a body may have more than it needs."""
    items = few(nested)

    answer = nested.send(wide, items, **widened(nested.body(items)))

    assert nested.read(answer) == nested.expected(items, natively(wide, items))


def test_overload_is_503_with_retry_after(served: Server) -> None:
    """Every contract's, in its own shape."""
    with overloaded(served):
        answers = [(case, case.send(served, few(case))) for case in CASES]

    for case, answer in answers:
        assert answer.status_code == 503, f"{case.id}: {answer.text}"
        assert form(answer.json()) == case.error, case.id
        assert int(answer.headers["retry-after"]) >= 1, case.id


def test_every_answer_names_its_revision(wide: Server, case: Case) -> None:
    """In a header, for the bodies are other servers'."""
    answer = case.send(wide, few(case))

    served = wide.http.get("/models").json()["data"]
    assert answer.headers["x-assay-revision"] in {one["revision"] for one in served}
