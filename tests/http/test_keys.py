"""Keys: every route but health is closed without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.http.conftest import KEYS
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

OPEN = {"/health", "/health/live", "/health/ready"}
BESIDES = [("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nope"), ("POST", "/v1/score")]
REFUSED = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": "Bearer"},
    {"Authorization": f"Basic {KEYS[0]}"},
    {"Authorization": KEYS[0]},
    {"Authorization": f"Bearer {KEYS[0]}x"},
    {"Authorization": f"Bearer {','.join(KEYS)}"},
    {"Authorization": "Bearer caf\xe9"},
    {"X-Api-Key": "wrong"},
    {"X-Api-Key": ""},
]
ACCEPTED = [
    {"Authorization": f"Bearer {KEYS[0]}"},
    {"authorization": f"bearer  {KEYS[1]}"},
    {"X-Api-Key": KEYS[0]},
    {"x-api-key": KEYS[1]},
]


@pytest.fixture
def anyone(narrow: Server) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=narrow.url) as client:
        yield client


@pytest.fixture
def closed(narrow: Server) -> list[tuple[str, str]]:
    """Every route of the schema but health, and some that aren't in it."""
    paths = narrow.http.get("/openapi.json").json()["paths"]
    routes = [
        (method.upper(), path.replace("{name}", "tiny"))
        for path, methods in paths.items()
        for method in methods
        if path not in OPEN
    ]
    assert ("POST", "/score") in routes
    assert ("GET", "/metrics") in routes
    assert ("POST", "/get_reward") in routes
    return routes + BESIDES


def encoded(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode("latin-1") for name, value in headers.items()}


@pytest.mark.parametrize("headers", REFUSED, ids=str)
def test_without_a_known_key_every_route_but_health_is_closed(
    anyone: httpx.Client, closed: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    """401 and how to send a key, known route or not; the key isn't repeated."""
    for method, path in closed:
        answer = anyone.request(method, path, headers=encoded(headers))

        assert answer.status_code == 401, path
        assert "Authorization: Bearer KEY" in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"
        assert KEYS[0] not in answer.text
    refused = anyone.post("/score", headers=encoded(headers)).json()
    assert refused["error"]["code"] == "unauthorized"
    for path in OPEN:
        assert anyone.get(path, headers=encoded(headers)).status_code == 200


@pytest.mark.parametrize("headers", ACCEPTED, ids=str)
def test_either_key_opens_every_route_in_either_header(
    anyone: httpx.Client, closed: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    """Any of the keys does, as bearer token or as `x-api-key`."""
    for method, path in closed:
        answer = anyone.request(method, path, headers=headers)

        expected = {"POST": 400, "GET": 404 if path == "/nope" else 200}
        assert answer.status_code == expected[method], path
    assert anyone.post("/score", json=PAIR, headers=headers).status_code == 200


def test_keys_are_neither_logged_nor_shown(narrow: Server) -> None:
    """The log of a server that was asked with its keys doesn't hold them."""
    narrow.score(**PAIR)
    narrow.http.get("/models/tiny")

    log = narrow.log.read_text()

    assert "POST /score 200" in log
    assert not [key for key in KEYS if key in log]
