"""How late the event loop runs what is due: the oversleeping of a task that does nothing else."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from assay.telemetry.metrics import Metrics

INTERVAL_S = 0.05


async def watch(metrics: Metrics) -> NoReturn:
    """Note the loop's lag twenty times a second until cancelled."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(INTERVAL_S)
        metrics.loop_lag(max(0.0, time.perf_counter() - begin - INTERVAL_S))
