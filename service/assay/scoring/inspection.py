"""What is served, could be served, and what it sees of an item: answers that score nothing."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from assay import wire
from assay.errors import AssayError, CheckpointError
from assay.items import Cutting
from assay.prompts.loader import Loader
from assay.scheduling.policy import WARM_UP
from assay.scheduling.workers import Worker
from assay.scoring import calibrated, items, targets
from assay.scoring.offload import offload
from assay.worker_protocol import OUTLINE, ModelSpec, Refused, Start

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from assay.items import Source
    from assay.prompts.models import Inspected, Model
    from assay.prompts.renderer import Looked
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import CompositePart, Target
    from assay.settings import Settings


async def find(reference: str, settings: Settings) -> Inspected:
    """Return what a name, path or hub id stands for, checked as a start checks it.

    No weight is read. For an ensemble the first member's sample is shown.

    Raises:
        CheckpointError: It can't be told what it is.
    """
    async with Loader(
        targets.resolve_settings(settings), timeout_s=settings.load_timeout_s
    ) as loader:
        said = await loader.inspect(reference)
    try:
        for model in said.models:
            await _check(model, settings)
    except AssayError as error:
        return replace(said, problem=said.problem or error)
    return said


async def _check(model: Model, settings: Settings) -> None:
    """Refuse what a start would before it reads weights."""
    checkpoint = model.checkpoint
    spec = ModelSpec(
        name=checkpoint.name,
        folder=checkpoint.folder,
        base=checkpoint.base,
        card=model.facts.card_in_ids,
        dtype="auto",
        max_tokens=model.facts.max_tokens,
        prefix_cache_mb=None,
    )
    if model.trusted is not None:  # it is run by its own code, which loading alone can tell of
        return
    try:
        await _outline(spec, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error.message}") from error


async def _outline(spec: ModelSpec, settings: Settings) -> None:
    start, variables = Start(OUTLINE, 1, "off", (spec,), WARM_UP), settings.worker_variables
    async with Worker(start, "assay.engine.outline", variables=variables) as worker:
        message = await worker.receive()
    if isinstance(message, Refused):
        raise CheckpointError(message.message)


async def look(scorer: Scorer, target: Target, source: Source, caller: str) -> Looked:
    """Return what the target's first member reads of one item.

    Raises:
        AssayError: It can't be rendered, or the request isn't admitted.
    """
    async with contextlib.aclosing(scorer.rendered(target, [source], caller=caller)) as chunks:
        (looked,) = [outcome async for chunk in chunks for outcome in chunk]
    if isinstance(looked, AssayError):
        raise looked
    return looked


async def tokenized(
    scorer: Scorer, target: Target, request: wire.TokenizeRequest, caller: str
) -> AsyncGenerator[list[wire.TokenizeEntry]]:
    """Yield the entries that answer `POST /tokenize`, in order, as they are rendered.

    Raises:
        Overloaded, Draining: The request isn't admitted.
    """
    wire_items = request.items()
    sources = await offload(len(wire_items), lambda: items.sources_of(wire_items, request))
    cutting = Cutting(request.truncation, special_tokens=request.special_tokens)
    loaded = scorer.served.loaded(target.members[0])
    reads = loaded.reads if loaded else "last"
    begin = 0
    rendered = scorer.rendered(target, sources, cutting, caller=caller)
    async with contextlib.aclosing(rendered) as chunks:
        async for chunk in chunks:
            chunk_items = wire_items[begin : begin + len(chunk)]
            yield await asyncio.to_thread(_tokenized_each, chunk_items, chunk, begin, reads)
            begin += len(chunk)


def describe(
    scorer: Scorer, target: Target, owned_by: Literal["assay"] | None = None
) -> wire.ModelEntry:
    """Return the entry of `GET /models` for a target."""
    loaded = scorer.served.loaded(target.members[0])
    moments = target.card.statistics
    entry = wire.ModelEntry(
        id=target.name,
        created=scorer.served.started_at,
        owned_by=owned_by,
        stats=_stats(scorer, target),
        capabilities=[] if target.only_compares else ["classify", "rerank"],
        kind=target.kind,
        state=scorer.served.state(target),
        default=target is scorer.served.targets.default,
        revision=target.revision,
        members=list(target.member_labels) if target.kind != "model" else [],
        max_tokens=min(model.facts.max_tokens for model in target.members),
        summary=target.card.summary,
        statistics={"mean": moments.mean, "std": moments.std} if moments else None,
        calibration=_calibration(target),
        attributes=target.attributes,
        parts={part.name: _part(part) for part in target.parts} or None,
        gate=_gate(target),
        rule=None if target.rule == "weighted" else target.rule,
        scores_steps=target.scores_steps,
        only_compares=target.only_compares,
    )
    if loaded is None:
        return entry
    return entry.model_copy(
        update={
            "architecture": loaded.architecture,
            "device": loaded.device,
            "dtype": loaded.dtype,
            "quantized": None if loaded.quantized == "none" else loaded.quantized,
            "forward": loaded.forward,
            "attention": loaded.attention,
            "warnings": _warnings(scorer, target),
            "shared_base": list(loaded.shared_base) or None,
            "parameters": sum(
                member.parameters
                for model in target.members
                if (member := scorer.served.loaded(model))
            ),
            "batch_tokens": loaded.budget_tokens,
        }
    )


def _calibration(target: Target) -> wire.CalibrationEntry | None:
    fitted = target.calibration
    if fitted is None:
        return None
    return wire.CalibrationEntry(
        id=fitted.id,
        created=fitted.created.isoformat(),
        source=fitted.source,
        counts=fitted.counts.model_dump(),
        method=fitted.preference.method if fitted.preference else None,
        calibrated=fitted.acceptable is not None or fitted.absolute is not None,
        absolute=fitted.absolute.zero if fitted.absolute else None,
        error_rates=calibrated.error_rates(fitted),
        covariate=fitted.length.covariate if fitted.length else None,
    )


def _gate(target: Target) -> wire.GateEntry | None:
    gate = target.gate
    return wire.GateEntry(**gate.model_dump(exclude_defaults=True)) if gate else None


def _part(part: CompositePart) -> wire.PartEntry:
    is_standard = part.moments == (0.0, 1.0)
    return wire.PartEntry(
        target=part.target,
        attribute=part.attribute,
        weight=part.weight,
        mean=None if is_standard else part.mean,
        std=None if is_standard else part.std,
        tolerance=part.tolerance or None,
        alike_up_to=part.alike_up_to,
        calibration=part.calibration,
    )


def _warnings(scorer: Scorer, target: Target) -> list[str]:
    """Return what is to be known of a target and of its members, each thing once."""
    loaded = filter(None, map(scorer.served.loaded, target.members))
    of_members = (warning for member in loaded for warning in member.warnings)
    return list(dict.fromkeys([*target.warnings, *of_members]))


def _stats(scorer: Scorer, target: Target) -> wire.Stats:
    door, loaded = scorer.admission, scorer.served.loaded(target.members[0])
    waiting, _ = scorer.served.depth(target)
    return wire.Stats(
        queue_fraction=door.tokens / door.bound,
        queue_absolute=waiting,
        results_pending=door.requests,
        batch_size=loaded.budget_tokens if loaded else None,
    )


def _tokenized_each(
    wire_items: Sequence[wire.Item], looked: Sequence[Looked | AssayError], begin: int, reads: str
) -> list[wire.TokenizeEntry]:
    return [
        _tokenized(index, item, outcome, reads=reads)
        for index, (item, outcome) in enumerate(zip(wire_items, looked, strict=True), begin)
    ]


def _tokenized(
    index: int,
    item: wire.Item,
    looked: Looked | AssayError,
    *,
    reads: str,
) -> wire.TokenizeEntry:
    if isinstance(looked, AssayError):
        return wire.TokenizeEntry(
            index=index,
            id=item.id,
            error=wire.ItemError(code=looked.code, message=looked.advised().message),
        )
    rendered, tokens = looked.rendered, looked.tokens
    ids = rendered.ids.tolist()
    positions = {"first": [0], "last": [len(ids) - 1]}.get(reads, [])
    if rendered.read_at is not None:
        positions = rendered.read_at.positions.tolist()
    read = positions[-1] if positions else None
    return wire.TokenizeEntry(
        index=index,
        id=item.id,
        input_ids=ids,
        token_type_ids=None if rendered.segments is None else rendered.segments.tolist(),
        tokens=tokens,
        read_position=read,
        read_positions=positions,
        read_token=None if read is None else tokens[read],
        text=rendered.text,
        n_tokens=len(ids),
        truncated=rendered.truncated,
    )
