"""Which web pages may ask, and by which names: what a browser is lured into asking.

A page of any origin can send text or a form to whatever its visitor's machine reaches; `Origin`
tells. A page whose own name is pointed at that machine (DNS rebinding) is of the same origin as the
server that it asks; then only `Host` tells. That matters where no key is needed and the connection
came over loopback. What comes from elsewhere reached the port by itself, under whatever name a
container or a Service has.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING

from assay.errors import ForeignHost, ForeignOrigin, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Scope

    from assay.settings import Settings

ANY = "*"
_EVERY = ("0.0.0.0", "::")  # noqa: S104  what some call their own machine
_ORIGIN = re.compile(r"(https?)://(.+)")
_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d*)?")
_KEPT = 256  # hosts, of which a server meets a few
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_INNER = (".internal", ".local", ".svc")  # no name of the internet's ends so


class Origins:
    """The pages and names of one server, as its settings have them."""

    def __init__(self, settings: Settings) -> None:
        self._origins = frozenset(settings.cors_origins)
        self._hosts = frozenset(map(_plain, (settings.host, *settings.allowed_hosts)))
        self._is_inside = not is_loopback(settings.host)

    def check(self, scope: Scope, headers: Mapping[bytes, bytes], *, is_open: bool) -> None:
        """Let a request through that no page was the reason of, or one that may be.

        Raises:
            ForeignOrigin: It is of a page that may not ask.
            ForeignHost: It asks for a server that this one isn't, and no key stops it.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        origin = headers.get(b"origin")
        if origin is not None and not self._may_ask(origin.decode("latin-1"), host):
            raise ForeignOrigin(
                f"pages of '{shown(origin.decode('latin-1'))}' may not ask this server; "
                "cors_origins names those that may"
            )
        server = scope.get("server")
        if host and is_open and server and is_loopback(server[0]) and not self._is_known(host):
            raise ForeignHost(
                f"this server isn't '{shown(host)}'; ask it as localhost, name that in "
                "allowed_hosts, or let it want a key"
            )

    def _may_ask(self, origin: str, host: str) -> bool:
        if not self._origins.isdisjoint((ANY, origin)):
            return True
        match = _ORIGIN.fullmatch(origin.lower())
        if match is None:
            return False
        port = _DEFAULT_PORTS[match[1]]
        return match[2].removesuffix(port) == host.removesuffix(port)

    def _is_known(self, host: str) -> bool:
        name = _name(host)
        if is_loopback(name) or name in _EVERY or not self._hosts.isdisjoint((ANY, name)):
            return True
        return self._is_inside and (_is_address(name) or "." not in name or name.endswith(_INNER))


@lru_cache(maxsize=_KEPT)
def is_loopback(host: str) -> bool:
    """Whether a name or an address is loopback's."""
    name = _plain(host)
    if not _is_address(name):
        return name == "localhost" or name.endswith(".localhost")
    address = ip_address(name)
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback


@lru_cache(maxsize=_KEPT)
def _name(host: str) -> str:
    """Return what `Host` says without the port."""
    match = _HOST.fullmatch(host)
    return _plain(match[1]) if match else host


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    """Return a host as names and addresses are compared."""
    return host.lower().removeprefix("[").removesuffix("]").removesuffix(".")
