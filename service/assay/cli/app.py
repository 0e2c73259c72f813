"""The command itself, the options that several of its verbs share, and how they end."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.text import Text

from assay import __version__
from assay.cli.terminal import err, out
from assay.errors import AssayError, StartupError
from assay.settings import Settings, load
from assay.telemetry import logging as logs

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

EXIT_STARTUP = 3
logger = logging.getLogger("assay.cli")

app = typer.Typer(
    name="assay",
    help="Serve reward models over HTTP: exact scores, packed batches, ensembles with uncertainty.",
    epilog="Try: assay serve, then curl http://127.0.0.1:8000/docs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown" if err.is_terminal else None,  # boxes would cut what is in them
    pretty_exceptions_enable=False,
)

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME|PATH|HUB_ID]...",
        help="What to serve: a folder of the model repository, a checkpoint folder, or "
        "org/name[@revision]. Default: the embedded starter ensemble. The first is the default "
        "target of requests.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="NAME=PATH",
        help="Serve PATH (or a hub id, or CARD=PATH) under NAME; may be repeated.",
    ),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings file; default assay.toml if it exists.")
]
Repository = Annotated[
    Path | None, typer.Option("--repository", help="Model repository: one folder a model.")
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto (every GPU), cpu, cuda, cuda:N, or a list.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Quantize = Annotated[
    str | None,
    typer.Option("--quantize", help="auto (as the card says), none, int8 or fp8 (GPU)."),
]
Trusted = Annotated[
    list[str] | None,
    typer.Option(
        "--trust-remote-code",
        metavar="NAME@DIGEST",
        help="Run this one model's own code, if this is its digest: assay inspect prints it. "
        "Read the code first.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Threads = Annotated[int | None, typer.Option("--threads", help="CPU threads of a worker.")]


def _version(value: bool) -> None:
    if value:
        out.print(f"assay {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Serve reward models over HTTP."""


def settings_of(flags: dict[str, Any], config: Path | None) -> Settings:
    """Return the effective settings, or end with the reason why there are none."""
    return loaded(flags, config)[0]


def loaded(flags: dict[str, Any], config: Path | None) -> tuple[Settings, dict[str, str]]:
    """Return the effective settings, and where each came from."""
    try:
        return load(given(flags), config)
    except AssayError as error:
        stop(error)


def names_of(options: list[str] | None) -> dict[str, str] | None:
    """Return what `--name` was given, by name; None if it wasn't.

    Raises:
        typer.BadParameter: One isn't NAME=PATH, or a name is given twice.
    """
    references: dict[str, str] = {}
    for option in options or ():
        name, _, reference = option.partition("=")
        if not name or not reference:
            raise typer.BadParameter(f"'{option}' is not NAME=PATH", param_hint="--name")
        if references.setdefault(name, reference) != reference:
            raise typer.BadParameter(f"'{name}' is given twice", param_hint="--name")
    return references or None


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that say something: an option that may be repeated is a list."""
    return {key: value for key, value in flags.items() if value != []}


def run(work: Any, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> Any:
    """Run a coroutine; a foreseen error becomes one line and an exit code."""
    try:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            return runner.run(_until_interrupted(work))
    except AssayError as error:
        stop(error)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _until_interrupted(work: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine; a first interruption cancels it, a second one ends the process.

    The loop takes the signal, which wakes it. The runner's own handler runs once something else
    does, where the signal came while the loop went to sleep, or to another thread.
    """
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)

    def interrupt() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        task.cancel()

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def stop(error: AssayError) -> NoReturn:
    """Print an error in one line and end with its exit code."""
    if logs.is_structured():
        logger.error(error.message)
    else:
        err.print(Text("error", style="bold red"), error.message)
    raise typer.Exit(EXIT_STARTUP if isinstance(error, StartupError) else 1)
