"""What is sent to a server, and what came of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.texts import Pair

Name = Literal["distinct-one", "distinct-many"]
NAMES: tuple[Name, ...] = ("distinct-one", "distinct-many")


@dataclass(slots=True)
class Reading:
    """One workload on one server, once. Lists of items have an entry a pair, in their order."""

    server: str
    workload: Name
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)  # of requests
    scores: list[float | None] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # as Assay counts them; else empty
    errors: dict[str, int] = field(default_factory=dict)  # items by cause

    @property
    def answered(self) -> int:
        """Number of items with a score."""
        return sum(score is not None for score in self.scores)


def send(
    server: str, url: str, workload: Name, pairs: Sequence[Pair], *, timeout_s: float
) -> Reading:
    """Send the pairs in one request or each in its own, all at once, and read the scores."""
    size = len(pairs) if workload == "distinct-one" else 1
    bodies = [
        json.dumps({"inputs": [pair.item() for pair in pairs[start : start + size]]}).encode()
        for start in range(0, len(pairs), size)
    ]
    return asyncio.run(_send(Reading(server, workload), url, bodies, size, timeout_s))


async def _send(
    reading: Reading, url: str, bodies: list[bytes], size: int, timeout_s: float
) -> Reading:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(
        base_url=url, timeout=timeout_s, limits=limits, trust_env=False
    ) as client:
        begin = time.perf_counter()
        answers = await asyncio.gather(*(_post(client, body, timeout_s) for body in bodies))
        reading.seconds = time.perf_counter() - begin
    for answer, latency_s in answers:
        if isinstance(answer, str):
            reading.errors[answer] = reading.errors.get(answer, 0) + size
            reading.scores += [None] * size
            reading.tokens += [0] * size
            continue
        reading.latencies_s.append(latency_s)
        _read(reading, answer)
    return reading


async def _post(
    client: httpx.AsyncClient, body: bytes, timeout_s: float
) -> tuple[dict[str, Any] | str, float]:
    """Return the answer, or in a word why there is none, and the seconds it took."""
    headers = {"Content-Type": "application/json"}
    begin = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            answer = await client.post("/score", content=body, headers=headers)
    except (TimeoutError, httpx.TimeoutException):
        return "timeout", time.perf_counter() - begin
    except httpx.TransportError as error:
        return type(error).__name__, time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    return (answer.json() if answer.is_success else f"HTTP {answer.status_code}"), seconds


def _read(reading: Reading, answer: dict[str, Any]) -> None:
    """Take the scores of either server's answer."""
    if "scores" in answer:
        reading.scores += answer["scores"]
        return
    reading.scores += [entry["score"] for entry in answer["data"]]
    reading.tokens += [entry["n_tokens"] for entry in answer["data"]]
