"""Work off the loop: what grows with a request's items, and what may never come to an end."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ON_THE_LOOP_ITEMS = 64  # below a millisecond of the work there is; a thread costs a tenth of that
DETACHED = "detached"  # the name of threads that nobody waits for
ResultT = TypeVar("ResultT")


async def offload(items: int, work: Callable[[], ResultT]) -> ResultT:
    """Return the work's result without holding up the loop."""
    return work() if items <= ON_THE_LOOP_ITEMS else await asyncio.to_thread(work)


async def run_in_daemon_thread(work: Callable[[], ResultT]) -> ResultT:
    """Return the result of work that touches a disk or a network: if it hangs, it hangs alone.

    `asyncio.to_thread` is waited for when the loop is closed.
    """
    outcome: Future[ResultT] = Future()

    def run() -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    Thread(target=run, name=DETACHED, daemon=True).start()
    return await asyncio.wrap_future(outcome)
