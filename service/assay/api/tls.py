"""The certificate: tried before the server binds, read again on SIGHUP."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from assay.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from assay.settings import Settings


def files(settings: Settings) -> tuple[Path, Path] | None:
    """Return the certificate's file and its key's, None without TLS.

    Raises:
        SettingsError: Only one is set, or they aren't a certificate and its key.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        missing = "tls_key" if key is None else "tls_certificate"
        raise SettingsError(f"TLS needs a certificate and its key; set {missing}, too")
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise SettingsError(f"the TLS file {file} can't be read: {error.strerror}") from error
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), (certificate, key))
    except ssl.SSLError as error:
        raise SettingsError(
            f"{certificate} and {key} are not a certificate and its key in PEM, the key without a "
            f"password: {error.reason or error}"
        ) from error
    return certificate, key


def load(context: ssl.SSLContext, pair: tuple[Path, Path]) -> None:
    """Let new connections see this certificate; a password is never asked for."""
    context.load_cert_chain(*pair, password="")
