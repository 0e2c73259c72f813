"""What is served, and what it sees of an item: answers that score nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from assay import wire
from assay.engine.truncation import Cutting
from assay.errors import AssayError
from assay.scoring import items, meaning
from assay.scoring.aside import aside

if TYPE_CHECKING:
    from assay.engine.template import Rendered
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Part, Target


async def tokenize(scorer: Scorer, request: wire.TokenizeRequest) -> wire.TokenizeAnswer:
    """Answer `POST /tokenize`."""
    target = scorer.target(request.model)
    wanted = request.items()
    size = len(wanted)
    sources = await aside(size, lambda: [items.source(item) for item in wanted])
    rendered = await scorer.render(target, sources, Cutting(request.truncation))
    loaded = scorer.loaded(target.members[0])
    reads = loaded.reads if loaded else "last"
    data = await aside(
        size,
        lambda: [
            _tokenized(target, index, item, one, reads=reads)
            for index, (item, one) in enumerate(zip(wanted, rendered, strict=True))
        ],
    )
    return wire.TokenizeAnswer(model=target.name, data=data)


def describe(
    scorer: Scorer, target: Target, owned_by: Literal["assay"] | None = None
) -> wire.ModelEntry:
    """Return the entry of `GET /models` for a target."""
    loaded = scorer.loaded(target.members[0])
    moments = target.card.statistics
    entry = wire.ModelEntry(
        id=target.name,
        created=scorer.started_at,
        owned_by=owned_by,
        stats=_stats(scorer, target),
        capabilities=[] if meaning.only_compares(target) else ["classify", "rerank"],
        kind=target.kind,
        state=scorer.state(target),
        default=target is scorer.targets.default,
        revision=target.revision,
        members=[target.member_label(model) for model in target.members]
        if target.kind != "model"
        else [],
        max_tokens=min(model.template.max_tokens for model in target.members),
        summary=target.card.summary,
        statistics={"mean": moments.mean, "std": moments.std} if moments else None,
        attributes=meaning.attributes(target),
        parts={part.name: _part(part) for part in target.parts} or None,
        gate=wire.GateEntry(**target.gate.model_dump()) if target.gate else None,
        scores_steps=meaning.scores_steps(target),
        only_compares=meaning.only_compares(target),
    )
    if loaded is None:
        return entry
    return entry.model_copy(
        update={
            "architecture": loaded.architecture,
            "device": loaded.device,
            "dtype": loaded.dtype,
            "forward": loaded.forward,
            "parameters": sum(
                one.parameters for model in target.members if (one := scorer.loaded(model))
            ),
            "batch_tokens": loaded.budget_tokens,
        }
    )


def _part(part: Part) -> wire.PartEntry:
    is_standard = part.moments == (0.0, 1.0)
    return wire.PartEntry(
        target=part.target,
        attribute=part.attribute,
        weight=part.weight,
        mean=None if is_standard else part.mean,
        std=None if is_standard else part.std,
    )


def _stats(scorer: Scorer, target: Target) -> wire.Stats:
    door, loaded = scorer.admission, scorer.loaded(target.members[0])
    waiting = (scorer.queue.depth(name) for name in {model.name for model in target.members})
    return wire.Stats(
        queue_fraction=door.tokens / door.bound,
        queue_absolute=sum(items for items, _ in waiting),
        results_pending=door.requests,
        batch_size=loaded.budget_tokens if loaded else None,
    )


def _tokenized(
    target: Target,
    index: int,
    item: wire.Item,
    rendered: Rendered | AssayError,
    *,
    reads: str,
) -> wire.TokenizeEntry:
    if isinstance(rendered, AssayError):
        return wire.TokenizeEntry(
            index=index,
            id=item.id,
            error=wire.ItemError(code=rendered.code, message=rendered.advised().message),
        )
    ids = rendered.ids.tolist()
    tokens = target.members[0].template.tokens(ids)
    positions = {"first": [0], "last": [len(ids) - 1]}.get(reads, [])
    if rendered.marks is not None:
        positions = rendered.marks.positions.tolist()
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
