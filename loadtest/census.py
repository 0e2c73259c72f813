"""What the processes of a running Assay hold: memory, open files, threads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

_WORKER = "assay-worker"
_READER = "assay-loader"


@dataclass(frozen=True, slots=True)
class Census:
    """One moment; memory is resident bytes."""

    front_bytes: int
    worker_bytes: int
    files: int
    threads: int
    workers: int

    @classmethod
    def of(cls, pid: int) -> Census:
        """Count what the front holds, and what its device processes do."""
        front = psutil.Process(pid)
        own = workers(pid)
        return cls(
            front.memory_info().rss,
            sum(map(_resident, own)),
            front.num_fds(),
            front.num_threads(),
            len(own),
        )

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        return (
            f"front {self.front_bytes / 1e6:,.0f} MB, {self.files} files, {self.threads} threads; "
            f"{self.workers} worker, {self.worker_bytes / 1e6:,.0f} MB"
        )


def workers(pid: int) -> list[psutil.Process]:
    """Return the device processes of a front, those that ended and weren't awaited included."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE or child.name() == _WORKER:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def readers(pid: int) -> list[psutil.Process]:
    """Return the processes of a front that read checkpoints and fork those that render."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if child.name() == _READER:
                found.append(child)
    return found


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
