"""Handlers are run to their end on whichever thread their size asks for."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from assay.errors import InvalidField, Overloaded
from assay.scoring.driver import awaited, drive, sized
from assay.scoring.offload import ON_THE_LOOP_ITEMS

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.scoring.driver import Handler

FEW, MANY = ON_THE_LOOP_ITEMS, ON_THE_LOOP_ITEMS + 1
either_size = pytest.mark.parametrize("items", [FEW, MANY])


class Mortal:
    """What can be watched by a weak reference."""


async def soon(value: int) -> int:
    """Return a value, a turn of the loop later."""
    await asyncio.sleep(0)
    return value


async def refused() -> int:
    """Raise, a turn of the loop later."""
    await asyncio.sleep(0)
    raise Overloaded("full", retry_after_s=2)


def invalid() -> ValidationError:
    """Return an error of pydantic's."""
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    return caught.value


@either_size
async def test_a_handler_gets_what_it_awaits_and_returns_its_own(items: int) -> None:
    """Through handlers that it calls, too."""

    def half() -> Handler[int]:
        return (yield from awaited(lambda: soon(20))) + 1

    def whole() -> Handler[list[int]]:
        first = yield from half()
        yield from sized(3)
        second = yield from half()
        return [first, second]

    assert await drive(whole(), items) == [21, 21]


async def test_a_handler_may_await_nothing() -> None:
    """Its result is what it returns at once."""

    def handler() -> Handler[str]:
        return "at once"
        yield

    assert await drive(handler()) == "at once"


@either_size
async def test_an_error_of_what_is_awaited_is_the_handlers_to_catch(items: int) -> None:
    """Where it awaits; what follows is as after any error."""
    said: list[str] = []

    def handler() -> Handler[int]:
        try:
            yield from awaited(refused)
        except Overloaded as error:
            said.append(error.message)
        finally:
            said.append("over")
        return (yield from awaited(lambda: soon(7)))

    assert await drive(handler(), items) == 7
    assert said == ["full", "over"]


@either_size
async def test_an_error_that_no_handler_catches_comes_out_as_it_was(items: int) -> None:
    """The same object."""
    raised: list[BaseException] = []

    def handler() -> Handler[None]:
        try:
            yield from awaited(refused)
        except Overloaded as error:
            raised.append(error)
            raise

    with pytest.raises(Overloaded) as caught:
        await drive(handler(), items)
    assert raised == [caught.value]


@either_size
@pytest.mark.parametrize(
    "error",
    [InvalidField("bad", param="x"), invalid(), RecursionError(), MemoryError()],
    ids=lambda error: type(error).__name__,
)
async def test_a_handlers_own_error_comes_out_as_it_was(items: int, error: Exception) -> None:
    """Raised before anything is awaited, and after."""

    def early() -> Handler[None]:
        raise error
        yield

    def late() -> Handler[None]:
        yield from awaited(lambda: soon(1))
        raise error

    for handler in (early(), late()):
        with pytest.raises(type(error)) as caught:
            await drive(handler, items)
        assert caught.value is error


@either_size
async def test_a_stop_iteration_is_a_defect_and_no_result(items: int) -> None:
    """It neither ends the handler as if it had returned nor hangs whoever waits."""

    def handler() -> Handler[object]:
        yield from sized(1)
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(drive(handler(), items), timeout=30)


@either_size
async def test_a_cancellation_closes_the_handler(items: int) -> None:
    """It ends where it awaits: what it would do of an error it doesn't do."""
    said: list[str] = []
    begun = asyncio.Event()

    async def for_ever() -> None:
        begun.set()
        await asyncio.Event().wait()

    def handler() -> Handler[None]:
        try:
            yield from awaited(for_ever)
        except Exception:  # noqa: BLE001  none is expected
            said.append("caught")
        finally:
            said.append("over")

    task = asyncio.create_task(drive(handler(), items))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert said == ["over"]


async def test_a_cancellation_waits_for_no_thread() -> None:
    """The handler's own work goes on to where it next awaits, and the handler is closed there."""
    begun, goes_on, closed = threading.Event(), threading.Event(), threading.Event()
    awaits: list[str] = []

    async def never() -> None:
        awaits.append("awaited")

    def handler() -> Handler[None]:
        try:
            begun.set()
            goes_on.wait(60)
            yield from awaited(never)
        finally:
            closed.set()

    task = asyncio.create_task(drive(handler(), MANY))
    await asyncio.to_thread(begun.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not closed.is_set()
    goes_on.set()

    assert await asyncio.to_thread(closed.wait, 60)
    assert awaits == []


def with_size(items: int) -> Handler[int]:
    """Return the thread after what is awaited has said how large it was."""
    yield from awaited(lambda: soon(1), items=items)
    return threading.get_ident()


def sized_itself(items: int) -> Handler[int]:
    """Return the thread after the handler has said how large it is."""
    yield from sized(items)
    return threading.get_ident()


@pytest.mark.parametrize("handler", [with_size, sized_itself])
async def test_many_items_are_left_to_a_thread(handler: Callable[[int], Handler[int]]) -> None:
    """As the request has them, as the handler says, and as what it awaited was about."""
    here = threading.get_ident()

    assert await drive(handler(1), FEW) == here
    assert await drive(handler(1), MANY) != here
    assert await drive(handler(FEW)) == here
    assert await drive(handler(MANY)) != here


async def test_a_size_is_that_of_the_next_stretch() -> None:
    """What is made of many ids may be one item; the request's own size holds for each stretch."""

    def handler() -> Handler[list[int]]:
        yield from sized(MANY)
        first = threading.get_ident()
        yield from awaited(lambda: soon(1), items=1)
        return [first, threading.get_ident()]

    here = threading.get_ident()
    first, second = await drive(handler())
    assert (first != here, second == here) == (True, True)
    assert here not in await drive(handler(), MANY)


async def test_what_is_awaited_is_begun_on_the_loop() -> None:
    """However large the request: what is begun may want the running loop."""

    async def thread() -> int:
        return threading.get_ident()

    def handler() -> Handler[list[int]]:
        begun: list[int] = []

        def start() -> Any:
            begun.append(threading.get_ident())
            return thread()

        ran = yield from awaited(start)
        return [*begun, ran]

    assert await drive(handler(), MANY) == [threading.get_ident()] * 2


@either_size
async def test_a_failed_request_leaves_nothing_to_the_garbage_collector(items: int) -> None:
    """No error keeps itself: what a request holds may be most of the memory."""
    held: list[weakref.ref[Mortal]] = []

    def handler() -> Handler[object]:
        body = Mortal()
        held.append(weakref.ref(body))
        yield from awaited(refused)
        return body

    gc.disable()
    try:
        with pytest.raises(Overloaded) as caught:
            await drive(handler(), items)
        del caught
        async with asyncio.timeout(10.0):
            while held[0]() is not None:  # noqa: ASYNC110  a thread may still be leaving
                await asyncio.sleep(0.001)
    finally:
        gc.enable()
