"""Certificates: what is refused before a server binds."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import trustme

from assay.api import tls
from assay.errors import SettingsError
from assay.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, Path]:
    """A certificate and its key."""
    return issued(tmp_path, "one")


def issued(folder: Path, name: str) -> dict[str, Path]:
    """Write a certificate and its key, by the names of the settings."""
    made = trustme.CA().issue_cert("127.0.0.1")
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    key.write_bytes(made.private_key_pem.bytes())
    return {"tls_certificate": certificate, "tls_key": key}


def refusal(**files: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        tls.files(Settings(**files))
    return caught.value.message


def test_without_files_there_is_no_tls() -> None:
    """Plain HTTP, as a server on loopback is."""
    assert tls.files(Settings()) is None


def test_a_certificate_and_its_key_are_taken(pair: dict[str, Path]) -> None:
    """Both, in that order."""
    assert tls.files(Settings(**pair)) == (pair["tls_certificate"], pair["tls_key"])


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key"])
def test_one_without_the_other_is_refused(pair: dict[str, Path], missing: str) -> None:
    """A server that was to have TLS doesn't start without."""
    del pair[missing]

    assert refusal(**pair) == f"TLS needs a certificate and its key; set {missing}, too"


@pytest.mark.parametrize("missing", ["tls_certificate", "tls_key"])
def test_a_file_that_is_not_there_is_named(pair: dict[str, Path], missing: str) -> None:
    """The very file."""
    pair[missing].unlink()

    assert (
        refusal(**pair) == f"the TLS file {pair[missing]} can't be read: No such file or directory"
    )


@pytest.mark.parametrize("replaced", ["tls_certificate", "tls_key"])
def test_a_pipe_is_not_waited_for(pair: dict[str, Path], replaced: str) -> None:
    """Nobody may ever write into it: the start, or a SIGHUP, would hang."""
    pair[replaced].unlink()
    os.mkfifo(pair[replaced])

    assert (
        refusal(**pair) == f"the TLS file {pair[replaced]} can't be read: it isn't a regular file"
    )


def test_the_key_of_another_certificate_is_refused(tmp_path: Path, pair: dict[str, Path]) -> None:
    """Both files are named."""
    pair["tls_key"] = issued(tmp_path, "other")["tls_key"]

    said = refusal(**pair)

    assert f"{pair['tls_certificate']} and {pair['tls_key']} are not a certificate and its" in said
    assert "MISMATCH" in said


@pytest.mark.parametrize("damaged", ["tls_certificate", "tls_key"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN NOTHING-----\n", b"\x00\xff" * 500])
def test_what_is_not_pem_is_refused(pair: dict[str, Path], damaged: str, content: bytes) -> None:
    """Whatever it is instead."""
    pair[damaged].write_bytes(content)

    assert "in PEM" in refusal(**pair)


def test_a_key_with_a_password_is_refused(tmp_path: Path, pair: dict[str, Path]) -> None:
    """And nobody is asked for it: a server has no terminal."""
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", pair["tls_key"], "-aes256", "-passout", "pass:x"]
    locked.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)

    assert "the key without a password" in refusal(**{**pair, "tls_key": locked})
