"""Headers: those that every answer has, ids that callers give, and what web pages may."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from tests.http import processes
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

SAFE = {
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
ANSWERED = [
    ("GET", "/health", 200),
    ("GET", "/metrics", 200),
    ("GET", "/docs", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/models/nope", 404),
    ("GET", "/nope", 404),
    ("GET", "/score", 405),
    ("POST", "/score", 400),
    ("POST", "/rerank", 400),
    ("POST", "/admin/load", 401),
    ("OPTIONS", "/score", 405),
]
OWN_ID = re.compile(rb"[0-9a-f]{32}")
PAGE = "https://annotate.example"
KEY = "a-key-for-pages"


def exchanged(server: Server, request: bytes) -> bytes:
    """Return the raw answer to a raw request."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), WAIT_S) as connection:
        connection.sendall(request)
        answer = b""
        while block := connection.recv(65_536):
            answer += block
    return answer


@pytest.fixture(scope="module")
def paged(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Server]:
    """A server that a page of another origin may ask."""
    origins = f"{PAGE}, http://localhost:3000"
    run = tmp_path_factory.mktemp("pages") / "run"
    with serving(run, tiny, key=KEY, api_key=KEY, admin_key="x", cors_origins=origins) as server:
        yield server


@pytest.mark.parametrize(("method", "path", "status"), ANSWERED)
def test_every_answer_has_the_safe_headers(
    paged: Server, method: str, path: str, status: int
) -> None:
    """Once each, whatever the answer is; and none says which software it is of."""
    headers = {"Authorization": "Bearer wrong"} if status == 401 else {}
    answer = paged.http.request(method, path, headers=headers)

    assert answer.status_code == status
    assert {name: answer.headers.get_list(name) for name in SAFE} == {
        name: [value] for name, value in SAFE.items()
    }
    assert "server" not in answer.headers
    assert "strict-transport-security" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("OPTIONS", "/score"),
        ("POST", "/score"),
        ("POST", "/v1/compare"),
        ("POST", "/tokenize"),
        ("POST", "/rerank"),
        ("POST", "/v2/models/starter/infer"),
        ("POST", "/admin/load"),
        ("GET", "/metrics"),
        ("GET", "/health/live"),
        ("HEAD", "/health"),
        ("GET", "/models"),
        ("GET", "/docs"),
        ("GET", "/nope"),
    ],
)
def test_no_page_may_ask_unless_that_is_set(starter: Server, method: str, path: str) -> None:
    """Nothing is done for it, whatever it asks, and a browser is told nothing that would let it."""
    headers = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Content-Type": "text/plain",
    }
    refused = {"outcome": "foreign_origin"}
    before = starter.metric("assay_requests_total", **refused)

    answer = starter.http.request(method, path, content=b"{}", headers=headers)

    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert method == "HEAD" or PAGE in answer.text
    assert starter.metric("assay_requests_total", **refused) == before + 1


def test_a_page_that_may_not_ask_is_told_in_the_way_of_the_path(starter: Server) -> None:
    """A code and a sentence, or what the contract's clients read."""
    native = starter.http.post("/score", json=PAIR, headers={"Origin": "null"}).json()
    foreign = starter.http.post("/rerank", json={}, headers={"Origin": "null"}).json()

    assert native["error"]["code"] == "foreign_origin"
    assert "cors_origins" in native["error"]["message"]
    assert "request_id" not in foreign
    assert "cors_origins" in str(foreign)


def test_an_offer_of_another_protocol_by_a_page_is_refused(starter: Server) -> None:
    """As WebSockets are opened: no browser asks before."""
    head = (
        b"GET /models HTTP/1.1\r\nHost: localhost\r\nOrigin: %b\r\nConnection: Upgrade, close\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )

    assert exchanged(starter, head % PAGE.encode()).startswith(b"HTTP/1.1 403 ")


def test_the_pages_of_the_server_itself_may_ask(starter: Server) -> None:
    """`/docs` tries requests out."""
    answer = starter.http.post("/score", json=PAIR, headers={"Origin": starter.url})

    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/score"), ("GET", "/metrics")])
def test_without_a_key_a_server_on_loopback_is_asked_by_its_name(
    starter: Server, method: str, path: str
) -> None:
    """A page whose name is pointed at this machine is of the same origin: only Host tells."""
    port = urlsplit(starter.url).port
    lured = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}

    answer = starter.http.request(method, path, headers=lured)

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_host")
    assert "allowed_hosts" in answer.json()["error"]["message"]
    for known in (f"localhost:{port}", f"127.0.0.1:{port}", "[::1]", "LOCALHOST", "a.localhost."):
        assert starter.http.get("/metrics", headers={"Host": known}).status_code == 200


