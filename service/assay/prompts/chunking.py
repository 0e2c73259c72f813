"""How large a request's items are, and in which parts they are rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from assay.items import Contest, Ids, Solution, Text, characters, message_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from assay.items import Source

CHUNK_ITEMS = 128
CHUNK_TOKENS = 16_384  # some 20 ms of one core
_CHARACTERS_PER_TOKEN = 4


def estimate(source: Source) -> int:
    """Guess an item's tokens before it is tokenized."""
    if isinstance(source, Ids):
        return len(source.ids)
    return characters(source) // _CHARACTERS_PER_TOKEN + 1


def identity(source: Source) -> Hashable:
    """Return what tells an item from others."""
    match source:
        case Ids():
            parts = source.ids, source.segments or ()
            return tuple(np.asarray(part, dtype=np.int32).tobytes() for part in parts)
        case Text():
            return source.specials, source.text
    turns = (source.inputs.key, *map(message_key, source.messages))
    match source:
        case Solution():
            return turns, source.steps
        case Contest():
            return turns, source.first, source.second
    return turns, source.specials


def chunks(sources: Sequence[Source]) -> Iterator[Sequence[Source]]:
    """Cut a request's items into what is rendered at a time: the device starts after the first."""
    start, tokens = 0, 0
    for place, source in enumerate(sources):
        tokens += estimate(source)
        if tokens >= CHUNK_TOKENS or place + 1 - start >= CHUNK_ITEMS:
            yield sources[start : place + 1]
            start, tokens = place + 1, 0
    if start < len(sources):
        yield sources[start:]
