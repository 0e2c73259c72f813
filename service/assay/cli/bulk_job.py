"""A file that is scored: by a server, or by a model that is loaded here for as long."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from assay import bulk
from assay.cli.app import run
from assay.cli.terminal import err
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
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from assay import wire
    from assay.settings import Settings


def refuse_loading(flags: Mapping[str, object]) -> None:
    """Refuse what says how a model is loaded here, where a server has loaded it."""
    for name, value in flags.items():
        if value is not None:
            raise typer.BadParameter(
                "it says how a model is loaded here, and the server at --url has loaded its own; "
                "leave one of the two out",
                param_hint=f"--{name}",
            )


def alone(settings: Settings, target: str) -> Settings:
    """Return the settings with one model alone: what `names` calls so, or a reference."""
    reference = settings.names.get(target, target)
    combined: dict[str, Any] = {name: {} for name in ("aliases", "ensembles", "composites")}
    own = {
        name: path
        for name, path in settings.calibrations.items()
        if settings.aliases.get(name, name) == target
    }
    names = {target: reference} if target in settings.names else {}
    return settings.model_copy(
        update={**combined, "models": (reference,), "names": names, "calibrations": own}
    )


@dataclass(slots=True)
class BulkJob:
    """What to score, where to, how, and how far it has come.

    `before` hears who will answer, and of what is loaded here where its card is.
    """

    file: Path
    sink: Path
    batch: int
    options: bulk.Options
    tally: bulk.Tally = field(default_factory=bulk.Tally)
    before: Callable[[bulk.Target, Path | None], None] | None = None

    def run_remotely(self, url: str, model: str | None) -> bulk.Target:
        """Have a running server score the file; return who answered."""
        answered: bulk.Target = run(self._remotely(url, model))
        return answered

    def run_here(
        self, settings: Settings, model: str | None = None, *, is_calibrated: bool = True
    ) -> bulk.Target:
        """Load what the settings name, and score the file by one of its targets; return that."""
        logs.configure("warning")
        with workers.ahead(settings.worker_variables), loader.ahead():
            answered: bulk.Target = run(self._here(settings, model, is_calibrated=is_calibrated))
            return answered

    async def _remotely(self, url: str, model: str | None) -> bulk.Target:
        key = os.environ.get("ASSAY_API_KEY", "").split(",")[0].strip() or None
        async with AsyncClient(url, api_key=key) as client:
            return await self._run(bulk.Remote(client), model, None)

    async def _here(
        self, settings: Settings, model: str | None, *, is_calibrated: bool
    ) -> bulk.Target:
        with StartupDisplay(err) as display:
            patient = settings.model_copy(update={"max_wait_s": math.inf})  # nobody hangs up here
            scorer = Scorer(
                patient, Metrics(), on_progress=display.show, is_calibrated=is_calibrated
            )
            async with scorer:
                await scorer.served.ready()
                folder = scorer.served.targets.folder(scorer.target(model))
                return await self._run(_Here(scorer), model, folder)

    async def _run(
        self, service: bulk.Service, model: str | None, folder: Path | None
    ) -> bulk.Target:
        """Score what isn't yet, and show how far it has come."""
        answered = await service.target(model)
        if self.before:
            self.before(answered, folder)
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
        return answered


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
