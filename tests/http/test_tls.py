"""TLS: a server with a certificate, and the clients that ask it."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

import assay
from tests.http import processes
from tests.http.processes import WAIT_S, serving, until
from tests.http.texts import PAIR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

LOAD_S = 4 * WAIT_S
EXPIRES = "assay_certificate_expires_timestamp_seconds"
ENDS = datetime(2037, 5, 6, 7, 8, 9, tzinfo=UTC)


class Files(NamedTuple):
    """An authority, and where a server's certificate and its key are."""

    authority: trustme.CA
    root: Path
    certificate: Path
    key: Path

    def issue(self, ends: datetime) -> None:
        """Write a new certificate."""
        made = self.authority.issue_cert("127.0.0.1", not_after=ends)
        self.root.write_bytes(self.authority.cert_pem.bytes())
        self.certificate.write_bytes(b"".join(one.bytes() for one in made.cert_chain_pems))
        self.key.write_bytes(made.private_key_pem.bytes())

    def trust(self) -> ssl.SSLContext:
        """Return a context that trusts the authority alone."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A certificate of an authority of our own."""
    folder = tmp_path_factory.mktemp("tls")
    made = Files(
        trustme.CA(), *(folder / name for name in ("root.pem", "server.crt", "server.key"))
    )
    made.issue(ENDS)
    return made


@pytest.fixture(scope="module")
def server(files: Files, tiny: Path) -> Iterator[Server]:
    """A server with that certificate."""
    with serving(
        files.root.parent / "run",
        tiny,
        verify=files.trust(),
        tls_certificate=files.certificate,
        tls_key=files.key,
    ) as server:
        yield server


def shown(server: Server, files: Files) -> bytes:
    """Return the certificate that a new connection sees."""
    address = urlsplit(server.url)
    with (
        socket.create_connection((address.hostname, address.port), WAIT_S) as plain,
        files.trust().wrap_socket(plain, server_hostname=address.hostname) as secure,
    ):
        return secure.getpeercert(binary_form=True) or b""


def test_it_answers_by_https_to_who_trusts_it(
    server: Server, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """httpx and the client, which takes the authority from SSL_CERT_FILE; not a stranger."""
    expected = server.score(**PAIR).json()["data"][0]["score"]
    monkeypatch.setenv("SSL_CERT_FILE", str(files.root))
    with assay.Client(server.url) as client:
        score = client.score((PAIR["prompt"], PAIR["response"])).score
    monkeypatch.delenv("SSL_CERT_FILE")

    assert server.url.startswith("https://")
    assert score == expected
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(server.url + "/health")


def test_plain_http_is_not_answered(server: Server) -> None:
    """Nor does a key sent so reach a route."""
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(server.url.replace("https://", "http://") + "/health")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_versions_that_are_broken_are_refused(
    server: Server, files: Files, version: ssl.TLSVersion
) -> None:
    """TLS 1.2 is the oldest."""
    context = files.trust()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = version
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")

    with pytest.raises(httpx.ConnectError, match=r"UNEXPECTED_EOF|ALERT"):
        httpx.get(server.url + "/health", verify=context)


def changes(server: Server, outcome: str) -> float:
    return server.metric("assay_changes_total", source="signal", outcome=outcome)


def test_a_new_certificate_is_taken_on_sighup(server: Server, files: Files) -> None:
    """Without a restart; one that doesn't hold leaves the old one."""
    old = shown(server, files)
    kept = files.key.read_bytes()
    renewed = ENDS + timedelta(days=90)
    assert server.metric(EXPIRES) == ENDS.timestamp()
    files.issue(renewed)
    written = files.key.read_bytes()
    files.key.write_bytes(kept)
    os.kill(server.process.pid, signal.SIGHUP)
    until("it is told", lambda: "are not a certificate and its key" in server.log.read_text())
    assert shown(server, files) == old
    assert server.metric(EXPIRES) == ENDS.timestamp()
    assert changes(server, "refused") == 1

    files.key.write_bytes(written)
    os.kill(server.process.pid, signal.SIGHUP)

    until("the new one is shown", lambda: shown(server, files) != old, LOAD_S)
    until("that is counted", lambda: changes(server, "ok") == 1)
    assert server.metric(EXPIRES) == renewed.timestamp()
    assert server.score(**PAIR).status_code == 200


def test_files_that_do_not_hold_end_the_process_with_3(
    files: Files, tiny: Path, tmp_path: Path
) -> None:
    """Before anything is bound: never plain HTTP where TLS was asked for."""
    done = processes.run(
        *("serve", "--port", "0", tiny), cwd=tmp_path, tls_certificate=files.certificate
    )

    assert done.returncode == 3
    assert "set tls_key, too" in done.stderr
    assert "ready" not in done.stderr
    assert "Traceback" not in done.stderr
