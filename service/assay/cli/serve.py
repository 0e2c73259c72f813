"""`assay serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer
from prometheus_client import disable_created_metrics
from rich.text import Text

from assay import listening, scratch
from assay.cli.app import (
    Config,
    Device,
    Dtype,
    Models,
    Names,
    Quantize,
    Repository,
    Threads,
    Trusted,
    app,
    given,
    names_of,
    run,
    settings_of,
    stop,
)
from assay.cli.terminal import err
from assay.errors import SettingsError
from assay.prompts import loader
from assay.scheduling import workers
from assay.scoring.offload import DETACHED
from assay.scoring.service import Service
from assay.settings import PREFIX, rereader
from assay.telemetry import logging as logs
from assay.telemetry import stderr, tracing
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from assay.errors import AssayError
    from assay.settings import Settings
    from assay.telemetry.stderr import StandardError

logger = logging.getLogger("assay.serve")
_LAST_WORDS_S = 1.0


@app.command()
def serve(
    models: Models = None,
    names: Names = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; default 8000.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    attention: Annotated[
        str | None, typer.Option(help="auto, tree, varlen (GPU), native (CPU) or blocks.")
    ] = None,
    invariant: Annotated[
        bool | None,
        typer.Option("--invariant", help="Let bits not depend on the batch, on a GPU, too."),
    ] = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    trust_remote_code: Trusted = None,
    hold_while_loading_s: Annotated[
        float | None,
        typer.Option(help="How long requests wait for models that load; default 20 seconds."),
    ] = None,
    config: Config = None,
) -> None:
    """Load models and answer over HTTP.

    Every flag can be set in `assay.toml` or as `ASSAY_...`; see `assay config`. Exits with code 3
    when a model can't be loaded correctly.
    """
    flags = {
        "models": models,
        "names": names_of(names),
        "host": host,
        "port": port,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "attention": attention,
        "invariant": invariant,
        "threads": threads,
        "repository": repository_folder,
        "trust_remote_code": trust_remote_code,
        "hold_while_loading_s": hold_while_loading_s,
    }
    if os.environ.get(f"{PREFIX}LOG_FORMAT") == "json":
        logs.configure("info", "json")  # what is wrong with the others is told in an object, too
    # A time beside each series, that no query asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    settings = settings_of(flags, config)
    logs.configure(settings.log_level, settings.log_format)
    adopted = stderr.adopt()
    sockets = _sockets(settings)
    with workers.ahead(settings.worker_variables), loader.ahead():
        from assay.api import server as servers  # noqa: PLC0415  only `serve` needs HTTP

        serving = _serve(settings, sockets, rereader(given(flags), config), adopted)
        failure = run(serving, servers.loop_factory())
    try:
        if failure is not None:
            stop(failure)
    except typer.Exit as end:
        _end(end.exit_code, adopted)
        raise
    _end(0, adopted)


def _sockets(settings: Settings) -> list[socket.socket]:
    """Return the sockets to listen on, or end with the reason why there are none."""
    try:
        return listening.take(settings.host, settings.port)
    except OSError as error:
        where = f"{in_url(settings.host)}:{settings.port}"
        stop(
            SettingsError(
                f"nobody can listen on {where}: {error.strerror or error}; another server may run "
                "there, or set host and port"
            )
        )


def _end(code: int, adopted: StandardError) -> None:
    """Exit at once where a thread, such as one that fetches, would hold that up for ever."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join(_LAST_WORDS_S)
    left = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(thread.name == DETACHED or not thread.daemon for thread in left):
        scratch.remove()
        sys.stdout.flush()
        adopted.give_back()
        os._exit(code)


async def _serve(
    settings: Settings,
    sockets: list[socket.socket],
    reread: Callable[[], Settings],
    adopted: StandardError,
) -> AssayError | None:
    """Serve until a signal or a failed start; return the failure."""
    from assay.api import server as servers  # noqa: PLC0415  only `serve` needs HTTP

    traced = tracing.exporting() if settings.tracing else contextlib.nullcontext()
    with traced as spans, StartupDisplay(err, has_bars=not logs.is_structured()) as display:
        metrics = Metrics()
        adopted.outlet.on_loss = metrics.log_lines_dropped
        service = Service(
            settings,
            metrics,
            on_progress=display.show,
            on_failure=lambda _: setattr(server, "should_exit", True),
            on_change=servers.spare_the_collector,
        )
        server = servers.build(
            settings, service, reread, spans, is_exposed=listening.is_exposed(sockets)
        )
        async with service:
            announced = asyncio.create_task(_announce(service, server, settings))
            await server.serve(sockets)
            announced.cancel()
    return service.scorer.served.failure


async def _announce(service: Service, server: Any, settings: Settings) -> None:
    """Say where the service answers once it is ready."""
    scorer = service.scorer
    await scorer.served.ready()
    port = server.servers[0].sockets[0].getsockname()[1]
    where = (
        f"{', '.join(scorer.served.targets.asked_for)} on "
        f"{'https' if settings.tls_key else 'http'}://{in_url(settings.host)}:{port}"
        "  (docs at /docs)"
    )
    if logs.is_structured():
        logger.info("ready: %s", where)
    else:
        err.print(Text("ready", style="bold green"), where)


def in_url(host: str) -> str:
    """Return a host as a URL has it: an address of IPv6 in brackets, its zone's percent encoded."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host
