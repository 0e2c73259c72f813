"""`assay score`."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from assay import bulk, validation, wire
from assay.cli.app import (
    Config,
    Device,
    Dtype,
    Quantize,
    Repository,
    Threads,
    app,
    run,
    settings_of,
)
from assay.cli.terminal import err, out
from assay.client.client import AsyncClient
from assay.prompts import loader
from assay.scheduling import workers
from assay.scoring import answers
from assay.scoring.call import Call
from assay.scoring.driver import drive
from assay.scoring.scorer import Scorer
from assay.telemetry import logging as logs
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assay.settings import Settings


@app.command()
def score(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="JSONL to score, gzipped or not.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="JSONL to write; default FILE with .scores.jsonl."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A running server; without it the model is loaded here."),
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Served model or ensemble.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most lines a request.")] = 128,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="What else to answer, such as tokens; may be repeated."),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option("--rule", help="Pick the best of lines with `responses` by this rule."),
    ] = None,
    activation: Annotated[
        str, typer.Option("--activation", help="none, or sigmoid: of reported scores.")
    ] = "none",
    aggregate: Annotated[
        str | None,
        typer.Option("--aggregate", help="last, min, prod, mean: of steps; default the card's."),
    ] = None,
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Apply the card's stored mean and std.")
    ] = False,
    truncation: Annotated[
        str | None,
        typer.Option(
            "--truncation",
            help="What is cut over the limit: prompt_start, response_end, longest_first.",
        ),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Score a JSONL file: an item or a comparison a line, an answer a line, order kept.

    A line is an item as `POST /score` takes it (`prompt` with `response`, `messages`, `text`,
    `input_ids`), or a comparison (`prompt` with `chosen` and `rejected`, or with `responses`); with
    `--rule`, or `chains`, a group for `POST /best-of-n`. Blank lines are skipped. Run the same
    command again to go on after an interruption: what was scored by another model or revision, of
    another input or with other options isn't mixed. `ASSAY_API_KEY` is sent to `--url`. Exits with
    code 1 where a line has an error.
    """
    flags = {
        "models": [model] if model else None,
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "threads": threads,
        "repository": repository_folder,
    }
    if url is not None:
        _refuse_loading({**flags, "models": None, "config": config})
    sink = output or file.with_suffix(".scores.jsonl")
    options = _options(
        include=["members", *(include or ())],
        rule=rule,
        activation=activation,
        aggregate=aggregate,
        normalize=normalize,
        truncation=truncation,
    )
    job = _Job(file, sink, batch, options)
    begin = time.monotonic()
    try:
        if url is not None:
            run(_score_remotely(job, url, model))
        else:
            settings = settings_of(flags, config)
            logs.configure("warning")
            with workers.ahead(settings.worker_variables), loader.ahead():
                run(_score_here(job, settings))
    except typer.Exit:
        _say_what_is_kept(job)
        raise
    _report(job, time.monotonic() - begin)
    if job.tally.errors:
        raise typer.Exit(1)


def _refuse_loading(flags: Mapping[str, object]) -> None:
    """Refuse what says how a model is loaded here, where a server has loaded it."""
    for name, value in flags.items():
        if value is not None:
            raise typer.BadParameter(
                "it says how a model is loaded here, and the server at --url has loaded its own; "
                "leave one of the two out",
                param_hint=f"--{name}",
            )


@dataclass(frozen=True, slots=True)
class _Job:
    """What to score, where to, how, and how far it has come."""

    file: Path
    sink: Path
    batch: int
    options: bulk.Options
    tally: bulk.Tally = field(default_factory=bulk.Tally)

    async def run(self, service: bulk.Service, model: str | None) -> None:
        """Score what isn't yet, and show how far it has come."""
        with _bars() as bars:
            task = bars.add_task("scoring", total=None, rate="-")
            begin = time.monotonic()

            def advance(_lines: int, _tokens: int) -> None:
                rate = self.tally.tokens / max(time.monotonic() - begin, 1e-9)
                done, total = self.tally.lines, self.tally.total
                bars.update(task, completed=done, total=total, rate=f"{rate:,.0f}")

            await bulk.run(
                self.file,
                self.sink,
                service,
                model=model,
                batch_lines=self.batch,
                options=self.options,
                tally=self.tally,
                on_done=advance,
            )


