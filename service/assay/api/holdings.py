"""What requests hold of this process' memory: bodies before they are admitted, answers until sent.

The promise it keeps: no caller, and not all together, take the memory of the machine.

A body counts for its bytes and for what they become once they are parsed; see `worth`. An answer
counts until its caller has taken it. All that is bounded by one number. A caller (an API key, or an
address where there is no key) may hold as much as it leaves free: alone half, of two each a third.
So there is room for one more, however many come and however greedy they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.errors import BodyTooLarge, Overloaded
from assay.telemetry.metrics import HELD_BY_ALL, HELD_BY_CALLER

if TYPE_CHECKING:
    from assay.telemetry.metrics import Metrics

TEXT_FACTOR = 2  # a body's text in Python: one to four bytes a character, and what is made of it
VALUE_BYTES = 48  # in a list or an object: its place, and most often a number or a short text
CONTAINER_BYTES = 768  # a list or an object: what it is, and what it becomes until it is scored
_SHORT_BYTES = 72  # what one byte of MessagePack may become
_MAYBE_SHORT = bytes(range(0x80, 0xC0))  # MessagePack's short lists, objects and texts
_RETRY_S = 5.0


def worth(content: bytes | bytearray, *, is_json: bool) -> int:
    """Return about how many bytes some part of a body is worth once it is parsed.

    That is quickly counted, and by twice too low at the most, whatever the part is made of: three
    bytes of JSON may take seventy in Python.
    """
    commas = content.count(b",") + content.count(b":")
    containers = content.count(b"[") + content.count(b"{")
    size = TEXT_FACTOR * len(content) + VALUE_BYTES * commas + CONTAINER_BYTES * containers
    if is_json:
        return size
    return size + _SHORT_BYTES * (len(content) - len(content.translate(None, _MAYBE_SHORT)))


class Holdings:
    """What all requests hold.

    Args:
        most_bytes: How many they may.
        metrics: Where refusals are counted, and what is held can be seen.
    """

    def __init__(self, most_bytes: int, metrics: Metrics) -> None:
        self.bytes = 0
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._by_caller: dict[str, int] = {}  # of those who hold something
        metrics.holding(lambda: self.bytes, limit=most_bytes)

    def begin(self) -> Holding:
        """Return what a request holds: nothing so far."""
        return Holding(self)

    def add(self, caller: str, more: int) -> None:
        """Count so many bytes more, or less where negative."""
        self.bytes += more
        held = self._by_caller.get(caller, 0) + more
        if held:
            self._by_caller[caller] = held
        else:
            self._by_caller.pop(caller, None)

    def check(self, caller: str, size: int, more: int) -> None:
        """Refuse a request of `size` bytes by which the caller would hold `more` than now.

        Raises:
            BodyTooLarge: Nobody may hold so much.
            Overloaded: There is no room for it beside what is held.
        """
        alone = self._most_bytes // 2
        if size > alone:
            raise BodyTooLarge(
                f"the request would take more than {alone} bytes of memory, half of "
                "max_held_bytes; send fewer items at a time"
            )
        held = self._by_caller.get(caller, 0)
        if held + more <= self._most_bytes - self.bytes - more:
            return
        is_most_of_it = 2 * held >= self.bytes
        self._metrics.held_refused(HELD_BY_CALLER if is_most_of_it else HELD_BY_ALL)
        raise Overloaded(
            f"requests hold {self.bytes} bytes of memory, yours {held} of them, and the limit is "
            f"{self._most_bytes}; retry later, or send less at a time",
            retry_after_s=_RETRY_S,
        )


class Holding:
    """What one request holds; whose that is is set before it holds anything."""

    def __init__(self, holdings: Holdings) -> None:
        self.bytes = 0
        self.caller = ""
        self._holdings = holdings

    def check(self, size: int) -> None:
        """Refuse what couldn't be held now; raises as `take`."""
        self._holdings.check(self.caller, size, size - self.bytes)

    def take(self, size: int) -> None:
        """Hold so many bytes from now on.

        Raises:
            BodyTooLarge: Nobody may hold so much.
            Overloaded: There is no room for it beside what is held.
        """
        if size > self.bytes:
            self.check(size)
        self.keep(size)

    def keep(self, size: int) -> None:
        """Hold so many bytes from now on, whatever others do: they are there already."""
        self._holdings.add(self.caller, size - self.bytes)
        self.bytes = size

    def leave(self) -> None:
        """Hold nothing any more."""
        self.keep(0)
