"""What a process holds of memory, and gives back."""

from __future__ import annotations

import mmap

from assay.telemetry import memory


def test_a_process_knows_its_own_memory_and_gives_back_what_is_free() -> None:
    """Giving back harms nothing, and memory that is held counts."""
    before = memory.own_bytes()
    held = mmap.mmap(-1, 50_000_000)  # pages of its own: no free ones of the heap are taken
    held.write(b"x" * len(held))
    grown = memory.own_bytes()
    memory.give_back()

    assert grown >= before + 45_000_000
    assert len(held) == 50_000_000
