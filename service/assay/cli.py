"""The command line: `assay serve`, `assay score`, `assay models`, `assay config`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from assay import __version__, bulk, wire
from assay.cards import repository
from assay.client.client import AsyncClient
from assay.errors import AssayError, StartupError
from assay.scoring import answers
from assay.scoring.scorer import Scorer
from assay.settings import Settings, load
from assay.telemetry import logging as logs
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_STARTUP = 3
_LONGEST_VALUE = 60

app = typer.Typer(
    name="assay",
    help="Serve reward models over HTTP: exact scores, packed batches, ensembles with uncertainty.",
    epilog="Try: assay serve, then curl http://127.0.0.1:8000/docs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME|PATH|HUB_ID]...",
        help="What to serve: a folder of the model repository, a checkpoint folder, or "
        "org/name[@revision]. Default: the embedded starter ensemble. The first is the default "
        "target of requests.",
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default assay.toml if it exists.")
]
Repository = Annotated[
    Path | None, typer.Option("--repository", help="Model repository: one folder a model.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N, or a comma-separated list.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads of a worker.")]


def _version(value: bool) -> None:
    if value:
        out.print(f"assay {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve reward models over HTTP."""


@app.command()
def serve(
    models: Models = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; default 8000.")] = None,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Load models and answer over HTTP.

    Every flag can be set in `assay.toml` or as `ASSAY_...`; see `assay config`. Exits with code 3
    when a model can't be loaded correctly.
    """
    flags = {
        "models": models,
        "host": host,
        "port": port,
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "repository": repository_folder,
    }
    settings = _settings(flags, config)
    logs.configure(settings.log_level)
    from assay.api import server as servers  # noqa: PLC0415  only `serve` needs HTTP

    failure = _run(_serve(settings), servers.loop_factory())
    if failure is not None:
        _stop(failure)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSONL to score.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSONL to write; default FILE with .scores.jsonl."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A running server; without it the model is loaded here."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Served model or ensemble.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Lines a request.")] = 128,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Score a JSONL file: an item or a comparison a line, an answer a line, order kept.

    A line is an item as `POST /score` takes it (`prompt` with `response`, `messages`, `text`,
    `input_ids`), or a comparison (`prompt` with `chosen` and `rejected`, or with `responses`). Run
    the same command again to go on after an interruption. `ASSAY_API_KEY` is sent to `--url`.
    """
    sink = output or file.with_suffix(".scores.jsonl")
    if url is not None:
        tally, seconds = _run(_score_remotely(file, sink, url, model, batch))
    else:
        flags = {
            "models": [model] if model else None,
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "repository": repository_folder,
        }
        settings = _settings(flags, config)
        logs.configure("warning")
        tally, seconds = _run(_score_here(file, sink, settings, batch))
    _report(tally, seconds, sink)


@app.command("models")
def list_models(repository_folder: Repository = None, config: Config = None) -> None:
    """List the model repository and the models that come with Assay."""
    settings = _settings({"repository": repository_folder}, config)
    table = Table("name", "kind", "summary", box=None)
    for name in repository.available(settings.repository):
        try:
            source = repository.resolve(name, settings.repository)
        except AssayError as error:
            table.add_row(name, "unusable", error.message)
            continue
        kind = f"ensemble of {len(source.checkpoints)}" if source.is_ensemble else "model"
        table.add_row(name, kind, source.card.summary or "")
    out.print(table)


@app.command("config")
def show_config(config: Config = None) -> None:
    """Print the effective settings, where each came from and what it means."""
    settings, origins = _loaded({}, config)
    table = Table("setting", "value", "from", "meaning", box=None)
    for name, field in Settings.model_fields.items():
        value = str(getattr(settings, name))[:_LONGEST_VALUE]
        table.add_row(name, value, origins[name], field.description or "")
    out.print(table)


async def _serve(settings: Settings) -> AssayError | None:
    """Serve until a signal or a failed start; return the failure."""
    from assay.api import server as servers  # noqa: PLC0415  only `serve` needs HTTP

    with StartupDisplay() as display:
        scorer = Scorer(
            settings,
            Metrics(),
            on_progress=display.show,
            on_failure=lambda _: setattr(server, "should_exit", True),
        )
        server = servers.build(settings, scorer)
        async with scorer:
            announced = asyncio.create_task(_announce(scorer, server, settings))
            await server.serve()
            announced.cancel()
    return scorer.failure


async def _announce(scorer: Scorer, server: Any, settings: Settings) -> None:
    """Say where the service answers once it is ready."""
    await scorer.ready()
    port = server.servers[0].sockets[0].getsockname()[1]
    served = ", ".join(name for name in scorer.targets.by_name if "/" not in name)
    err.print(
        f"[bold green]ready[/] {served or scorer.targets.default.name} on "
        f"http://{settings.host}:{port}  (docs at /docs)",
        highlight=False,
    )


async def _score_here(
    file: Path, sink: Path, settings: Settings, batch: int
) -> tuple[bulk.Tally, float]:
    with StartupDisplay() as display:
        scorer = Scorer(settings, Metrics(), on_progress=display.show)
        async with scorer:
            await scorer.ready()
            return await _score_with(file, sink, _Here(scorer), None, batch)


async def _score_remotely(
    file: Path, sink: Path, url: str, model: str | None, batch: int
) -> tuple[bulk.Tally, float]:
    key = os.environ.get("ASSAY_API_KEY", "").split(",")[0].strip() or None
    async with AsyncClient(url, api_key=key) as client:
        return await _score_with(file, sink, client, model, batch)


async def _score_with(
    file: Path, sink: Path, service: bulk.Service, model: str | None, batch: int
) -> tuple[bulk.Tally, float]:
    with file.open("rb") as lines:
        total = sum(1 for _ in lines)
    done = bulk.finished_lines(sink)
    bars = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} tokens/s"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
    )
    begin = asyncio.get_running_loop().time()
    tokens_done = 0
    with bars:
        task = bars.add_task("scoring", total=total, completed=done, rate="-")

        def advance(lines: int, tokens: int) -> None:
            nonlocal tokens_done
            tokens_done += tokens
            seconds = asyncio.get_running_loop().time() - begin
            bars.update(task, advance=lines, rate=f"{tokens_done / max(seconds, 1e-9):,.0f}")

        tally = await bulk.run(file, sink, service, model=model, batch_lines=batch, on_done=advance)
    return tally, asyncio.get_running_loop().time() - begin


