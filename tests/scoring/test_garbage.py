"""What a large request leaves behind is freed by another thread, an element at a time."""

from __future__ import annotations

import asyncio
import threading

from assay.scoring import garbage
from assay.scoring.offload import ON_THE_LOOP_ITEMS

MANY = ON_THE_LOOP_ITEMS + 1


class Mortal:
    """What notes in which thread it ends."""

    ends: list[int]

    def __init__(self, ends: list[int]) -> None:
        self.ends = ends

    def __del__(self) -> None:
        self.ends.append(threading.get_ident())


def test_long_lists_are_freed_where_they_are_emptied() -> None:
    """Whoever else still has the list: short ones, and what is no list, are left to their owner."""
    ends: list[int] = []
    long = [Mortal(ends) for _ in range(MANY)]
    short, text = [Mortal(ends)], "a" * MANY
    left = garbage.collected()

    garbage.note([long, short, text, None])
    thread = threading.Thread(target=garbage.empty, args=(left,))
    thread.start()
    thread.join()

    assert long == []
    assert len(short) == 1
    assert len(ends) == MANY
    assert threading.get_ident() not in ends


def test_each_request_notes_its_own() -> None:
    """And nothing is noted outside of one."""
    first = garbage.collected()
    garbage.note([[0] * MANY])
    second = garbage.collected()
    garbage.note([[1] * MANY])

    assert (first, second) == ([[0] * MANY], [[1] * MANY])


async def test_what_a_request_leaves_is_freed_by_another_thread() -> None:
    """Soon, while the loop goes on."""
    ends: list[int] = []
    long = [Mortal(ends) for _ in range(MANY)]

    garbage.free([long])
    async with asyncio.timeout(30):
        while len(ends) < MANY:  # noqa: ASYNC110  an end has no event
            await asyncio.sleep(0.001)

    assert long == []
    assert threading.get_ident() not in ends
