"""Whose job is next: callers by size, small ones first, nobody for ever."""

from __future__ import annotations

from assay.prompts.fair_queue import FairQueue


def order(queue: FairQueue[str]) -> list[str]:
    """Return all that waits, in the order in which it is taken."""
    return list(iter(lambda: queue.take() or "", ""))


def test_a_small_job_does_not_wait_for_the_large_ones_before_it() -> None:
    """Of one caller, who came first among equals, and who is small before who is large."""
    queue: FairQueue[str] = FairQueue()
    for name, size in [("fat 1", 100), ("fat 2", 100), ("single", 1)]:
        queue.put(name, caller="", size=size)

    assert order(queue) == ["single", "fat 1", "fat 2"]


def test_a_large_job_waits_for_as_many_small_ones_as_are_as_large() -> None:
    """A stream of them doesn't hold it back for ever."""
    queue: FairQueue[str] = FairQueue()
    queue.put("fat", caller="", size=100)
    taken = []
    while "fat" not in taken:
        queue.put("single", caller="", size=10)
        taken.append(queue.take())

    assert 10 <= len(taken) <= 12


def test_callers_are_served_evenly_by_size() -> None:
    """Not by how many jobs they have, nor by who came first."""
    queue: FairQueue[str] = FairQueue()
    for number in range(8):
        queue.put(f"trainer {number}", caller="trainer", size=40)
    assert queue.take() == "trainer 0"
    for number in range(4):
        queue.put(f"gateway {number}", caller="gateway", size=10)

    found = order(queue)

    assert max(found.index(f"gateway {number}") for number in range(4)) <= 5
