"""Bytes that no honest client sends: each is answered or cut off, and the next caller is served.

What is wrong in a body of JSON: `tests.http.test_refusals`. How late the loop is meanwhile:
`python -m loadtest.attacks`.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import TYPE_CHECKING

import pytest

from assay.wire import MOST_ITEMS
from tests.fuzz import wire
from tests.fuzz.conftest import ADMIN_KEY, KEY, PATIENCE_S
from tests.fuzz.wire import CHUNKED, KEPT, answers, connected, exchange, one, request, rest, score
from tests.http.processes import WAIT_S, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

MANY = 1_000_000
SCRIPT = "/docs/swagger-ui-bundle.js"  # 1.5 MB
HEAD_BYTES = 65_536
EARLY_S, LATE_S = 0.9 * PATIENCE_S, PATIENCE_S + WAIT_S


@pytest.fixture(autouse=True)
def unharmed(attacked: Server) -> Iterator[None]:
    """Whatever is sent, the server is the same after it: its process, its worker, its scores."""
    before = attacked.score(**PAIR).json()["data"]
    worker = attacked.worker.pid
    yield
    assert attacked.process.poll() is None
    assert attacked.worker.pid == worker
    assert attacked.score(**PAIR).json()["data"] == before
    assert attacked.metric("assay_queued_tokens") == 0


# --- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_of_a_key_that_is_given_twice_the_last_counts(attacked: Server, path: str) -> None:
    """As in Python and JavaScript."""
    twice = b'{"prompt": "a", "response": "b", "response": "c"}'

    answer = one(attacked, request(path, twice))

    expected = attacked.score(prompt="a", response="c").json()["data"]
    assert answer.json["data"] == expected
    assert attacked.score(prompt="a", response="b").json()["data"] != expected


def test_of_a_contracts_key_that_is_given_twice_the_last_counts_too(attacked: Server) -> None:
    """Both ways to read a body agree."""
    answer = one(attacked, request("/get_reward", b'{"query": ["a"], "query": ["b"]}'))

    expected = attacked.http.post("/get_reward", json={"query": ["b"]})
    assert answer.json == expected.json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/score", b'{"inputs": [' + b"{}," * (MANY - 1) + b"{}]}", 413),
        ("/score", b'{"inputs": [' + b"{}," * (MOST_ITEMS - 1) + b"{}]}", 422),
        ("/score", b'{"inputs": [{"input_ids": [' + b"5," * (MANY - 1) + b"5]}]}", 422),
        ("/score", b'{"prompt": "a"' + b', "prompt": "b"' * MANY + b"}", 413),
        ("/classify", b'{"input": [' + b'"a",' * (MANY - 1) + b'"a"], "model": "?"}', 413),
        ("/classify", b'{"input": [' + b'"a",' * (MOST_ITEMS - 1) + b'"a"], "model": "?"}', 404),
        ("/rerank", b'{"query": "a", "texts": [' + b"0," * (MANY - 1) + b"0]}", 422),
        ("/get_reward", b"[" * MANY, 400),
        ("/pooling", b'{"input": ' + b"9" * MANY + b"}", 400),
        ("/compare", b'{"prompt": "a", "responses": ["b", "c"], "temperature": 1e999}', 422),
        ("/score", b'{"inputs": {"input_ids": [1e999]}}', 422),
        ("/score", b'{"inputs": {"input_ids": [5]}, "deadline_ms": ' + b"9" * 4_000 + b"}", 422),
    ],
    ids=[
        *("items-without-content", "as-many-as-may-be", "ids", "the-same-key", "texts"),
        *("as-many-texts-as-may-be", "numbers-as-texts"),
        *("open-brackets", "digits", "infinity", "an-infinite-id", "a-deadline-of-4000-digits"),
    ],
)
def test_bodies_of_a_million_are_refused_in_good_order(
    attacked: Server, path: str, body: bytes, status: int
) -> None:
    """Off the loop: another caller is answered meanwhile."""
    with connected(attacked) as connection:
        connection.sendall(request(path, body))
        assert attacked.http.get("/health/live").status_code == 200
        (answer,) = answers(rest(connection))

    assert answer.status == status, answer.body[:500]
    assert len(answer.body) < 1_000


def test_a_compressed_body_is_what_it_unpacks_to(attacked: Server) -> None:
    """Within the limits of plain bodies; what goes beyond them: `tests/api/test_coding.py`."""
    bomb = gzip.compress(json.dumps(PAIR).encode() + b" " * 30_000_000)

    answer = one(attacked, request("/score", bomb, b"Content-Encoding: gzip"))

    assert (answer.status, len(answer.json["data"])) == (200, 1)


# --- framing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        request("/score", b"FFFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n", CHUNKED),
        request("/score", b"-1\r\n{}\r\n0\r\n\r\n", CHUNKED),
        request("/score", b"2x\r\n{}\r\n0\r\n\r\n", CHUNKED),
        request("/score", b"{}", b"Content-Length: -2"),
        request("/score", b"{}", b"Content-Length: 2", b"Content-Length: 3"),
        request("/score", b"{}", b"Content-Length: 2, 3"),
        request("/score", b"{}", b"Content-Length: " + b"9" * 30),
        request("/score", b"2\r\n{}\r\n0\r\n\r\n", CHUNKED, b"Content-Length: 2"),
        request("/score", b"{}", b"X-Nul: a\0b"),
        request("/score", b"{}", b"X\0: a"),
        request("/score", b"{}", b"X : a"),
        request("/sco\0re", b"{}"),
        request("/score\xff", b"{}"),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"\0" * 100,
    ],
    ids=[
        *("chunk-of-2^68", "chunk-of-minus-1", "chunk-of-2x", "length-minus-2", "two-lengths"),
        *("lengths-in-one", "length-of-30-digits", "length-and-chunks", "nul-in-a-value"),
        *("nul-in-a-name", "space-behind-a-name", "nul-in-a-path", "latin-1-path"),
        *("tls", "nuls"),
    ],
)
def test_what_is_no_http_is_refused_and_cut_off(attacked: Server, sent: bytes) -> None:
    """400, at times after the request that the bytes began; never two readings of one message."""
    answer = exchange(attacked, sent)[-1]

    assert answer.status == 400


def test_what_is_behind_a_stated_length_is_not_the_bodys(attacked: Server) -> None:
    """The next request begins there; where it is none, the connection ends, at times at once."""
    body = json.dumps(PAIR).encode()
    sent = request("/score", body + b"!!!!", KEPT, b"Content-Length: %d" % len(body))

    assert [answer.status for answer in exchange(attacked, sent)] in ([400], [200, 400])


def test_requests_sent_at_once_are_answered_in_turn(attacked: Server) -> None:
    """Each with its own answer, in the order in which they were sent."""
    responses = ["one", "two", "three"]
    sent = [score(KEPT, prompt="a", response=text) for text in responses]

    found = exchange(attacked, b"".join([*sent, score(prompt="a", response="last")]))

    expected = [
        attacked.score(prompt="a", response=text).json()["data"] for text in [*responses, "last"]
    ]
    assert [answer.json["data"] for answer in found] == expected


# --- heads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        request("/score", b"{}", b"X: " + b"x" * HEAD_BYTES),
        request("/score", b"{}", *(b"X-%d: %d" % (one, one) for one in range(5_000))),
        request("/score?" + "x" * HEAD_BYTES, b"{}"),
        b"POST /score HTTP/1.1\r\nX: " + b"x" * 4 * HEAD_BYTES,
        b"POST /" + b"x" * 4 * HEAD_BYTES,
        request("/score", b"0\r\n" + b"X: y\r\n" * HEAD_BYTES, CHUNKED),
    ],
    ids=["one", "many", "query", "one-without-end", "path-without-end", "trailers"],
)
def test_a_head_that_is_too_large_is_refused(attacked: Server, sent: bytes) -> None:
    """431 and the end of the connection, however it is too large and whether it ends."""
    assert exchange(attacked, sent)[-1].status == 431


def test_a_large_head_below_the_bound_is_taken(attacked: Server) -> None:
    """Cookies and tracing of proxies fit."""
    answer = one(attacked, score(b"X: " + b"x" * (HEAD_BYTES - 1_000), **PAIR))

    assert answer.status == 200


# --- slow callers -------------------------------------------------------------------------------

SLOW = {
    "length": request("/score", b"{", b"Content-Length: 100"),
    "chunks": request("/score", b"1\r\n{\r\n", CHUNKED),
    "contract": request("/classify", b"{", b"Content-Length: 100"),
    "nothing": request("/score", b"", b"Content-Length: 100"),
}


@pytest.mark.parametrize("way", SLOW)
def test_a_body_that_does_not_come_is_given_up(attacked: Server, way: str) -> None:
    """408 in the path's own shape, and the end of the connection; others are served meanwhile."""
    begin = time.monotonic()
    with connected(attacked) as connection:
        connection.sendall(SLOW[way])
        assert attacked.score(**PAIR).status_code == 200
        (answer,) = answers(rest(connection))

    assert EARLY_S < time.monotonic() - begin < LATE_S
    assert answer.status == 408
    assert answer.headers["connection"] == "close"
    expected = {"error"} if way == "contract" else {"error", "request_id"}
    assert set(answer.json) == expected


