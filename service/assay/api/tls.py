"""The certificate: tried before the server binds, read again on SIGHUP."""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

from assay import toml_file
from assay.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from assay.settings import Settings

logger = logging.getLogger("assay.server")


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
            toml_file.content(file)  # so that a pipe isn't waited for
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


def expires(pair: tuple[Path, Path] | None) -> float:
    """Return when a server's own certificate ends, in seconds since 1970; 0 without one."""
    if pair is None:
        return 0.0
    from cryptography import x509  # noqa: PLC0415  only where there is TLS

    certificate, _ = pair
    try:
        leaf, *_ = x509.load_pem_x509_certificates(certificate.read_bytes())
        return leaf.not_valid_after_utc.timestamp()
    except (OSError, ValueError) as error:  # OpenSSL takes more than this reads
        logger.warning("it isn't known when the certificate %s ends: %s", certificate, error)
        return 0.0


def load(context: ssl.SSLContext, pair: tuple[Path, Path]) -> None:
    """Let new connections see this certificate; a password is never asked for."""
    context.load_cert_chain(*pair, password="")
