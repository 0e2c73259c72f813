"""Who asks without a good key: how often lately, by address, and how long a refusal is held back.

Only refusals wait, so that nobody who has a good key is slowed by whoever shares its address. A
guess that is right is answered at once, too: keys are kept from being guessed by their length.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_PEERS = 4096  # that are remembered: the latest
MOST_S = 2.0
_STEP_S = 0.1
_IPV6_PREFIX = 64  # one customer's
logger = logging.getLogger("assay.keys")


class Strangers:
    """The addresses of late refusals.

    Args:
        per_minute: How many refusals a minute each has without a wait.
        clock: Monotonic seconds.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._seen: dict[str, tuple[float, float]] = {}  # how many too lately, and when; by age

    def refused(self, peer: str) -> float:
        """Note a refusal, and return for how many seconds to hold it back."""
        if math.isinf(self._per_minute):
            return 0.0
        who, now = _network(peer), self._clock()
        before, then = self._seen.pop(who, (0.0, now))
        count = max(0.0, before - (now - then) * self._per_minute / 60) + 1
        over = min(count - self._per_minute, MOST_S / _STEP_S)
        self._seen[who] = (self._per_minute + over, now)
        if len(self._seen) > MOST_PEERS:
            del self._seen[next(iter(self._seen))]
        if 0 < over <= 1:
            logger.warning("%s has sent too many requests without a good key: slowed", who)
        return max(0.0, over * _STEP_S)


def _network(peer: str) -> str:
    """Return what stands for an address: of IPv6 the network, for one caller has all of it."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv4Address):
        return peer
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
