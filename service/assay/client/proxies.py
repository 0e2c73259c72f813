"""The proxy that the environment names for a server; none for one on this machine.

As everywhere: `HTTP_PROXY`, `HTTPS_PROXY` and `ALL_PROXY` in either case, `NO_PROXY` with hosts,
domains and networks. An error that a proxy has a part in names it, and the variable it is from.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import socket
import urllib.request
from dataclasses import dataclass

import httpx

from assay import errors

logger = logging.getLogger("assay.client")
_SCHEMES = frozenset({"http", "https", "socks5", "socks5h"})
_SHORT_ADDRESS = re.compile(r"[0-9a-fx.]+")  # 127.1, 0x7f.1: what only the C library reads
_HOST = re.compile(r"[\w.*:/-]+|\[[0-9a-fA-F:.]+\](:[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, the variable it is from, and the host that it is asked for."""

    url: httpx.URL
    variable: str
    host: str

    def __str__(self) -> str:
        """Name it, without the password that its address may have."""
        where = self.url.copy_with(username=None, password=None, raw_path=b"/")
        return (
            f"it was asked through the proxy {str(where).rstrip('/')} of {self.variable}; add "
            f"{self.host} to NO_PROXY if it needs none"
        )

    def transport(
        self, limits: httpx.Limits, options: list[tuple[int, int, int]]
    ) -> httpx.AsyncHTTPTransport:
        """Return what sends through it.

        Raises:
            InvalidField: It needs a package that isn't here.
        """
        is_socks = self.url.scheme.startswith("socks")
        try:
            return httpx.AsyncHTTPTransport(
                limits=limits, proxy=self.url, socket_options=None if is_socks else options
            )
        except ImportError as error:
            raise errors.InvalidField(
                f"{self.variable} names a SOCKS proxy, which needs another package: pip install "
                f"'httpx[socks]'; or unset it, or add {self.host} to NO_PROXY",
                param="urls",
            ) from error


def of(url: str) -> Proxy | None:
    """Return the proxy for a server, if there is to be one.

    Raises:
        InvalidField: The variable doesn't hold a proxy's address.
    """
    server = httpx.URL(url)
    if is_here(server.host):
        return None
    proxies = urllib.request.getproxies()
    scheme = next((name for name in (server.scheme, "all") if proxies.get(name)), None)
    if scheme is None or _is_spared(server, proxies.get("no", "")):
        return None
    return Proxy(_address(proxies[scheme], _variable(scheme)), _variable(scheme), server.host)


def is_here(host: str) -> bool:
    """Whether a host is this machine, however it is spelt."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _ip(name)
    if address is None:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        packed = socket.inet_aton(host) if _SHORT_ADDRESS.fullmatch(host) else None
    except OSError:
        return None
    return ipaddress.IPv4Address(packed) if packed else None


def _variable(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def _address(value: str, variable: str) -> httpx.URL:
    try:
        url = httpx.URL(value if "://" in value else f"http://{value}")
        port_is_right = url.port is None or 0 < url.port <= 65535
    except (httpx.InvalidURL, ValueError):
        url, port_is_right = httpx.URL(""), False
    if not (port_is_right and url.host and url.scheme in _SCHEMES):
        raise errors.InvalidField(
            f"the variable {variable} is not the address of a proxy; write http://HOST:PORT, or "
            "unset it",
            param="urls",
        )
    return url


def _is_spared(server: httpx.URL, listed: str) -> bool:
    """Whether NO_PROXY has a server: its host, a domain above it, a network, or `*`."""
    host = server.host.rstrip(".").lower()
    for entry in filter(None, re.split(r"[,\s]+", listed.lower())):
        if not _HOST.fullmatch(entry):
            logger.warning("NO_PROXY has %r, which is no host; write it without brackets", entry)
        elif _fits(entry, host, server.port or (443 if server.scheme == "https" else 80)):
            return True
    return False


def _fits(entry: str, host: str, port: int) -> bool:
    entry = entry.partition("://")[2] or entry
    if entry == "*":
        return True
    address = _ip(host)
    if address is not None:
        try:
            if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            pass
    name, _, entry_port = entry.rpartition(":")
    if entry_port.isdecimal() and (name.startswith("[") or (name and ":" not in name)):
        return int(entry_port) == port and _fits(name, host, port)
    bare = entry.strip("[]").removeprefix("*").strip(".")
    return bool(bare) and (host == bare or host.endswith(f".{bare}"))
