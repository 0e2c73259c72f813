"""The process around the application: bind, serve, drain, exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING

import uvicorn

from assay.api.app import create_app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assay.scoring.scorer import Scorer
    from assay.settings import Settings

logger = logging.getLogger("assay.server")
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Server(uvicorn.Server):
    """uvicorn that drains on the first SIGTERM or SIGINT and leaves at once on the second."""

    def __init__(self, config: uvicorn.Config, scorer: Scorer) -> None:
        super().__init__(config)
        self._scorer = scorer

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
        log_level="warning",
        timeout_graceful_shutdown=int(settings.drain_timeout_s) or 1,
        timeout_keep_alive=75,
        server_header=False,
    )
    return Server(config, scorer)
