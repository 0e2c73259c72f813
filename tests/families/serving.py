"""A target in this process: template, planner, trunk and meaning, without workers or HTTP."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import numpy as np
import torch

from assay import wire
from assay.engine import model_runner as trunks
from assay.engine import verification
from assay.items import TokenizedItem
from assay.prompts import resolution
from assay.scheduling.planner import ModelQueue, plan
from assay.scheduling.prefix_cache import PrefixCache
from assay.scheduling.work_item import RequestFlow, WorkItem
from assay.scoring import interpretation, items, pairwise, targets
from assay.scoring.results import RawResult
from assay.settings import Settings
from tests import resolving

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from assay.errors import AssayError
    from assay.items import Source
    from assay.prompts.models import Model
    from assay.scoring.interpretation import ScoreOptions, TargetScore

BUDGET = 200
CACHE_BYTES = 1 << 20
_NO_IDS = np.empty(0, np.int32)


class Served:
    """One checkpoint folder with its card, as `assay serve` would have it."""

    def __init__(self, folder: Path, *, compiled: bool = True) -> None:
        settings = Settings(models=(str(folder),))
        self.target = resolving.load(settings).default
        self.trunks = [_trunk(model, compiled=compiled) for model in self.target.members]
        resolve_settings, templates = targets.resolve_settings(settings), {}
        for model in self.target.members:
            if model.template_key not in templates:  # a policy's reference has none of its own
                templates[model.template_key] = resolution.template_of(
                    model.checkpoint, resolve_settings
                )
        self.templates = [templates[model.template_key] for model in self.target.members]
        for template, trunk in zip(self.templates, self.trunks, strict=True):
            template.token_ids.hold_to(trunk.inputs)
        self.caches = [
            PrefixCache(trunk.block_cache.count) if trunk.block_cache else None
            for trunk in self.trunks
        ]
        self.sizes = [trunk.outputs for trunk in self.trunks]
        self.computed_tokens = 0

    def scored(self, sources: Sequence[Source], *, together: bool = True) -> list[RawResult]:
        """Return what every member reads of the sources: in shared batches, or each alone."""
        if not together:
            return [one for source in sources for one in self._scored([source], caches=False)]
        return self._scored(sources, caches=True)

    def verdicts(
        self, wanted: Sequence[dict], *, together: bool = True, wish: ScoreOptions | None = None
    ) -> list[TargetScore]:
        """Return the target's readings of native items."""
        sources = [items.source(wire.Item(**one)) for one in wanted]
        found = []
        for one in self.scored(sources, together=together):
            if one.numbers is None:
                raise one.error or AssertionError
            read = interpretation.interpret(
                self.target, one.numbers, self.sizes, wish or interpretation.ScoreOptions()
            )
            found.append(read)
        return found

    def matrix(self, prompt: items.Prompt, responses: list[str]) -> pairwise.Matrix | AssayError:
        """Return P(i ≻ j) of the responses to one prompt."""
        one = pairwise.Round(self.target.card, prompt, responses)
        return one.matrix(self.scored(one.sources), self.sizes[0])

    def _scored(self, sources: Sequence[Source], *, caches: bool) -> list[RawResult]:
        by_member = [
            self._run(member, sources, self.caches[member] if caches else None)
            for member in range(len(self.trunks))
        ]
        return [_scored(column) for column in zip(*by_member, strict=True)]

    def _run(
        self, member: int, sources: Sequence[Source], cache: PrefixCache | None
    ) -> list[np.ndarray | AssayError]:
        trunk, template = self.trunks[member], self.templates[member]
        line = ModelQueue(lambda _: False, count())
        found: list[np.ndarray | AssayError | None] = [None] * len(sources)
        places: dict[WorkItem, int] = {}
        for place, one in enumerate(template.render_all(sources)):
            if isinstance(one, TokenizedItem):
                work = WorkItem(one.ids, RequestFlow(), read_at=one.read_at, segments=one.segments)
                places[work] = place
                line.add(work, 0.0)
            else:
                found[place] = one
        while line.items:
            batch = plan(line, BUDGET, shares=trunk.shares_prefixes, cache=cache)
            self.computed_tokens += batch.prefix_batch.tokens
            numbers = batch.numbers(trunk.score(batch.prefix_batch))
            for work, one in zip(batch.works, numbers, strict=True):
                found[places[work]] = one
        return [one for one in found if one is not None]


def _trunk(model: Model, *, compiled: bool) -> trunks.ModelRunner:
    trunk = trunks.load(
        model.checkpoint.folder,
        model.facts.card_in_ids,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    verification.verify(trunk, compiled=compiled)
    verification.keep_prefixes(trunk, CACHE_BYTES)
    return trunk


def _scored(column: Sequence[np.ndarray | AssayError]) -> RawResult:
    errors = [one for one in column if not isinstance(one, np.ndarray)]
    if errors:
        return RawResult(None, errors[0], _NO_IDS, truncated=False)
    return RawResult(tuple(column), None, _NO_IDS, truncated=False)
