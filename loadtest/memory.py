"""A server's processes: their memory while it works, and the processor time of its front."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

INTERVAL_S = 0.1


class Watch:
    """Samples a process and its descendants while it is entered; of None it knows nothing.

    Memory is what each process has for itself, and of what is backed by files (code, mapped
    weights) the largest process's share: processes of one server map the same files. A
    proportional set size would be exact, but costs a fifth of a core for a process of 4 GB.
    """

    def __init__(self, pid: int | None) -> None:
        self._tree: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it died: the requests will tell
            if pid is not None:
                process = psutil.Process(pid)
                self._tree = [process, *process.children(recursive=True)]
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._front_cpu_s = 0.0
        self.before_bytes: int | None = None
        self.peak_bytes: int | None = None
        self.front_cpu_s: float | None = None

    def __enter__(self) -> Self:
        """Start to sample."""
        if self._tree:
            self.before_bytes = self.peak_bytes = tree_bytes(self._tree)
            self._front_cpu_s = _cpu_s(self._tree[0])
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""
        if self._tree:
            self._over.set()
            self._sampler.join()
            self.front_cpu_s = _cpu_s(self._tree[0]) - self._front_cpu_s

    def _sample(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self.peak_bytes = max(self.peak_bytes or 0, tree_bytes(self._tree))


def tree_bytes(tree: Sequence[psutil.Process]) -> int:
    """Return the memory of processes that share files; of those that ended, none."""
    own, shared = 0, 0
    for process in tree:
        with suppress(psutil.Error):
            memory = process.memory_info()
            backed_by_files = int(getattr(memory, "shared", 0))
            own += memory.rss - backed_by_files
            shared = max(shared, backed_by_files)
    return own + shared


def _cpu_s(process: psutil.Process) -> float:
    """Return the processor seconds of the process itself, all its threads, no children."""
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)
