"""The sockets that a server listens on, open before all else: who comes waits, and isn't refused.

Little more than the standard library: everything else takes a second to import. What the command
line, the environment and `assay.toml` say of the address is only looked at here; whether it is
right, and whether it is what was meant, `assay.settings` says later. A service manager may hand
over sockets that are open (`LISTEN_FDS`, as systemd does): then none is closed over a restart.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING

from assay import toml_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BACKLOG = 4096  # trainers open a connection a request; the kernel caps it at net.core.somaxconn
_FIRST_HANDED = 3  # the descriptor
_opened: dict[tuple[str, int], list[socket.socket]] = {}


def early(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """Listen where `assay serve` with these arguments will, if that is plain and possible."""
    if (
        not arguments
        or arguments[0] != "serve"
        or "--help" in arguments
        or "LISTEN_FDS" in variables
    ):
        return
    with contextlib.suppress(OSError, ValueError, OverflowError):
        file = _option(arguments, "--config") or variables.get("ASSAY_CONFIG") or "assay.toml"
        said = _table(file)
        host = _option(arguments, "--host") or variables.get("ASSAY_HOST") or said.get("host")
        port = _option(arguments, "--port") or variables.get("ASSAY_PORT") or said.get("port")
        where = (str(host or "127.0.0.1"), int(str(port or 8000)))
        _opened[where] = _listening(*where)


def take(host: str, port: int) -> list[socket.socket]:
    """Return the open sockets for an address; those opened for another are closed.

    Raises:
        OSError: Nobody can listen there.
    """
    if handed := _handed():
        return handed
    sockets = _opened.pop((host, port), None)
    while _opened:
        for sock in _opened.popitem()[1]:
            sock.close()
    return sockets if sockets is not None else _listening(host, port)


def is_exposed(sockets: Iterable[socket.socket]) -> bool:
    """Whether other machines can reach one of them."""
    import ipaddress  # noqa: PLC0415  not before the sockets are open

    return any(
        sock.family in (socket.AF_INET, socket.AF_INET6)
        and not ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback
        for sock in sockets
    )


def _option(arguments: Sequence[str], name: str) -> str | None:
    """Return the last value of an option, as the command line takes it."""
    value = None
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            value = argument.partition("=")[2]
        elif argument == name and place + 1 < len(arguments):
            value = arguments[place + 1]
    return value


def _table(file: str) -> dict[str, object]:
    try:
        return toml_file.parsed(toml_file.content(file).decode())
    except OSError:
        return {}


def _listening(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of a host."""
    opened: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            sock = socket.socket(family, socket.SOCK_STREAM)
            opened.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
    except OSError:
        for sock in opened:
            sock.close()
        raise
    return opened


def _handed() -> list[socket.socket]:
    """Return the sockets that a service manager opened for this process; it keeps its own."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=_FIRST_HANDED + number) for number in range(count)]
