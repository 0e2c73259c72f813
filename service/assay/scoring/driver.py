"""Runs handlers: generators that say what is to be awaited, and hold no asyncio themselves.

What a handler does between two pauses is done off the loop where the request is large. It knows
nothing of it, but may say how large.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from inspect import GEN_RUNNING, getgeneratorstate
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from assay.scoring.offload import ON_THE_LOOP_ITEMS, offload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
ResultT = TypeVar("ResultT")


class Pause(NamedTuple):
    """What a handler waits for, if anything, and how many items its next stretch is about."""

    start: Callable[[], Awaitable[Any]] | None  # called on the loop
    items: int = 0


Handler = Generator[Pause, Any, ResultT]  # what it returns in the end


class _Returned(NamedTuple):
    value: Any


def awaited(start: Callable[[], Awaitable[T]], items: int = 0) -> Handler[T]:
    """Wait in a handler for what `start` begins, and return its result.

    `items` is how many the handler's next stretch is about.
    """
    result: T = yield Pause(start, items)
    return result


def sized(items: int) -> Handler[None]:
    """Say how many items a handler's next stretch is about, where the body's lists don't."""
    if items > ON_THE_LOOP_ITEMS:  # else a pause is most of the work
        yield Pause(None, items)


async def drive(handler: Handler[ResultT], items: int = 0) -> ResultT:
    """Return a handler's result; a stretch of it about many items is done off the loop.

    `items` is how many each stretch is about at least. What the handler waits for is awaited here,
    and errors of that are raised in it. A cancellation closes it: at once or, where a thread is at
    it, at its next pause, which isn't waited for.
    """
    try:
        step = await offload(items, partial(_next, handler.send, [None]))
        while isinstance(step, Pause):
            size = max(items, step.items)
            try:
                result = await step.start() if step.start else None
            except Exception as error:  # noqa: BLE001  the handler's, to catch or not
                step = await offload(size, partial(_next, handler.throw, [error]))
            else:
                step = await offload(size, partial(_next, handler.send, [result]))
    except BaseException:
        if getgeneratorstate(handler) != GEN_RUNNING:  # else the thread drops it, which closes it
            handler.close()
        raise
    value: ResultT = step.value
    return value


def _next(resume: Callable[[Any], Pause], argument: list[Any]) -> Pause | _Returned:
    """Return a handler's next pause, or its result: no future can have a StopIteration.

    The argument is taken out of its list: an error that a frame of its own traceback holds would
    keep the whole request in memory.
    """
    try:
        return resume(argument.pop())
    except StopIteration as end:
        return _Returned(end.value)
