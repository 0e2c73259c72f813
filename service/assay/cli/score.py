"""`assay score`."""

from __future__ import annotations

import asyncio
import math
import os
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from assay import bulk, wire
from assay.cli.app import (
    Config,
    Device,
    Dtype,
    Repository,
    Threads,
    app,
    run,
    settings_of,
)
from assay.cli.terminal import err, out
from assay.client.client import AsyncClient
from assay.scoring import answers
from assay.scoring.scorer import Scorer
from assay.telemetry import logging as logs
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from assay.settings import Settings


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
        tally, seconds = run(_score_remotely(file, sink, url, model, batch))
    else:
        flags = {
            "models": [model] if model else None,
            "device": device,
            "dtype": dtype,
            "threads": threads,
            "repository": repository_folder,
        }
        settings = settings_of(flags, config)
        logs.configure("warning")
        tally, seconds = run(_score_here(file, sink, settings, batch))
    _report(tally, seconds, sink)


async def _score_here(
    file: Path, sink: Path, settings: Settings, batch: int
) -> tuple[bulk.Tally, float]:
    with StartupDisplay(err) as display:
        patient = settings.model_copy(update={"max_wait_s": math.inf})  # nobody hangs up here
        scorer = Scorer(patient, Metrics(), on_progress=display.show)
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