@pytest.mark.parametrize(
    "sent",
    [
        request("/score", b"", b"Content-Length: 100"),
        request("/score", b"", b"Content-Length: 99999999999"),
        b"POST /score HTTP/1.1\r\nX: ",
        b"",
    ],
    ids=["body", "body-that-was-refused", "head", "nothing"],
)
def test_a_byte_now_and_then_does_not_keep_a_connection(attacked: Server, sent: bytes) -> None:
    """What counts is the whole, not the last byte."""
    begin = time.monotonic()
    with connected(attacked) as connection:
        connection.sendall(sent)
        connection.settimeout(PATIENCE_S / 10)
        while time.monotonic() - begin < LATE_S:
            try:
                connection.sendall(b"x" if sent else b"\n")
                if not connection.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
        else:
            pytest.fail("the connection was kept")


def test_a_body_that_comes_slowly_but_steadily_is_read(attacked: Server) -> None:
    """A second more for each 16 KiB."""
    body = json.dumps(PAIR).encode()
    padded = body + b" " * (100_000 - len(body))
    with connected(attacked) as connection:
        connection.sendall(request("/score", b"", b"Content-Length: %d" % len(padded)))
        for start in range(0, len(padded), 10_000):
            connection.sendall(padded[start : start + 10_000])
            time.sleep(2 * PATIENCE_S / 10)
        (answer,) = answers(rest(connection))

    assert answer.status == 200