class _Here:
    """The scorer of this process behind the client's two calls."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def score(self, request: wire.ScoreRequest) -> wire.ScoreAnswer:
        return await answers.score(self._scorer, request, "score")

    async def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        return await answers.compare(self._scorer, request, "compare")


def _report(tally: bulk.Tally, seconds: float, sink: Path) -> None:
    rate = tally.tokens / max(seconds, 1e-9)
    out.print(
        f"{tally.lines} lines, {tally.tokens:,} tokens in {seconds:.1f} s "
        f"({rate:,.0f} tokens/s), {tally.errors} errors -> {sink}",
        highlight=False,
        soft_wrap=True,
    )
    for code, count in tally.codes.most_common():
        out.print(f"  {count} × {code}", highlight=False)
    if tally.accuracy is not None:
        out.print(f"accuracy {tally.accuracy:.4f} over {tally.pairs} pairs", highlight=False)
    for agreement, won in sorted(tally.by_agreement.items(), reverse=True):
        out.print(
            f"  agreement {agreement:.2f}: {sum(won) / len(won):.4f} over {len(won)}",
            highlight=False,
        )


def _settings(flags: dict[str, Any], config: Path | None) -> Settings:
    return _loaded(flags, config)[0]


def _loaded(flags: dict[str, Any], config: Path | None) -> tuple[Settings, dict[str, str]]:
    try:
        return load({key: value for key, value in flags.items() if value != []}, config)
    except AssayError as error:
        _stop(error)


def _run(work: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    """Run a coroutine; a foreseen error becomes one line and an exit code."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(work)
    except AssayError as error:
        _stop(error)
    except httpx.TransportError as error:
        err.print(f"[bold red]error[/] the server can't be reached: {error}", highlight=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _stop(error: AssayError) -> NoReturn:
    err.print(f"[bold red]error[/] {error.message}", highlight=False, soft_wrap=True)
    raise typer.Exit(EXIT_STARTUP if isinstance(error, StartupError) else 1)
