"""How many files this process may have open, and how many of them may be connections.

A connection is one; an accept that finds none fails for everybody, and so does a load.
"""

from __future__ import annotations

import contextlib
import resource

from assay.errors import SettingsError

_ENOUGH = 65_536
_KEPT = 256  # for models, workers and the rest; a quarter where the limit is small


def raise_limit() -> int:
    """Let this process open as many files as it is allowed to, within reason; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= allowed:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return allowed
    return soft


def connections(setting: int | None, limit: int) -> int:
    """Return how many connections there may be, where so many files may be open.

    Raises:
        SettingsError: More are wanted than that allows.
    """
    most = limit - min(_KEPT, limit // 4)
    if setting is not None and setting > most:
        raise SettingsError(
            f"max_connections is {setting}, but this process may open {limit} files, which leaves "
            f"{most} for connections; lower it, or raise that limit (ulimit -n, LimitNOFILE)",
            param="max_connections",
        )
    return setting or most
