"""Closed and open loops over one server: requests go out as bytes, answers come back as bytes.

Bodies are serialized before the clock starts and parsed after it stops. Kept connections are open
before it starts; new ones are part of what is timed.
"""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import uvloop

from loadtest.connection import Connection
from loadtest.workloads import Closed, Open

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from loadtest.connection import Origin

OK = 200


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request's end: a body, or in a word why there is none."""

    latency_s: float  # from when it was due, in an open loop
    body: bytes | None
    error: str | None = None


@dataclass(slots=True)
class Run:
    """What came of a load."""

    exchanges: list[Exchange] = field(default_factory=list)  # in the order of the requests
    seconds: float = 0.0
    late_s: list[float] = field(default_factory=list)  # how late the client sent, in an open loop
    client_cpu_s: float = 0.0


def drive(
    origin: Origin,
    phases: Sequence[Sequence[bytes]],
    arrival: Closed | Open,
    *,
    timeout_s: float,
) -> Run:
    """Send the phases one after the other and return every answer."""
    gc.collect()  # not while the clock runs
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(origin, phases, arrival, timeout_s))


async def _drive(
    origin: Origin, phases: Sequence[Sequence[bytes]], arrival: Closed | Open, timeout_s: float
) -> Run:
    run = Run()
    kept = _kept_connections(phases, arrival)
    async with _pool(origin, kept, timeout_s) as pool:
        cpu, begin = time.process_time(), time.perf_counter()
        for requests in phases:
            if isinstance(arrival, Closed):
                exchanges = await _closed(pool, requests, arrival.concurrency)
            else:
                assert arrival.rate is not None
                exchanges = await _open(pool, requests, arrival.rate, run.late_s)
            run.exchanges += exchanges
        run.seconds = time.perf_counter() - begin
        run.client_cpu_s = time.process_time() - cpu
    return run


def _kept_connections(phases: Sequence[Sequence[bytes]], arrival: Closed | Open) -> int | None:
    """Return how many connections to open beforehand; None for a new one each."""
    if isinstance(arrival, Closed):
        return min(arrival.concurrency, max(map(len, phases)))
    return None if arrival.new_connections else 16


class _Pool:
    """Idle connections; opens another when there is none."""

    def __init__(self, origin: Origin, timeout_s: float, *, keeps: bool) -> None:
        self._origin = origin
        self._timeout_s = timeout_s
        self._keeps = keeps
        self.idle: list[Connection] = []

    async def exchange(self, request: bytes, due: float) -> Exchange:
        """Send one request; the latency counts from `due` on the performance counter."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._connection()
                try:
                    status, body = await connection.send(request)
                except BaseException:
                    connection.close()
                    raise
        except TimeoutError:
            return Exchange(time.perf_counter() - due, None, "timeout")
        except OSError as error:
            return Exchange(time.perf_counter() - due, None, type(error).__name__)
        latency_s = time.perf_counter() - due
        if self._keeps:
            self.idle.append(connection)
        else:
            connection.close()
        if status != OK:
            return Exchange(latency_s, None, f"HTTP {status}")
        return Exchange(latency_s, body)

    async def _connection(self) -> Connection:
        while self.idle:
            connection = self.idle.pop()
            if connection.is_open:
                return connection
        return await Connection.open(self._origin)


@asynccontextmanager
async def _pool(origin: Origin, kept: int | None, timeout_s: float) -> AsyncIterator[_Pool]:
    pool = _Pool(origin, timeout_s, keeps=kept is not None)
    for _ in range(kept or 0):
        try:
            pool.idle.append(await Connection.open(origin))
        except OSError:
            break  # each request will meet and count it
    try:
        yield pool
    finally:
        for connection in pool.idle:
            connection.close()


async def _closed(pool: _Pool, requests: Sequence[bytes], concurrency: int) -> list[Exchange]:
    """Keep so many requests open until all are answered."""
    exchanges: dict[int, Exchange] = {}
    waiting = iter(enumerate(requests))

    async def send_in_turn() -> None:
        for place, request in waiting:
            exchanges[place] = await pool.exchange(request, time.perf_counter())

    await asyncio.gather(*(send_in_turn() for _ in range(min(concurrency, len(requests)))))
    return [exchanges[place] for place in range(len(requests))]


async def _open(
    pool: _Pool, requests: Sequence[bytes], rate: float, late_s: list[float]
) -> list[Exchange]:
    """Send at a constant rate; a request's latency counts from when it was due."""
    begin = time.perf_counter()
    sent = []
    async with asyncio.TaskGroup() as tasks:
        for place, request in enumerate(requests):
            due = begin + place / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))  # always yields to the tasks
            late_s.append(max(0.0, time.perf_counter() - due))
            sent.append(tasks.create_task(pool.exchange(request, due)))
    return [task.result() for task in sent]
