"""`assay models`, `assay inspect`, `assay verify`: what can be served, and whether it is right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import tomli_w
import typer
from rich.text import Text

from assay import wire
from assay.cards import catalogue, repository
from assay.cli.app import (
    Config,
    Device,
    Dtype,
    Json,
    Quantize,
    Repository,
    Threads,
    app,
    run,
    settings_of,
)
from assay.cli.terminal import err, out, table
from assay.errors import AssayError, CheckpointError, refusing
from assay.scoring import answers, inspection
from assay.scoring.call import Call
from assay.scoring.driver import drive
from assay.scoring.scorer import Scorer
from assay.telemetry import logging as logs
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.cards.card import Card, Golden
    from assay.prompts.models import Inspected, Reading
    from assay.settings import Settings

_AROUND = 4  # tokens shown before and after the one that is read
_SHOWN = 40  # characters of a golden example


@app.command("models")
def list_models(
    as_json: Json = False, repository_folder: Repository = None, config: Config = None
) -> None:
    """List the model repository and the catalogue: whose weights are here, whose are on the hub."""
    settings = settings_of({"repository": repository_folder}, config)
    folders = catalogue.folders(settings.repository)
    table(
        ("name", "gives", "weights", "summary"),
        [_listed(name, folder) for name, folder in folders.items()],
        as_json=as_json,
    )


@app.command("inspect")
def inspect_checkpoint(
    reference: Annotated[str, typer.Argument(metavar="PATH|NAME", help="What to look at.")],
    only_card: Annotated[
        bool, typer.Option("--card", help="Print the card alone, as TOML for a card.toml.")
    ] = False,
    as_json: Json = False,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Say what a checkpoint is, by its card or its files, and whether it can be served.

    Prints the card that `assay serve` would use, the tokens around the place that is read in a
    sample conversation, and every doubt. Only headers are read, never weights. Exits with code 3
    where the checkpoint can't be served as it is.
    """
    settings = settings_of({"repository": repository_folder}, config)
    form = "card" if only_card else "json" if as_json else "text"
    run(_inspect(reference, settings, form))


