"""The process around the application: bind, serve, drain, exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from assay.api.app import create_app
from assay.errors import AssayError
from assay.telemetry import lag

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from assay.scoring.scorer import Scorer
    from assay.settings import Settings

# Few at a time: where hundreds of requests wait nothing is garbage, and a microsecond an object is
# 0.2 s for all of them. The oldest are looked at once in five million.
_COLLECT_AFTER = (2_000, 5, 500)
logger = logging.getLogger("assay.server")
_BACKLOG = 4096  # trainers open a connection a request; the kernel caps it at net.core.somaxconn
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Server(uvicorn.Server):
    """uvicorn that drains on the first SIGTERM or SIGINT and leaves at once on the second."""

    def __init__(self, config: uvicorn.Config, scorer: Scorer) -> None:
        super().__init__(config)
        self._scorer = scorer

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, noting the loop's lag."""
        tasks = [
            asyncio.create_task(lag.watch(self._scorer.metrics), name="loop lag"),
            asyncio.create_task(self._spare_the_collector(), name="freeze"),
        ]
        try:
            await super().serve(sockets)
        finally:
            for task in tasks:
                task.cancel()

    async def _spare_the_collector(self) -> None:
        """Take all that was loaded out of its sight: walking it stalled the loop for 0.2 s."""
        with contextlib.suppress(AssayError):
            await self._scorer.ready()
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals on the loop, so that a drained server exits with code 0."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for one in signals:
            loop.add_signal_handler(one, self._stop)
        try:
            yield
        finally:
            for one in signals:
                loop.remove_signal_handler(one)

    def _stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._scorer.admission.close()


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the server's loop: uvloop's, where there is one."""
    return auto_loop_factory()


def build(settings: Settings, scorer: Scorer) -> Server:
    """Return the server for these settings, not yet bound."""
    if settings.host not in _LOOPBACK and not settings.api_key:
        logger.warning(
            "bound to %s without an API key: anyone who reaches this port can use it; set "
            "ASSAY_API_KEY",
            settings.host,
        )
    config = uvicorn.Config(
        create_app(settings, scorer),
        host=settings.host,
        port=settings.port,
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nothing here asks who the caller is
        backlog=_BACKLOG,
        log_level="warning",
        timeout_graceful_shutdown=int(settings.drain_timeout_s) or 1,
        timeout_keep_alive=75,
        server_header=False,
    )
    return Server(config, scorer)
