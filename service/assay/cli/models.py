"""`assay models`, `assay inspect`, `assay verify`: what can be served, and whether it is right."""

from __future__ import annotations

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
    Repository,
    Threads,
    app,
    run,
    settings_of,
)
from assay.cli.terminal import err, out, table
from assay.engine import notices
from assay.engine.template import Rendered, Template
from assay.errors import AssayError, CheckpointError
from assay.scoring import answers
from assay.scoring.scorer import Scorer
from assay.scoring.targets import check, sample
from assay.telemetry import logging as logs
from assay.telemetry.metrics import Metrics
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.cards.card import Card, Golden
    from assay.settings import Settings

_AROUND = 4  # tokens shown before and after the one that is read
_SHOWN = 40  # characters of a golden example


@app.command("models")
def list_models(repository_folder: Repository = None, config: Config = None) -> None:
    """List the model repository and the catalogue: whose weights are here, whose are on the hub."""
    settings = settings_of({"repository": repository_folder}, config)
    folders = catalogue.folders(settings.repository)
    table(
        ("name", "gives", "weights", "summary"),
        [_listed(name, folder) for name, folder in folders.items()],
    )


@app.command("inspect")
def inspect_checkpoint(
    reference: Annotated[str, typer.Argument(metavar="PATH|NAME", help="What to look at.")],
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Say what a checkpoint is, by its card or its files, and where it would be read.

    Prints the card that `assay serve` would use, the tokens around the place that is read in a
    sample conversation, and every doubt. Only headers are read, never weights. Exits with code 3
    where the checkpoint can't be served as it is.
    """
    settings = settings_of({"repository": repository_folder}, config)
    run(_inspect(reference, settings))


@app.command()
def verify(
    reference: Annotated[
        str, typer.Argument(metavar="NAME|NAME=PATH", help="A card with golden examples.")
    ],
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
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
        "threads": threads,
        "repository": repository_folder,
    }
    settings = settings_of(flags, config)
    logs.configure("warning")
    if not run(_verify(settings)):
        raise typer.Exit(1)


async def _inspect(reference: str, settings: Settings) -> None:
    found = repository.find(reference, settings.repository)
    out.print(Text(found.name, style="bold"), "", found.family)
    for doubt in found.doubts:
        out.print(Text("doubt", style="yellow"), doubt)
    for note in found.notes:
        out.print(Text("note", style="dim"), note)
    said = found.card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    out.print(Text("\ncard.toml", style="dim"))
    out.print(tomli_w.dumps(said) or "(empty: transformers' own class)")
    if found.card.ensemble is None:
        one = repository.checkpoint(found)
        template = Template(one.tokenizer_folder, found.card, config_folder=one.config_folder)
        for notice in notices.of(template, check(template, found.card)):
            out.print(Text("doubt", style="yellow"), notice)
        _show_roles(template)
        _show_reading(template, found.card)
    if found.doubts:
        raise CheckpointError(
            f"{reference} isn't served until this is settled: say whose card holds "
            f"(NAME={reference}, with a NAME of `assay models`), or put the card above, corrected, "
            f"into {found.folder}/card.toml"
        )


def _show_roles(template: Template) -> None:
    """Print what the chat template calls the roles, where that isn't what everybody calls them."""
    for ours, theirs in template.roles.items():
        out.print(f"the chat template calls the {ours} '{theirs}' ([template.roles])")


def _show_reading(template: Template, card: Card) -> None:
    """Print the tokens around the places that are read in a sample."""
    (rendered,) = template.render_all([sample(card)])
    if not isinstance(rendered, Rendered):
        err.print(Text("no sample", style="yellow"), rendered.message)
        return
    tokens = [repr(token)[1:-1] for token in template.tokens(rendered.ids.tolist())]
    last = len(tokens) - 1
    first = card.read is not None and card.read.at == "first"
    places = [0 if first else last]
    if rendered.marks is not None:
        places = rendered.marks.positions.tolist()
    out.print(f"a sample of {len(tokens)} tokens is read at {', '.join(map(str, places))}:")
    for place in places:
        before = " ".join(tokens[max(0, place - _AROUND) : place])
        after = " ".join(tokens[place + 1 : place + 1 + _AROUND])
        out.print(" ", before, Text(tokens[place], style="bold reverse"), after)


async def _verify(settings: Settings) -> bool:
    """Return whether every golden example has its score."""
    with StartupDisplay(err) as display:
        scorer = Scorer(settings, Metrics(), on_progress=display.show)
        async with scorer:
            await scorer.ready()
            golden = scorer.targets.default.card.golden
            if not golden:
                raise CheckpointError(
                    f"the card of '{settings.models[0]}' has no golden examples to compare with"
                )
            request = wire.ScoreRequest(inputs=[wire.Item(**_item(one)) for one in golden])
            answer = await answers.score(scorer, request, "verify")
    rows: list[Sequence[str | Text]] = []
    are_right = True
    for one, entry in zip(golden, answer.data, strict=True):
        off = abs((entry.score or 0.0) - one.score)
        is_right = off <= one.tolerance
        are_right &= is_right
        numbers = (one.score, entry.score, off, one.tolerance)
        rows.append(
            (
                (one.response or one.text or " ".join(one.steps or []))[:_SHOWN],
                *(f"{number:.4f}" for number in numbers),
                Text("right", style="green") if is_right else Text("wrong", style="red"),
            )
        )
    table(("example", "expected", "scored", "off by", "allowed", "verdict"), rows)
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
        return f"an ensemble of {len(card.ensemble.members)}"
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