# --- paths --------------------------------------------------------------------------------------

CHANGES = [
    "/admin/unload",
    "//admin/unload",
    "/./admin/unload",
    "/x/../admin/unload",
    "/health/../admin/unload",
    "/admin//unload",
    "/admin/unload/",
    "/admin%2Funload",
    "/%61dmin/unload",
    "/%2561dmin/unload",
    "/%2Fadmin/unload",
    "/ADMIN/unload",
    "/Admin/unload",
    "/admin/unload?x=/health",
    "/admin/unload;/health",
    "/admin/unload#/health",
    "/admin/unload%00",
    "/admin/unload%20",
    "/admin\\unload",
    "/v1/admin/unload",
    "/score/../admin/unload",
    "http://x/admin/unload",
    "/%EF%BC%8Fadmin/unload",
    "/\N{LATIN SMALL LETTER A WITH GRAVE}dmin/unload",
]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("key", [None, "wrong", KEY])
def test_no_spelling_of_a_path_opens_it_to_another_key(
    attacked: Server, path: str, key: str | None
) -> None:
    """Nothing is changed, or said of what could be: the route isn't reached."""
    body = json.dumps({"model": "no such model"}).encode()

    found = exchange(attacked, request(path, body, key=key))

    allowed = {400, 403, 404, 405} if key == KEY else {400, 401}
    assert {answer.status for answer in found} <= allowed
    assert b"no such model" not in b"".join(answer.body for answer in found)


