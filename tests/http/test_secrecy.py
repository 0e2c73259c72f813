"""What callers send stays between them and the model: not in the log, nor in errors or metrics."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.contract.cases import CASES, Item
from tests.http import checkpoints
from tests.http.processes import serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx
    import numpy as np

    from tests.contract.cases import Case
    from tests.http.processes import Server

CANARY = "zqxcanaryqzx"  # stands for a prompt
MAX_BODY_BYTES = 65_536
POISON = "‽"  # the only character here that is spelt with the byte 0xBD
TURNS = [{"role": "user", "content": CANARY}, {"role": "assistant", "content": CANARY}]
# Every field that a contract has for text.
SAID: dict[str, Any] = {
    **dict.fromkeys(["prompt", "response", "text", "text_1", "text_2", "query", "chosen"], CANARY),
    **dict.fromkeys(["rejected", "input", "inputs", "instruction", "question", "state"], CANARY),
    **{key: [CANARY] for key in ("documents", "texts", "responses", "items", "options")},
    **dict.fromkeys(("messages", "conv", "conversations", "conversation_history"), TURNS),
    "data": {"series": [{"text": CANARY}], "input": CANARY},
}
BODIES: dict[str, bytes] = {
    "every field": json.dumps(SAID).encode(),
    **{f"{name} alone": json.dumps({name: value}).encode() for name, value in SAID.items()},
    **{
        f"{name} of a wrong type": json.dumps(
            {**SAID, name: {"a": CANARY, "b": [[TURNS]]}}
        ).encode()
        for name in SAID
    },
    "a string": json.dumps(CANARY).encode(),
    "a list": json.dumps([CANARY, [CANARY], {"prompt": CANARY}]).encode(),
    "no JSON": CANARY.encode(),
    "half a string": f'{{"prompt": "{CANARY}'.encode(),
    "half an escape": f'{{"prompt": "{CANARY}\\u12'.encode(),
    "a lone surrogate": f'{{"prompt": "{CANARY}\\ud800", "response": "{CANARY}"}}'.encode(),
    "more behind it": json.dumps(SAID).encode() + CANARY.encode(),
    "bytes that aren't UTF-8": f'{{"prompt": "{CANARY}\xff"}}'.encode("latin-1"),
    "MessagePack": msgspec.msgpack.encode(SAID),
    "half of MessagePack": msgspec.msgpack.encode(SAID)[:-20],
    "a role of its own": json.dumps(
        {"messages": [{"role": CANARY, "content": CANARY}, *TURNS[1:]]}
    ).encode(),
    "too long for the model": json.dumps(
        {"prompt": "a", "response": f"{CANARY} " * 2_000}
    ).encode(),
    "too large": json.dumps({"prompt": CANARY * 10_000}).encode(),
}


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs all it can, of a model that answers NaN to POISON."""
    root = tmp_path_factory.mktemp("chatty")
    tiny = checkpoints.build(root / "tiny")
    vocabulary = json.loads((tiny / "tokenizer.json").read_text())["model"]["vocab"]

    def poison(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][vocabulary["½"]] = math.nan  # how 0xBD is spelt

    checkpoints.edit_weights(tiny, poison)
    limits = {
        "log_level": "debug",
        "max_body_bytes": MAX_BODY_BYTES,
        "unauthorized_per_minute": math.inf,
    }
    with serving(root / "run", tiny, admin_key="x", **limits) as server:
        yield server


def check(server: Server, answers: list[tuple[str, httpx.Response]], *, some: set[int]) -> None:
    """Assert that no error repeats what was sent, and neither do the log and the metrics."""
    repeated = [name for name, one in answers if one.is_error and CANARY in one.text]
    last = answers[-1][1].headers["x-request-id"]
    until("all is in the log", lambda: f"id={last}" in server.log.read_text())

    assert {one.status_code for _, one in answers} >= some
    assert repeated == []
    assert CANARY not in server.http.get("/metrics").text
    assert CANARY not in server.log.read_text()


def test_no_route_tells_what_it_was_asked(chatty: Server) -> None:
    """Every path that is posted to, every kind of body, readable or not."""
    paths = chatty.http.get("/openapi.json").json()["paths"]
    posted = [path for path, methods in paths.items() if "post" in methods]

    answers = [
        (f"{name} to {path}", chatty.http.post(path, content=body))
        for path in posted
        for name, body in BODIES.items()
    ]

    assert len(posted) > 20
    check(chatty, answers, some={200, 400, 401, 413, 422})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_no_contract_tells_what_it_scored_or_could_not(chatty: Server, case: Case) -> None:
    """In its own form: an answer, a NaN, an item that is too long, a list of them."""
    scored = Item(CANARY, CANARY)
    bad = [Item(CANARY, f"{CANARY} What{POISON}"), Item(CANARY, f"{CANARY} " * 600)]
    more = [Item(CANARY, f"{CANARY} {number}") for number in range(1, case.least)]
    lists = [[*more, scored], [*more, bad[0]], [*more, bad[1]]]
    if case.takes != "one":
        lists.append([scored, *bad])

    answers = [(str(number), case.send(chatty, items)) for number, items in enumerate(lists)]

    check(chatty, answers, some={200, case.broken})


def test_what_is_sent_beside_a_body_is_not_told_either(chatty: Server) -> None:
    """Queries, cookies and headers of others: proxies and trackers put much into them."""
    headers = dict.fromkeys(["Cookie", "User-Agent", "X-Prompt", "Referer", "Traceparent"], CANARY)

    answers = [
        (path, chatty.http.request(method, f"{path}?prompt={CANARY}", headers=headers, json={}))
        for method in ("GET", "POST", "PUT")
        for path in ("/score", "/nope", "/models", "/v1/chat/completions")
    ]

    check(chatty, answers, some={200, 404, 405, 422})
