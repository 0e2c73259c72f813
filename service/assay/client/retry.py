"""When a request is sent again, and how long after: the only place that says so.

Sent again is what didn't get an answer (no connection, a broken one, half an answer, a 503, a
proxy's 408, 425, 429, 502 to 504 or 520 to 524), never what did. Waits double from 0.25 s to 30 s,
drawn from their upper half; never shorter than `Retry-After`, and none while another server stands
in. Patience begins with a request's first failure; an address that never answered in this process
gets a few tries.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import httpx
import tenacity

from assay import errors
from assay.client import clock
from assay.client.response_parsing import AWAY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


AnswerT = TypeVar("AnswerT")
PATIENCE_S = 900.0
FIRST_TRIES = 3  # of connecting to addresses none of which has ever answered
_FIRST_WAIT_S = 0.25
_LONGEST_WAIT_S = 30.0


class Servers(Protocol):
    """Where the tries go."""

    servers: list[Any]
    patience_s: float
    retries: int | None

    @property
    def has_answered(self) -> bool:
        """Whether any of them ever did."""
        ...

    def stands_in(self) -> bool:
        """Return whether another may be asked at once."""
        ...


class Unfinished(Exception):
    """The server went away under some items: they have its error, not their own."""

    def __init__(self, answer: Any) -> None:
        super().__init__("the server went away under some items")
        self.answer = answer


async def asked(
    attempt: Callable[[], Awaitable[AnswerT]], servers: Servers, deadline: float | None
) -> AnswerT:
    """Return the first real answer.

    Raises:
        DeadlineExceeded: The next try would begin after the deadline.
        AssayError: The answer is an error, or the last try failed.
    """
    failing_since: float | None = None

    async def once() -> AnswerT:
        nonlocal failing_since
        try:
            return await attempt()
        except (*AWAY, Unfinished):
            failing_since = clock.now() if failing_since is None else failing_since
            raise

    def wait(state: tenacity.RetryCallState) -> float:
        return _wait_s(state, servers)

    def gives_up(state: tenacity.RetryCallState) -> bool:
        assert failing_since is not None
        tried_s = clock.now() + state.upcoming_sleep - failing_since
        return tried_s > servers.patience_s or _has_tried(state, servers)

    def is_late(state: tenacity.RetryCallState) -> bool:
        return deadline is not None and clock.now() + state.upcoming_sleep > deadline

    def give_up(state: tenacity.RetryCallState) -> AnswerT:
        error = _error(state)
        if isinstance(error, Unfinished):
            answer: AnswerT = error.answer
            return answer
        assert error is not None
        if gives_up(state):
            raise error
        raise errors.DeadlineExceeded(f"the deadline passed; the last try: {error}") from error

    return await tenacity.AsyncRetrying(
        sleep=asyncio.sleep,
        retry=tenacity.retry_if_exception_type((*AWAY, Unfinished)),
        wait=wait,
        stop=lambda state: gives_up(state) or is_late(state),
        retry_error_callback=give_up,
    )(once)


def _wait_s(state: tenacity.RetryCallState, servers: Servers) -> float:
    if servers.stands_in():
        return 0.0
    rounds = (state.attempt_number - 1) // len(servers.servers)
    backoff_s = min(_FIRST_WAIT_S * 2.0 ** min(rounds, 10), _LONGEST_WAIT_S)
    stated_s = getattr(_error(state), "retry_after_s", None) or 0.0
    # Not for cryptography: callers who failed together shall not return together.
    return max(backoff_s * random.uniform(0.5, 1.0), stated_s * random.uniform(1.0, 1.1))  # noqa: S311


def _has_tried(state: tenacity.RetryCallState, servers: Servers) -> bool:
    """Whether there were as many tries as were told, or as an unknown address gets."""
    tried, count = state.attempt_number, len(servers.servers)
    if servers.retries is not None and tried >= 1 + servers.retries * count:
        return True
    cause = getattr(_error(state), "__cause__", None)
    is_stranger = not servers.has_answered and isinstance(
        cause, (httpx.ConnectError, httpx.ConnectTimeout)
    )
    return is_stranger and tried >= FIRST_TRIES * count


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