def test_the_right_key_reaches_that_route(attacked: Server) -> None:
    """So that the test above can fail."""
    body = json.dumps({"model": "no such model"}).encode()

    for path in ("/admin/unload", "/%61dmin/unload", "/admin%2Funload"):
        answer = one(attacked, request(path, body, key=ADMIN_KEY))
        assert answer.status == 404
        assert b"no such model" in answer.body


@pytest.mark.parametrize(
    "path",
    ["/health/../score", "/health/../metrics", "/health%2F..%2Fmodels", "//health", "/HEALTH"],
)
def test_what_only_looks_like_an_open_route_is_closed(attacked: Server, path: str) -> None:
    """Health answers without a key; nothing else does."""
    assert one(attacked, request(path, method="GET", key=None)).status == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/%73core", 200),
        ("http://elsewhere/score", 200),
        ("/score?x=%00", 422),  # options are fields of the body
        ("//score", 404),
        ("/v1//score", 404),
        ("/./score", 404),
        ("/v1/../score", 404),
        ("/score%00", 404),
        ("/score%20", 404),
        ("/SCORE", 404),
    ],
)
def test_a_path_is_what_it_decodes_to_and_nothing_else(
    attacked: Server, path: str, status: int
) -> None:
    """No other spelling is resolved: no dots, no empty parts, no cases."""
    answer = one(attacked, request(path, json.dumps(PAIR).encode()))

    assert answer.status == status
    if status == 404:
        assert answer.json["error"]["code"] == "unknown_route"


def test_a_key_that_is_sent_twice_is_the_last_one(attacked: Server) -> None:
    """One reading for all: none of the others is tried."""
    twice = [f"Authorization: Bearer {key}".encode() for key in (ADMIN_KEY, "wrong")]
    body = json.dumps({"model": "no such model"}).encode()

    assert one(attacked, request("/admin/unload", body, *twice, key=None)).status == 401
    assert one(attacked, request("/admin/unload", body, *twice[::-1], key=None)).status == 404


def test_the_waits_of_these_tests_are_bounds() -> None:
    """A connection that isn't closed fails its test before the test's own limit."""
    assert wire.WAIT_S < 60


def test_a_caller_who_reads_nothing_is_cut_off(attacked: Server) -> None:
    """Answers that nobody takes are held for so long, and for no longer; others are answered."""
    before = attacked.metric("assay_held_refusals_total", reason="slow_reader")
    with connected(attacked) as connection:
        connection.sendall(request(SCRIPT, b"", KEPT, method="GET") * 20)  # more than sockets keep
        until("some of it is held", lambda: attacked.metric("assay_held_bytes") > 0)

        until(
            "it is cut off",
            lambda: attacked.metric("assay_held_refusals_total", reason="slow_reader") > before,
        )
        until("nothing is held", lambda: attacked.metric("assay_held_bytes") == 0)
        assert len(rest(connection)) < 20 * len(attacked.http.get(SCRIPT).content)


@pytest.mark.parametrize(
    "path",
    [
        *("/score", "/v1/compare", "/best-of-n", "/tokenize", "/admin/load"),
        *("/classify", "/rerank", "/get_reward", "/v2/models/tiny/infer", "/v1/chat/completions"),
    ],
)
def test_what_came_of_a_body_is_held_until_its_caller_leaves(attacked: Server, path: str) -> None:
    """On every route; a body of small things counts for what they become."""
    came = b'{"inputs": [' + b'{"a":1},' * 40_000
    lines = (KEPT, b"Content-Length: 10000000")
    with connected(attacked) as connection:
        connection.sendall(request(path, b"", *lines, key=ADMIN_KEY) + came)

        until("it is held", lambda: attacked.metric("assay_held_bytes") > 30 * len(came))

    until("nothing is held", lambda: attacked.metric("assay_held_bytes") == 0)
