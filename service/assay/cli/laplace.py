"""`assay laplace`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from assay.cards import repository
from assay.cli.app import Config, Device, Dtype, Repository, Threads, app, run, settings_of
from assay.cli.terminal import err, out
from assay.errors import refusing
from assay.offline import laplace
from assay.telemetry import logging as logs
from assay.telemetry.startup import StartupDisplay

if TYPE_CHECKING:
    from assay.settings import Settings


@app.command("laplace")
def fit_laplace(
    reference: Annotated[
        str, typer.Argument(metavar="PATH|NAME", help="A model whose folder can be written.")
    ],
    pairs: Annotated[
        Path, typer.Argument(help="JSONL of pairs: prompt, chosen and rejected a line.")
    ],
    precision: Annotated[
        float, typer.Option("--prior-precision", min=1e-9, help="λ, the prior's precision.")
    ] = 1.0,
    device: Device = None,
    dtype: Dtype = None,
    threads: Threads = None,
    repository_folder: Repository = None,
    config: Config = None,
) -> None:
    """Fit how sure a model is of its scores: a Laplace approximation of its last layer.

    H = λI + Σ σ'(margin) z zᵀ over the pairs, of which z is the difference of what the last layer
    takes. The model answers √(φᵀH⁻¹φ) as `uncertainty` from then on, as one more head: the factor
    of H⁻¹ is written to laplace.safetensors beside the card, which names it. Fit it to pairs like
    those that the model was trained on. Scores stay as they are.
    """
    flags = {
        "device": device,
        "dtype": dtype,
        "threads": threads,
        "repository": repository_folder,
    }
    settings = settings_of(flags, config)
    logs.configure("warning")
    run(_fit(reference, pairs, settings, precision))


async def _fit(reference: str, pairs: Path, settings: Settings, precision: float) -> None:
    with refusing(reference):
        found = repository.find(reference, settings.repository)
    with StartupDisplay(err) as display:
        fitted = await laplace.fit(
            found, pairs, settings, precision=precision, on_progress=display.show
        )
    out.print(
        f"{found.folder / laplace.FILE_NAME} is fitted to {fitted.pairs} pairs; the standard "
        f"deviation of their last responses is {fitted.mean_std:.4g} in the mean"
    )