def test_who_needs_a_key_may_be_asked_by_any_name(paged: Server) -> None:
    """A page has no key."""
    assert paged.http.get("/models", headers={"Host": "judge.example"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/score/", "/health/", "/models/", "/rerank/", "/nope/", "/docs/"]
)
def test_nobody_is_redirected(starter: Server, path: str) -> None:
    """A redirect would lose the body of many a client; a slash at the end changes nothing."""
    for method in ("GET", "POST"):
        plain = starter.http.request(method, path.rstrip("/"), content=b"{}")

        assert starter.http.request(method, path, content=b"{}").status_code == plain.status_code
        assert plain.status_code not in range(300, 400)


@pytest.mark.parametrize("origin", [PAGE, "http://localhost:3000"])
def test_pages_of_the_origins_that_are_set_may_ask(paged: Server, origin: str) -> None:
    """The browser's question before it needs no key, the request itself does."""
    headers = "authorization,content-type,x-request-id,x-stainless-os"
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": headers,
    }

    before = httpx.options(paged.url + "/v1/score", headers=asked)
    answer = paged.http.post("/v1/score", json=PAIR, headers={"Origin": origin})
    keyless = httpx.post(paged.url + "/v1/score", json=PAIR, headers={"Origin": origin})

    assert before.status_code == 200
    assert before.headers["access-control-allow-headers"] == headers
    assert "POST" in before.headers["access-control-allow-methods"]
    assert (answer.status_code, keyless.status_code) == (200, 401)
    for one in (before, answer, keyless):
        assert one.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in one.headers
    assert "X-Request-Id" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{PAGE}.evil.example", PAGE.upper(), "null", f"{PAGE}:8443"]
)
def test_other_pages_may_not(paged: Server, origin: str) -> None:
    """Only the very origin, with its scheme and port."""
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}

    before = httpx.options(paged.url + "/score", headers=asked)
    answer = paged.http.post("/score", json=PAIR, headers={"Origin": origin})

    for one in (before, answer):
        assert (one.status_code, one.json()["error"]["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in one.headers


def test_an_origin_that_no_browser_sends_is_refused(tmp_path: Path) -> None:
    """A path would never fit, and nobody would see why."""
    done = processes.run("serve", "--port", "0", cwd=tmp_path, cors_origins=f"{PAGE}/app")

    assert done.returncode == 3
    assert "'cors_origins" in done.stderr


@pytest.mark.parametrize("given", [b"abc-123", b"!~", b"x" * 128, b"<script>"])
def test_an_id_that_is_printable_is_kept(paged: Server, given: bytes) -> None:
    """In the answer's header, and in the log."""
    answer = paged.http.get("/models", headers=[(b"X-Request-Id", given)])

    assert answer.headers["x-request-id"].encode() == given
    until("it is in the log", lambda: f"id={given.decode()}\n" in paged.log.read_text())


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"a b",
        b"a\tb",
        b"caf\xc3\xa9",
        b"a\x1b[31mb",
        b"a\x7fb",
        b"a\x00b",
        b"x" * 129,
        b"a\rSet-Cookie: b=c",
        b"a\nSet-Cookie: b=c",
        b"a\r\n Set-Cookie: b=c",
        b"a%0d%0aSet-Cookie: b=c",
    ],
)
def test_an_id_that_is_not_is_replaced_or_refused(paged: Server, given: bytes) -> None:
    """It adds no header and no line to the log."""
    answer = exchanged(
        paged,
        b"GET /models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Api-Key: "
        + KEY.encode()
        + b"\r\nX-Request-Id: "
        + given
        + b"\r\n\r\n",
    )

    head = answer.partition(b"\r\n\r\n")[0]
    ids = re.findall(rb"\r\nx-request-id: (.*)", head)
    assert b"Set-Cookie" not in answer
    assert b" 200 " in head or (b" 400 " in head and not ids)
    assert all(OWN_ID.fullmatch(one.strip()) for one in ids)
    for one in ids:
        said = f" id={one.strip().decode()}\n"
        until("it is in the log", lambda said=said: said in paged.log.read_text())
    assert b"Set-Cookie" not in paged.log.read_bytes()
