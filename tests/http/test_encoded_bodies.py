"""Bodies in content codings and charsets: decoded within the same limits, or a 415."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.http.conftest import KEYS, MAX_BODY_BYTES
from tests.http.texts import PAIR, PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

MARK = b"\xef\xbb\xbf"
BODY = json.dumps(PAIR).encode()
GZIP = {"content-encoding": "gzip"}
ROUTES: dict[str, dict[str, Any]] = {
    "/score": PAIR,
    "/v1/score": PAIR,
    "/compare": {"prompt": PROMPT, "responses": RESPONSES},
    "/best-of-n": {"prompt": PROMPT, "responses": RESPONSES},
    "/tokenize": {"inputs": [PAIR]},
}


def data(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def posted(server: Server, content: bytes, path: str = "/score", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.http.post(path, content=content, headers=named)


@pytest.mark.parametrize("path", ROUTES)
def test_a_native_route_takes_encoded_bodies(narrow: Server, path: str) -> None:
    """In each coding, with or without a byte-order mark, and in two of them."""
    body = json.dumps(ROUTES[path]).encode()
    plain = data(posted(narrow, body, path))

    for content, named in (
        (MARK + body, "identity"),
        (gzip.compress(body), "gzip"),
        (gzip.compress(MARK + body), "x-gzip"),
        (zlib.compress(body), "deflate"),
        (zlib.compress(body, wbits=-15), "deflate"),
        (gzip.compress(zlib.compress(body)), "deflate, gzip"),
    ):
        assert data(posted(narrow, content, path, content_encoding=named)) == plain


def test_a_large_body_may_be_encoded(starter: Server) -> None:
    """One that is parsed in pieces while it is decoded, with a byte-order mark ahead."""
    items = [{**PAIR, "id": f"{place}" + "x" * 2_000} for place in range(400)]
    body = MARK + json.dumps({"inputs": items}).encode()

    entries = data(starter.http.post("/score", content=gzip.compress(body), headers=GZIP))

    assert [one["id"] for one in entries] == [one["id"] for one in items]
    assert {one["score"] for one in entries} == {data(starter.score(**PAIR))[0]["score"]}


def test_what_a_body_decodes_to_is_bounded(narrow: Server) -> None:
    """A bomb is a 413; the limit is that of plain bodies, to the byte."""
    room = MAX_BODY_BYTES - len(BODY)

    fits = posted(narrow, gzip.compress(BODY + b" " * room), content_encoding="gzip")
    over = posted(narrow, gzip.compress(BODY + b" " * (room + 1)), content_encoding="gzip")
    bomb = posted(narrow, gzip.compress(b"[" * 2**25), content_encoding="gzip")

    assert fits.status_code == 200
    for answer in (over, bomb):
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert data(posted(narrow, BODY))


@pytest.mark.parametrize(
    ("content", "headers", "status", "says"),
    [
        (gzip.compress(BODY, mtime=0)[:-9], GZIP, 400, "ends before its gzip does"),
        (BODY, GZIP, 400, "not valid gzip"),
        (gzip.compress(BODY, mtime=0), {}, 415, "'Content-Encoding: gzip'"),
        (BODY, {"content-encoding": "br"}, 415, "'br'"),
        (BODY, {"content-encoding": "zstd"}, 415, "'zstd'"),
        (b"\x28\xb5\x2f\xfd" + BODY, {}, 415, "zstd"),
        (BODY.decode().encode("utf-16"), {}, 415, "send UTF-8"),
        (BODY.decode().encode("utf-16-le"), {}, 415, "send UTF-8"),
        (BODY.decode().encode("utf-16-be"), {}, 415, "send UTF-8"),
        (BODY.decode().encode("utf-32"), {}, 415, "send UTF-8"),
        (BODY, {"content-type": "application/json; charset=utf-16"}, 415, "'utf-16'"),
        (BODY, {"content-type": "application/json; charset=ISO-8859-1"}, 415, "'iso-8859-1'"),
    ],
)
def test_what_is_not_taken_is_said(
    narrow: Server, content: bytes, headers: dict[str, str], status: int, says: str
) -> None:
    """Never that it isn't JSON; and the refusal is counted under its code."""
    code = "unsupported_media" if status == 415 else "malformed_body"
    before = narrow.metric("assay_requests_total", outcome=code)

    answer = narrow.http.post("/score", content=content, headers=headers)

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert says in error["message"]
    assert "JSON:" not in error["message"]
    known = "gzip, deflate" if error.get("param") == "content-encoding" else None
    assert answer.headers.get("accept-encoding") == known
    assert narrow.metric("assay_requests_total", outcome=code) == before + 1


def test_the_key_comes_before_the_coding(narrow: Server) -> None:
    """Who may not ask isn't told what would be taken."""
    answer = httpx.post(f"{narrow.url}/score", content=BODY, headers={"content-encoding": "br"})

    assert answer.status_code == 401
    assert KEYS[0] not in answer.text


def test_who_expects_to_be_asked_for_the_body_is_refused_without_it(narrow: Server) -> None:
    """`Expect: 100-continue` with a coding that isn't taken: the answer comes first."""
    headers = {"expect": "100-continue", "content-encoding": "br"}

    answer = narrow.http.post("/score", content=BODY, headers=headers)
    taken = narrow.http.post("/score", content=BODY, headers={"expect": "100-continue"})

    assert (answer.status_code, taken.status_code) == (415, 200)
