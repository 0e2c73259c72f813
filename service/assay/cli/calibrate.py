"""`assay calibrate`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from assay import bulk
from assay.calibration import extra, measured, overlay, pairs, plot, procedure
from assay.cards import calibration as cards
from assay.cli.app import (
    Config,
    Device,
    Dtype,
    Json,
    Quantize,
    Repository,
    Threads,
    app,
    settings_of,
    stop,
)
from assay.cli.bulk_job import BulkJob, alone, refuse_loading
from assay.cli.terminal import err, out
from assay.errors import AssayError, InvalidField
from assay.reward.covariates import Covariate

if TYPE_CHECKING:
    from assay.settings import Settings

_RATES = "0.05,0.1,0.2"


@app.command()
def calibrate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What to calibrate: a name, folder or hub id as `assay serve` takes it, an "
            "ensemble or composite of the settings, or a name that --url serves.",
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS", exists=True, dir_okay=False, help="JSONL with labels, gzipped or not."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; default beside the target's card."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A running server; without it the model is loaded here."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which prompts are held out, and the intervals.")] = 0,
    alpha: Annotated[
        str, typer.Option("--alpha", help="Error rates to abstain at, comma-separated.")
    ] = _RATES,
    covariate: Annotated[
        str, typer.Option(help="What to control for: characters, markdown or list_items.")
    ] = "characters",
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Picture of the reliability diagrams to write.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Most lines a request.")] = 128,
    as_json: Json = False,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Fit how far a target's rewards can be trusted, on labelled pairs, and say how well it does.

    A line of PAIRS is a pair (`prompt`, `chosen`, `rejected`), a labelled response (`prompt`,
    `response`, `label` 0 or 1) or a response with a `score`, of which the higher one of a prompt is
    chosen. Half of the prompts are fitted on, the report is of the others. What is written:
    probabilities of preference, of being acceptable where there are labels, absolute rewards where
    several responses to a prompt are compared, thresholds to abstain at, and length control. A
    server of that target takes it up when it starts.
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
        if output is None:
            raise typer.BadParameter(
                "the server's folders aren't here; say where to write", param_hint="--output"
            )
    options = procedure.Options(seed, _rates(alpha), _covariate(covariate))
    settings = None if url is not None else settings_of(flags, config)
    try:
        extra.check(*(["matplotlib"] if plot_file else []))
        examples = pairs.read(file)
        if not examples:
            raise InvalidField(f"{file} has no lines; give labelled pairs")
        procedure.check(examples, options)
        place = _Place(output)
        with TemporaryDirectory(prefix="assay-") as folder:
            job = BulkJob(
                Path(folder) / "pairs.jsonl",
                Path(folder) / "scores.jsonl",
                batch,
                bulk.Options(),
                before=place.settle,
            )
            pairs.write(examples, job.file)
            answered = _score(job, target, url, settings)
            answers = [json.loads(line) for line in job.sink.read_bytes().splitlines()]
        found = measured.measured(examples, answers)
        fitted, said = procedure.calibrate(found, answered, file.name, options)
        if plot_file:
            plot.draw(said, plot_file)
        overlay.write(fitted, place.path)
    except AssayError as error:
        stop(error)
    _print(said, place.path, as_json=as_json)


def _score(job: BulkJob, target: str, url: str | None, settings: Settings | None) -> bulk.Target:
    """Have a target score the pairs; what was fitted for it before is left out."""
    if settings is None:
        assert url is not None
        return job.run_remotely(url, target)
    target = settings.aliases.get(target, target)
    if target in settings.ensembles or target in settings.composites:
        return job.run_here(_without_others(settings, target), target, is_calibrated=False)
    return job.run_here(alone(settings, target), is_calibrated=False)


def _without_others(settings: Settings, target: str) -> Settings:
    """Return settings without other composites: one may wait for what is to be fitted here."""
    composites = {name: one for name, one in settings.composites.items() if name == target}
    left_out = settings.composites.keys() - composites.keys()
    return settings.model_copy(
        update={
            "composites": composites,
            "aliases": {alias: of for alias, of in settings.aliases.items() if of not in left_out},
            "calibrations": {
                name: path
                for name, path in settings.calibrations.items()
                if settings.aliases.get(name, name) not in left_out
            },
        }
    )


@dataclass(slots=True)
class _Place:
    """Where to write: what was said, or beside the card of who answers."""

    output: Path | None

    def settle(self, answered: bulk.Target, folder: Path | None) -> None:
        """Find where to write, and that it can be, before anything is scored.

        Raises:
            InvalidField: It can't, or the target can't be calibrated.
        """
        if answered.only_compares:
            raise InvalidField(
                f"'{answered.model}' gives probabilities of winning, not scores; there is nothing "
                "to calibrate"
            )
        if self.output is None:
            if folder is None:
                raise InvalidField(
                    f"'{answered.model}' has no folder of its own; say where to write with "
                    "--output, and serve it by the setting 'calibrations'"
                )
            self.output = folder / cards.FILE_NAME
        overlay.check(self.output)

    @property
    def path(self) -> Path:
        """The file."""
        assert self.output is not None
        return self.output


def _rates(text: str) -> tuple[float, ...]:
    """Return the error rates of `--alpha`, each once, from the lowest."""
    try:
        rates = sorted({float(part) for part in text.split(",")})
    except ValueError:
        rates = []
    if not 0 < len(rates) <= cards.MOST_RATES or not all(0 < rate < 1 for rate in rates):
        raise typer.BadParameter(
            f"give up to {cards.MOST_RATES} numbers between 0 and 1, such as {_RATES}",
            param_hint="--alpha",
        )
    return tuple(rates)


def _covariate(name: str) -> Covariate:
    if name not in get_args(Covariate):
        raise typer.BadParameter(
            f"it is one of {', '.join(get_args(Covariate))}", param_hint="--covariate"
        )
    return name  # type: ignore[return-value]


# --- the report -------------------------------------------------------------------------------


def _print(said: procedure.Report, path: Path, *, as_json: bool) -> None:
    if as_json:
        return out.print(json.dumps({**said, "file": str(path)}, indent=2))
    counts = said["counts"]
    out.print(
        f"'{said['target']}' at revision {said['revision']}: {counts['prompts']} prompts, "
        f"{counts['pairs_fitted']} pairs and {counts['labels_fitted']} labels fitted on, "
        f"{counts['pairs_held_out']} and {counts['labels_held_out']} held out"
    )
    for code, count in said["errors"].items():
        err.print(f"left out: {count} × {code}")
    _print_fitted(said)
    length = said["length"]
    for name, (before, after) in (
        (name, length[name])
        for name in ("spearman", "longer_wins", "accuracy", "balanced")
        if name in length
    ):
        out.print(f"{length['covariate']} controlled: {name} {before:.4f} -> {after:.4f}")
    spans = [f"{low:.4f} to {high:.4f}" for low, high in length["spearman_intervals"]]
    out.print(f"  spearman's intervals: {' -> '.join(spans)}")
    return out.print(f"calibration {said['id']} -> {path}")


def _print_fitted(said: dict[str, Any]) -> None:
    for kind in ("preference", "acceptable"):
        if kind in said:
            part = said[kind]
            out.print(f"{kind}: {part.get('method', 'venn-abers')}, {part['held_out']} held out")
            for name in ("nll", "brier", "ece"):
                before, after = part["before"][name], part["after"][name]
                out.print(f"  {name} {_figure(before)} -> {_figure(after)}")
            if not part["helps"]:
                out.print("  no gain that the held-out part shows")
    if absolute := said.get("absolute"):
        out.print(
            f"absolute: {absolute['slope']:.4g} * score + {absolute['intercept']:.4g}, "
            f"{absolute['held_out']} responses held out; rmse {_figure(absolute['constant'])} -> "
            f"{_figure(absolute['rmse'])}, Spearman {_figure(absolute['spearman'])}"
        )
    for one in said.get("abstention", ()):
        low, high = one["interval"]
        out.print(
            f"abstain at {one['error_rate']:g}: |margin| <= {one['margin']:.4g}; coverage "
            f"{one['coverage']:.4f} ({low:.4f}-{high:.4f}), {one['decided']:.2f} decided, of "
            f"these {one['wrong']:.4f} wrong"
        )
    for name, found in said.get("uncertainty", {}).get("auroc", {}).items():
        if found is not None:
            out.print(f"AUROC of {name} against error {_figure(found)}")


def _figure(figure: dict[str, Any]) -> str:
    low, high = figure["interval"]
    return f"{figure['value']:.4f} ({low:.4f}-{high:.4f})"
