"""How bodies are spelt: JSON, and the MessagePack of mosec's servers and their clients.

Clients don't state which: a body's first byte tells. No JSON begins as a MessagePack object does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_core import from_json, to_json

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Form:
    """One way to spell bodies; `read` raises ValueError."""

    name: str
    media_type: str
    first: frozenset[int]  # what an object may begin with; empty where nothing else does
    read: Callable[[bytes], Any] = field(compare=False)
    write: Callable[[Any], bytes]

    def has(self, body: bytes) -> bool:
        """Tell whether a body is spelt so."""
        return bool(body) and body[0] in self.first


def _unpacked(body: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


JSON = Form(
    "JSON",
    "application/json",
    frozenset(),
    from_json,
    lambda content: to_json(content, inf_nan_mode="null"),
)
MESSAGE_PACK = Form(
    "MessagePack",
    "application/msgpack",
    frozenset({*range(0x80, 0x90), 0xDE, 0xDF}),
    _unpacked,
    msgspec.msgpack.encode,
)
