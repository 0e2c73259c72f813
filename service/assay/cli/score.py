"""`assay score`."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from assay import bulk, validation
from assay.cli.app import Config, Device, Dtype, Quantize, Repository, Threads, app, settings_of
from assay.cli.bulk_job import BulkJob, alone, refuse_loading
from assay.cli.terminal import err, out

if TYPE_CHECKING:
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
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="What a server serves; without --url a model to load, or what the settings name: "
            "a model, an ensemble or a composite.",
        ),
    ] = None,
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
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "threads": threads,
        "repository": repository_folder,
    }
    if url is not None:
        refuse_loading({**flags, "config": config})
    sink = output or file.with_suffix(".scores.jsonl")
    options = _options(
        include=["members", *(include or ())],
        rule=rule,
        activation=activation,
        aggregate=aggregate,
        normalize=normalize,
        truncation=truncation,
    )
    job = BulkJob(file, sink, batch, options)
    begin = time.monotonic()
    try:
        if url is not None:
            job.run_remotely(url, model)
        else:
            _run_here(job, settings_of(flags, config), model)
    except typer.Exit:
        _say_what_is_kept(job)
        raise
    _report(job, time.monotonic() - begin)
    if job.tally.errors:
        raise typer.Exit(1)


def _run_here(job: BulkJob, settings: Settings, model: str | None) -> None:
    """Score by the default of the settings, or by what they call so, or by a model to load."""
    target = settings.aliases.get(model, model) if model is not None else None
    if target is None or target in settings.ensembles or target in settings.composites:
        job.run_here(settings, target)
    else:
        job.run_here(alone(settings, target))


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


def _say_what_is_kept(job: BulkJob) -> None:
    """Say how to go on after an error or an interruption."""
    tally = job.tally
    if tally.total:
        err.print(
            f"{tally.lines} of {tally.total} lines are in {job.sink}; run the same command again "
            "to go on"
        )
    else:
        err.print("nothing was scored")


def _report(job: BulkJob, seconds: float) -> None:
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
