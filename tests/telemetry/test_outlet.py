"""A log whose reader is slow, gone, or never comes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from assay.telemetry.outlet import Outlet
from tests.http.processes import WAIT_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = "a" * 1023 + "\n"
MOST_LINES = 10
MANY = 100


class Pipe:
    """An outlet to a pipe, and what it counts as lost."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.lost = 0
        self.outlet = Outlet(
            self.writer, lambda count: f"{count} are lost\n", MOST_LINES * len(LINE)
        )
        self.outlet.on_loss = self._count
        self.outlet.start()

    def read(self) -> str:
        """Return what is there."""
        return os.read(self.reader, 1 << 20).decode()

    def stuff(self) -> None:
        """Write past the outlet until the pipe is full."""
        os.set_blocking(self.writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writer, LINE.encode())
        os.set_blocking(self.writer, True)

    def fill(self) -> None:
        """Write until a line is lost."""
        while not self.lost:
            self.outlet.write(LINE)

    def _count(self, count: int) -> None:
        self.lost += count


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe, read by nobody but the test."""
    made = Pipe()
    yield made
    os.close(made.reader)
    made.outlet.drain(WAIT_S)
    os.close(made.writer)


def test_lines_come_in_order(pipe: Pipe) -> None:
    """And are there once they have been waited for."""
    lines = [f"{number}\n" for number in range(100)]
    for line in lines:
        pipe.outlet.write(line)

    assert pipe.outlet.drain(WAIT_S)
    assert pipe.read() == "".join(lines)


def test_who_writes_does_not_wait_for_who_reads(pipe: Pipe) -> None:
    """What is beyond the bound is lost, and counted."""
    pipe.stuff()
    for _ in range(MANY):
        pipe.outlet.write(LINE)

    assert 0 < pipe.lost < MANY
    assert not pipe.outlet.drain(0.01)


def test_who_reads_again_is_told_how_many_are_lost(pipe: Pipe) -> None:
    """Where they would be: behind what waited, before what came later."""
    pipe.fill()
    lost = pipe.lost

    read: list[str] = []
    until("what is lost is told", lambda: read.append(pipe.read()) or "lost" in read[-1])
    pipe.outlet.write("after\n")
    assert pipe.outlet.drain(WAIT_S)

    before, told, after = "".join(read).partition(f"{lost} are lost\n")
    assert set(before.splitlines(keepends=True)) == {LINE}
    assert (bool(told), after) == (True, "")
    assert pipe.read() == "after\n"


def test_where_nobody_is_there_to_read_all_is_counted_as_lost(pipe: Pipe) -> None:
    """A pipe that is closed at its other end, as a disk that is full, stops nothing."""
    os.close(pipe.reader)
    pipe.outlet.write(LINE)
    pipe.outlet.write(LINE)

    assert pipe.outlet.drain(WAIT_S)
    assert pipe.lost == 2
    pipe.reader = os.dup(pipe.writer)
