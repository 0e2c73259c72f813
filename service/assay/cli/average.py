"""`assay average`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import Annotated

import typer

from assay.cards import repository
from assay.cli.app import Config, Repository, app, settings_of, stop
from assay.cli.terminal import out
from assay.errors import AssayError, refusing
from assay.offline import averaging


@app.command("average")
def average_weights(
    references: Annotated[
        list[str],
        typer.Argument(metavar="PATH|NAME|HUB_ID...", help="At least two checkpoints."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write; a new one.")],
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Average the weights of fine-tunes of one model into one checkpoint.

    Weight-averaged reward models (WARM, arXiv 2401.12187): fine-tunes that began from the same
    weights, of one architecture and one tokenizer, become one model that costs one forward pass.
    Numbers are averaged in float32 and kept in their own type. The card is the first one's, without
    what was measured of it, and names all of them. What doesn't fit is refused in a sentence, and
    nothing is left of a folder that wasn't finished.
    """
    settings = settings_of({"repository": repository_folder}, config)
    try:
        found = []
        for reference in references:
            with refusing(reference):
                found.append(repository.find(reference, settings.repository))
        averaging.average(found, output)
    except AssayError as error:
        stop(error)
    out.print(f"{output} has the mean of {len(found)} checkpoints' weights")
