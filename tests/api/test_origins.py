"""Which pages and names are let through, by how a server is bound and what its settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from assay.api.origins import Origins
from assay.errors import ForeignHost, ForeignOrigin
from assay.settings import load

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK, CONTAINER = "127.0.0.1", "172.17.0.2"


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an assay.toml."""
    monkeypatch.chdir(tmp_path)


def lets_in(
    host: str | None,
    origin: str | None = None,
    /,
    *,
    to: str | None = LOOPBACK,
    is_open: bool = True,
    **settings: Any,
) -> bool:
    """Return whether a request on a connection to an address is let through."""
    given = {b"host": host, b"origin": origin}
    headers = {name: value.encode() for name, value in given.items() if value is not None}
    scope = {"server": None if to is None else (to, 8000)}
    try:
        Origins(load(settings)[0]).check(scope, headers, is_open=is_open)
    except (ForeignHost, ForeignOrigin):
        return False
    return True


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1:1", "127.8.9.1", "[::1]:8000", "0.0.0.0:8000"],
)
def test_names_of_loopback_are_known(host: str) -> None:
    """With and without a port; some clients call their own machine 0.0.0.0."""
    assert lets_in(host)
    assert lets_in(host, to="::1", host="::1")


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "judge"),
        *(
            "10.0.0.5",
            "localhost@evil.example",
            "evil.example:80:80",
            "host.docker.internal",
        ),
    ],
)
def test_other_names_are_foreign_on_loopback(host: str) -> None:
    """Unless a setting names them, a key is needed, or the connection came from elsewhere."""
    assert not lets_in(host)
    assert not lets_in(host, to="::ffff:127.0.0.1")
    assert lets_in(host, allowed_hosts="*")
    assert lets_in(host, is_open=False)
    assert lets_in(host, to=CONTAINER)
    assert lets_in(host, to=None)  # a socket of the file system


def test_names_that_settings_have_are_known() -> None:
    """The address that is bound, and `allowed_hosts`; case and port don't matter."""
    assert lets_in("judge.example:8000", allowed_hosts="other.example, Judge.Example")
    assert lets_in("judge-box", host="judge-box")
    assert lets_in("[fd00::1]:8000", allowed_hosts="[fd00::1]")
    assert not lets_in("judge.example.evil.example", allowed_hosts="judge.example")


def test_a_client_that_names_no_host_is_no_browser() -> None:
    """HTTP/1.0 may."""
    assert lets_in(None)


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        *(("judge", True), ("judge.default.svc:80", True), ("10.0.0.5:8000", True)),
        *(("judge.default.svc.cluster.local", True), ("host.docker.internal", True)),
        *(("evil.example", False), ("judge.default.svc.evil.example", False)),
    ],
)
def test_bound_beyond_loopback_names_of_no_public_host_are_known(host: str, is_known: bool) -> None:
    """A proxy beside the server keeps the name of its Service; no page can have such a name."""
    assert lets_in(host, host="0.0.0.0") is is_known
    assert lets_in(host, host="0.0.0.0", to=CONTAINER)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://localhost", "localhost:80"),
        ("https://judge.example", "judge.example"),
        ("https://judge.example", "judge.example:443"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_pages_of_the_same_origin_may_ask(origin: str, host: str) -> None:
    """Whether TLS ends here or before."""
    assert lets_in(host, origin, is_open=False)


@pytest.mark.parametrize(
    "origin",
    [
        *("http://localhost:3000", "https://evil.example", "null", "", "file://", "localhost:8000"),
        *(
            "http://localhost:8000.evil.example",
            "http://localhost:8000/",
            "http://a@localhost:8000",
        ),
    ],
)
def test_pages_of_other_origins_may_not(origin: str) -> None:
    """With a key or without; `cors_origins` names those that may."""
    assert not lets_in("localhost:8000", origin)
    assert not lets_in("localhost:8000", origin, is_open=False, to=CONTAINER)
    assert lets_in("localhost:8000", origin, cors_origins="*")


def test_pages_that_settings_name_may_ask() -> None:
    """The very origin."""
    settings = {"cors_origins": "https://annotate.example"}
    assert lets_in("localhost", "https://annotate.example", **settings)
    assert not lets_in("localhost", "https://annotate.example:8443", **settings)
