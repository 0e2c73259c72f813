"""The process around the application: bind, serve, drain, exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import math
import signal
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from uvicorn.loops.auto import auto_loop_factory

from assay.api import descriptors, keys, tls
from assay.api.app import create_app
from assay.errors import AssayError, InternalError
from assay.listening import BACKLOG
from assay.scoring.offload import run_in_daemon_thread
from assay.telemetry import lag, memory
from assay.telemetry.metrics import HEAD_TOO_LARGE, NO_ROUTE, SLOW_READER

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from assay.scoring.service import Service
    from assay.settings import Settings
    from assay.telemetry.metrics import Metrics
    from assay.telemetry.tracing import Tracing

# Few at a time: where hundreds of requests wait nothing is garbage, and a microsecond an object is
# 0.2 s for all of them, or a second for the largest that one request may bring. The oldest are
# looked at once in five million, when nobody is there; else once in 250 million.
_COLLECT_AFTER = (2_000, 5, 25_000)
_COLLECT_IDLE_AFTER = 500
_TRIM_TICKS = (20, 70)  # idle ones after which free memory is given back: soon, and once collected
_GROWTH = 1.2  # over what was usual, by which idle ones look for garbage
_IDLE_TICKS = 50  # five seconds, by which the largest request has been freed
logger = logging.getLogger("assay.server")
_GOODBYE_S = 1.0
_AT_ONCE_S = 0.05  # in which a server that has nothing to do is done


class Server(uvicorn.Server):
    """uvicorn that drains on the first SIGTERM or SIGINT and leaves at once on the second.

    On SIGHUP it reads the settings again and serves what they name now.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        api_keys: keys.Keys,
        reread: Callable[[], Settings],
        *,
        is_exposed: bool = False,
    ) -> None:
        super().__init__(config)
        self._is_exposed = is_exposed  # to other machines
        self._service = service
        self._keys = api_keys
        self._reread = reread
        self._reading: asyncio.Task[None] | None = None
        self._is_asked = False  # to read the settings again
        self._idle_ticks = 0
        self._usual_bytes = memory.own_bytes()  # once what was free had been given back

    async def on_tick(self, counter: int) -> bool:
        """Look for garbage while nobody waits, and give memory back that is free.

        A few objects may hold much: what is left of a caller who was cut off has its answer.
        """
        self._idle_ticks = 0 if self.server_state.tasks else self._idle_ticks + 1
        if self._idle_ticks >= _IDLE_TICKS and (
            gc.get_count()[2] >= _COLLECT_IDLE_AFTER
            or (self._idle_ticks == _IDLE_TICKS and self._has_grown())
        ):
            gc.collect()
        if self._idle_ticks in _TRIM_TICKS:
            asyncio.get_running_loop().run_in_executor(None, self._give_back)
        return await super().on_tick(counter)

    def _has_grown(self) -> bool:
        return memory.own_bytes() > _GROWTH * self._usual_bytes

    def _give_back(self) -> None:
        memory.give_back()
        if self._idle_ticks >= _TRIM_TICKS[-1]:
            self._usual_bytes = memory.own_bytes()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until told to stop, noting the loop's lag."""
        tasks = [
            asyncio.create_task(lag.watch(self._service.metrics), name="loop lag"),
            asyncio.create_task(self._once_loaded(), name="freeze"),
            asyncio.create_task(self._keys.watch(self._service.metrics), name="watch the keys"),
        ]
        try:
            await super().serve(sockets)
        finally:
            for task in tasks:
                task.cancel()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain. An idle TLS connection isn't waited for until its caller says goodbye, too."""
        if self.config.is_ssl:
            idle = [
                connection for connection in self.server_state.connections if _is_idle(connection)
            ]
            asyncio.get_running_loop().call_later(_GOODBYE_S, _hang_up, idle)
        await super().shutdown(sockets)
        await self._cut_short()

    async def _cut_short(self) -> None:
        """Tell who is left that they aren't answered any more, and wait for nobody."""
        left = list(self.server_state.tasks)
        if not left:
            return
        for task in left:
            if not task.cancelling():
                task.cancel()
        await asyncio.wait(left, timeout=_GOODBYE_S)
        self._service.kill()

    async def _once_loaded(self) -> None:
        with contextlib.suppress(AssayError):
            await self._service.scorer.served.ready()
            spare_the_collector()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals on the loop, to its end, so that a stopped server exits with code 0."""
        loop = asyncio.get_running_loop()
        handlers = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._read_again,
        }
        for signum, handler in handlers.items():
            loop.add_signal_handler(signum, handler)
        yield

    def _stop(self) -> None:
        if self.should_exit:
            logger.info("told to stop again: whoever waits is sent away")
            self.force_exit = True
            self._service.kill()
        else:
            logger.info("told to stop: what was accepted is answered first")
        self.should_exit = True
        self._service.close()
        if self._reading is not None:
            self._reading.cancel()

    def _read_again(self) -> None:
        self._is_asked = True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._take(), name="read the settings again")

    async def _take(self) -> None:
        """Take the settings, and once more where that was asked for meanwhile."""
        while self._is_asked:
            self._is_asked = False
            await self._change()

    async def _change(self) -> None:
        """Serve what the settings name now; a mistake in them changes nothing."""
        outcome = "unfinished"
        try:
            settings = await run_in_daemon_thread(self._reread)
            ring = await run_in_daemon_thread(lambda: keys.read(settings))
            self._keys.check_change(ring)
            keys.check_lengths(settings, is_exposed=self._is_exposed)
            pair = await run_in_daemon_thread(lambda: tls.files(settings))
            expires = await run_in_daemon_thread(lambda: tls.expires(pair))
            await self._service.change(settings)
            self._keys.change(ring)
            if pair is not None and self.config.ssl is not None:
                tls.load(self.config.ssl, pair)
                self._service.metrics.certificate(expires)
            outcome = "ok"
        except AssayError as error:
            outcome = error.code
            logger.error("the settings are not taken: %s", error.message)  # noqa: TRY400
        except Exception:
            outcome = InternalError.code
            logger.exception("the settings are not taken, by a defect")
        else:
            logger.info("the settings are taken: serving %s", ", ".join(settings.models))
        finally:
            self._service.metrics.changed("signal", outcome)
            keys.audit.info("SIGHUP: %s", outcome)


def _is_idle(connection: Any) -> bool:
    return connection.cycle is None or connection.cycle.response_complete


def _hang_up(connections: list[Any]) -> None:
    for connection in connections:
        if not connection.transport.get_write_buffer_size():
            connection.transport.abort()


def spare_the_collector() -> None:
    """Take all that was loaded out of its sight: walking it stalled the loop for 0.2 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return what makes the server's loop: uvloop's, where there is one."""
    return auto_loop_factory()


def build(
    settings: Settings,
    service: Service,
    reread: Callable[[], Settings],
    tracing: Tracing | None = None,
    *,
    is_exposed: bool = False,
) -> Server:
    """Return the server for these settings; `reread` is for SIGHUP.

    `is_exposed` says whether other machines can reach its sockets.
    """
    ring = keys.read(settings)
    keys.check_lengths(settings, is_exposed=is_exposed)
    if is_exposed and ring.is_open:
        logger.warning(
            "bound beyond this machine without an API key: anyone who reaches this port can use "
            "it; set ASSAY_API_KEY"
        )
    api_keys = keys.Keys(ring, service.metrics.unauthorized)
    most_connections = descriptors.connections(settings.max_connections, descriptors.raise_limit())
    pair = tls.files(settings)
    certificate, key = pair or (None, None)
    service.metrics.certificate(tls.expires(pair))
    config = uvicorn.Config(
        create_app(settings, service, api_keys, tracing),
        host=settings.host,
        port=settings.port,
        lifespan="off",
        access_log=False,
        proxy_headers=False,  # nothing here asks who the caller is
        backlog=BACKLOG,
        log_config=None,  # its lines go the way of ours
        log_level="warning",
        timeout_graceful_shutdown=_drain_s(settings.drain_timeout_s),
        timeout_keep_alive=75,
        http=_connections(settings, service.metrics, most_connections),
        server_header=False,
        ws="none",
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
    return Server(config, service, api_keys, reread, is_exposed=is_exposed)


def _drain_s(timeout_s: float) -> int | None:
    """Return how long uvicorn waits for accepted requests; it takes fractions, too."""
    if math.isinf(timeout_s):
        return None
    return max(timeout_s, _AT_ONCE_S)  # type: ignore[return-value]


def _connections(
    settings: Settings, metrics: Metrics, most_connections: int
) -> type[asyncio.Protocol] | Literal["h11"]:
    """Return what speaks HTTP: with bounds of ours where there is httptools; h11 has its own."""
    if importlib.util.find_spec("httptools") is None:
        return "h11"
    from assay.api.connection import bounded  # noqa: PLC0415

    return bounded(
        settings.body_timeout_s,
        settings.write_timeout_s,
        on_refusal=lambda: metrics.request("", NO_ROUTE, HEAD_TOO_LARGE),
        on_cut_off=lambda: metrics.held_refused(SLOW_READER),
        most_connections=most_connections,
        on_crowd=metrics.connection_refused,
    )