def _bars() -> Progress:
    return Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} tokens/s", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=not err.is_terminal,
    )


def _options(*, include: list[str], **fields: object) -> bulk.Options:
    """Return what to ask beside the lines.

    Raises:
        typer.BadParameter: There is no such choice.
    """
    try:
        return bulk.Options.model_validate({"include": list(dict.fromkeys(include)), **fields})
    except ValidationError as error:
        location, said = validation.first(error, bulk.Options)
        raise typer.BadParameter(said, param_hint=f"--{location[0]}") from None


async def _score_here(job: _Job, settings: Settings) -> None:
    with StartupDisplay(err) as display:
        patient = settings.model_copy(update={"max_wait_s": math.inf})  # nobody hangs up here
        scorer = Scorer(patient, Metrics(), on_progress=display.show)
        async with scorer:
            await job.run(_Here(scorer), None)


async def _score_remotely(job: _Job, url: str, model: str | None) -> None:
    key = os.environ.get("ASSAY_API_KEY", "").split(",")[0].strip() or None
    async with AsyncClient(url, api_key=key) as client:
        await job.run(bulk.Remote(client), model)


class _Here:
    """The scorer of this process behind the client's calls."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def target(self, model: str | None) -> bulk.Target:
        await self._scorer.served.ready()
        target = self._scorer.target(model)
        loaded = self._scorer.served.loaded(target.members[0])
        return bulk.Target(
            model=target.name,
            revision=target.revision,
            dtype=loaded.dtype if loaded else None,
            only_compares=target.only_compares,
        )

    async def score(self, request: wire.ScoreRequest) -> wire.ScoreAnswer:
        call = self._call(request, "score")
        return (await drive(answers.score(call, request, "score"))).whole()

    async def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        call = self._call(request, "compare")
        return (await drive(answers.compare(call, request, "compare"))).whole()

    async def best_of_n(self, request: wire.BestOfNRequest) -> wire.BestOfNAnswer:
        call = self._call(request, "best-of-n")
        return (await drive(answers.best_of_n(call, request, "best-of-n"))).whole()

    def _call(self, request: wire.Options, route: str) -> Call:
        return Call(self._scorer, self._scorer.target(request.model), request, route)


def _say_what_is_kept(job: _Job) -> None:
    """Say how to go on after an error or an interruption."""
    tally = job.tally
    if tally.total:
        err.print(
            f"{tally.lines} of {tally.total} lines are in {job.sink}; run the same command again "
            "to go on"
        )
    else:
        err.print("nothing was scored")


def _report(job: _Job, seconds: float) -> None:
    tally = job.tally
    rate = tally.tokens / max(seconds, 1e-9)
    now = "" if tally.new == tally.lines else f" ({tally.new} of them now)"
    out.print(
        f"{tally.lines} lines{now}, {tally.tokens:,} tokens in {seconds:.1f} s "
        f"({rate:,.0f} tokens/s), {tally.errors} errors -> {job.sink}"
    )
    for code, count in tally.codes.most_common():
        number, reason = tally.first[code]
        out.print(f"  {count} × {code}, the first at line {number}: {reason}")
    if tally.accuracy is not None:
        out.print(f"accuracy {tally.accuracy:.4f} over {tally.pairs} pairs")
    for agreement, (pairs, won) in sorted(tally.by_agreement.items(), reverse=True):
        out.print(f"  agreement {agreement:.2f}: {won / pairs:.4f} over {pairs:.0f}")
