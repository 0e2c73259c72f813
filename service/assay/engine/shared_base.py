"""Models that are adapters of one base: its weights are loaded once, and all of them lie on it.

What can't lie there is merged into a base of its own, as an adapter alone is, and says why.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from assay.cards import adapter as adapters
from assay.cards import headers, quantized
from assay.engine import checkpoint, model_runner, verification
from assay.engine.adapted_runner import AdaptedRunner
from assay.engine.adapter import Adapter
from assay.engine.readout import own
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from assay.worker_protocol import ModelSpec


@dataclass(frozen=True, slots=True)
class Sharing:
    """Which models share a base, and why others don't, by their names."""

    groups: dict[str, tuple[ModelSpec, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def give_up(self, group: Iterable[ModelSpec], reason: str) -> None:
        """Let models have a base each."""
        for spec in group:
            del self.groups[spec.name]
            self.reasons[spec.name] = reason


def plan(models: Sequence[ModelSpec]) -> Sharing:
    """Return which of a device's models are adapters that can share their base."""
    on_base: dict[Path, list[ModelSpec]] = {}
    for spec in models:
        if spec.base is not None and spec.trust is None and adapters.is_adapter(spec.folder):
            on_base.setdefault(spec.base.resolve(), []).append(spec)
    sharing = Sharing()
    for base, specs in on_base.items():
        if len(specs) > 1:
            _divide(base, specs, sharing)
    return sharing


def load(
    specs: Sequence[ModelSpec], *, device: torch.device, dtype: torch.dtype | None
) -> AdaptedRunner:
    """Return a base with adapters on it, not yet verified.

    Each's own scores are peft's, of the model with that adapter in its layers, unmerged.

    Raises:
        CheckpointError: An adapter or the base can't be served, or not in this way.
    """
    first = specs[0]
    base = checkpoint.weights_folder(first.folder, first.base)
    found = [Adapter(spec.folder) for spec in specs]
    model = checkpoint.adapters_base(
        found, first.folder, base, first.card, device=device, dtype=dtype
    )
    bare = model_runner.ModelRunner(model, own(model))
    sample = bare.sample()
    modules = dict(model.named_children())
    del modules[model.base_model_prefix]
    layers, heads, expected = [], [], []
    for adapter in found:
        with adapter.on(model, device) as added:
            layers.append(added)
            expected.append(verification.own_scores(bare, sample))
        heads.append(own(model).head)
        for name, module in modules.items():
            setattr(model, name, module)
    return AdaptedRunner(
        checkpoint.still(model),
        bare.readout,
        position=model_runner.card_position(first.card),
        layers=layers,
        heads=heads,
        expected=torch.cat(expected),
    )


def _divide(base: Path, specs: Sequence[ModelSpec], sharing: Sharing) -> None:
    """Say of the adapters on a base which of them share it, and why the others don't."""
    alike: dict[str, list[ModelSpec]] = {}
    for spec in specs:
        try:
            why = _obstacle(spec, base)
            alike.setdefault("" if why else _kind(spec, base), []).append(spec)
        except (CheckpointError, OSError) as error:  # its own load says so
            why = str(error)
        if why:
            sharing.reasons[spec.name] = why
    alike.pop("", None)
    for group in alike.values():
        for spec in group:
            if len(group) > 1:
                sharing.groups[spec.name] = tuple(group)
            else:
                sharing.reasons[spec.name] = "no other one has its config, card and head's size"


def _obstacle(spec: ModelSpec, base: Path) -> str:
    """Return why an adapter can't lie on its base beside others; nothing where it can."""
    if quantized.contents(base).packed:
        return "the base is quantized"
    if spec.rounds_to != "none":
        return "its linear layers are to be quantized"
    if spec.card.trunk.attention == "padded":
        return "its card wants it padded"
    return Adapter(spec.folder).obstacle


def _kind(spec: ModelSpec, base: Path) -> str:
    """Return what adapters have in common that share a base."""
    card, read = spec.card, spec.card.read
    return json.dumps(
        [
            headers.config(adapters.config_folder(spec.folder, base)),
            *(spec.dtype, card.trunk.model_dump(mode="json"), read and read.at),
            *(len(card.score.outputs), Adapter(spec.folder).labels),
        ],
        sort_keys=True,
        default=str,
    )