@app.command()
def verify(
    reference: Annotated[
        str, typer.Argument(metavar="NAME|NAME=PATH", help="A card with golden examples.")
    ],
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    threads: Threads = None,
    as_json: Json = False,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Score a card's golden examples and compare: are these the weights, the template, the head?

    Exits with code 1 where a score is off by more than its tolerance.
    """
    flags = {
        "models": [reference],
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "threads": threads,
        "repository": repository_folder,
    }
    settings = settings_of(flags, config)
    logs.configure("warning")
    if not run(_verify(settings, as_json=as_json)):
        raise typer.Exit(1)


async def _inspect(reference: str, settings: Settings, form: str) -> None:
    with refusing(reference):
        model = await inspection.find(reference, settings)
    if form == "card":
        typer.echo(_toml(model.card) or "# transformers' own class: nothing needs to be said")
    elif form == "json":
        typer.echo(json.dumps(_content(model), ensure_ascii=False, indent=2))
    else:
        _show(model)
    if model.problem is not None:
        raise model.problem
    if model.doubts:
        raise CheckpointError(
            f"{reference} isn't served until this is settled: {'; '.join(model.doubts)}. Say whose "
            f"card holds (NAME={reference}, with a NAME of `assay models`), or put the card that "
            f"--card prints, corrected, into {model.folder}/card.toml"
        )


def _show(model: Inspected) -> None:
    out.print(Text(model.name, style="bold"), "", model.family)
    for doubt in (*model.doubts, *model.notices):
        out.print(Text("doubt", style="yellow"), doubt)
    for note in model.notes:
        out.print(Text("note", style="dim"), note)
    out.print(Text("\ncard.toml", style="dim"))
    out.print(_toml(model.card) or "(empty: transformers' own class)")
    for ours, theirs in model.roles.items():
        out.print(f"the chat template calls the {ours} '{theirs}' ([template.roles])")
    if model.reading is not None:
        _show_reading(model.reading)
    elif model.no_reading:
        err.print(Text("no sample", style="yellow"), model.no_reading)


def _show_reading(reading: Reading) -> None:
    """Print the tokens around the places that are read in a sample."""
    tokens = [repr(token)[1:-1] for token in reading.tokens]
    places = ", ".join(map(str, reading.places)) or "all of them"
    out.print(f"a sample of {len(tokens)} tokens is read at {places}:")
    for place in reading.places:
        before = " ".join(tokens[max(0, place - _AROUND) : place])
        after = " ".join(tokens[place + 1 : place + 1 + _AROUND])
        out.print(" ", before, Text(tokens[place], style="bold reverse"), after)


def _content(model: Inspected) -> dict[str, Any]:
    """Return what `--json` prints."""
    reading = model.reading
    return {
        "name": model.name,
        "folder": str(model.folder),
        "family": model.family,
        "doubts": [*model.doubts, *model.notices],
        "notes": list(model.notes),
        "card": _said(model.card),
        "sample": reading and {"tokens": reading.tokens, "read_positions": reading.places},
        "error": model.problem and model.problem.message,
    }


def _said(card: Card) -> dict[str, Any]:
    return card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)


def _toml(card: Card) -> str:
    return tomli_w.dumps(_said(card)).rstrip()


async def _verify(settings: Settings, *, as_json: bool) -> bool:
    """Return whether every golden example has its score."""
    with StartupDisplay(err) as display:
        scorer = Scorer(settings, Metrics(), on_progress=display.show)
        async with scorer:
            await scorer.served.ready()
            golden = scorer.served.targets.default.card.golden
            if not golden:
                raise CheckpointError(
                    f"the card of '{settings.models[0]}' has no golden examples to compare with"
                )
            request = wire.ScoreRequest(inputs=[wire.Item(**_item(example)) for example in golden])
            call = Call(scorer, scorer.target(None), request, "score")
            answer = (await drive(answers.score(call, request, "verify"))).whole()
    rows: list[Sequence[str | Text]] = []
    are_right = True
    for example, entry in zip(golden, answer.data, strict=True):
        off = abs((entry.score or 0.0) - example.score)
        is_right = off <= example.tolerance
        are_right &= is_right
        numbers = (example.score, entry.score, off, example.tolerance)
        rows.append(
            (
                (example.response or example.text or " ".join(example.steps or []))[:_SHOWN],
                *(f"{number:.4f}" for number in numbers),
                Text("right", style="green") if is_right else Text("wrong", style="red"),
            )
        )
    head = ("example", "expected", "scored", "off by", "allowed", "verdict")
    table(head, rows, as_json=as_json)
    return are_right


def _listed(name: str, folder: Path) -> Sequence[str]:
    """Return the row of `assay models` for one folder."""
    try:
        card = catalogue.read(folder)
    except AssayError as error:
        return name, "unusable", "", error.message
    weights = "here" if repository.has_weights(folder, card) else _origin(card)
    return name, _kind(card), weights, card.summary or ""


def _item(golden: Golden) -> dict[str, Any]:
    said = golden.model_dump(exclude_none=True)
    return {name: said[name] for name in ("prompt", "response", "steps", "text") if name in said}


def _kind(card: Card) -> str:
    if card.ensemble is not None:
        return f"an ensemble of {len(card.folders or card.score.outputs)}"
    if card.preference is not None:
        return "preferences"
    if card.policy is not None:
        return "a policy's ratio"
    if card.steps is not None:
        return "a score a step"
    named = len(card.score.outputs)
    return f"a score, {named} attributes" if named else "a score"


def _origin(card: Card) -> str:
    if card.source is None:
        return "yours: NAME=PATH"
    return card.source.id + (f"@{card.source.revision}" if card.source.revision else "")
