"""What is served, could be served, and what it sees of an item: answers that score nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from assay import wire
from assay.cards import code, repository
from assay.engine.messages import OUTLINE, ModelSpec, Refused, Start
from assay.engine.truncation import Cutting
from assay.errors import AssayError, CheckpointError, refusing
from assay.scheduling.workers import Worker
from assay.scoring import items, meaning, targets
from assay.scoring.aside import aside

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from assay.cards.card import Card
    from assay.engine.template import Rendered, Template
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Part, Target
    from assay.settings import Settings


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample as a model reads it: its tokens, and the places that heads read."""

    tokens: list[str]
    places: list[int]


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a checkpoint was found to be, and why it can't be served, if it can't."""

    name: str
    folder: Path
    family: str
    card: Card
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    notices: tuple[str, ...] = ()  # what an operator should know, and may leave as it is
    reading: Reading | None = None
    no_reading: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)  # ours -> the chat template's own
    problem: AssayError | None = None


async def find(reference: str, settings: Settings) -> Inspected:
    """Return what a name, path or hub id stands for, checked as a start checks it.

    No weight is read. For an ensemble the first member's sample is shown.

    Raises:
        CheckpointError: It can't be told what it is.
    """
    trusted = {entry.rpartition("@")[0] for entry in settings.trust_remote_code}
    found = repository.find(reference, settings.repository, trusted=trusted)
    notes = (*found.notes, *code.advice(found.name, found.folder))
    said = Inspected(found.name, found.folder, found.family, found.card, found.doubts, notes)
    try:
        with refusing(reference):
            for one in repository.source(found).checkpoints:
                template = targets.template_of(one, settings)
                if said.reading is None and not said.no_reading:
                    said = replace(said, **_sampled(template, one.card))
                doubts = await _check(one, template, settings)
                said = replace(said, notices=(*said.notices, *doubts))
    except AssayError as error:
        return replace(said, problem=error)
    return said


async def _check(one: repository.Checkpoint, template: Template, settings: Settings) -> list[str]:
    """Return what an operator should know; refuse what a start would before it reads weights."""
    try:
        runs_code = targets.trusted(one, settings) is not None
        notices = targets.check(one, template, runs_code=runs_code)
        spec = ModelSpec(
            name=one.name,
            folder=one.folder,
            base=one.base,
            card=template.token_ids.in_ids(one.card),
            dtype="auto",
            max_tokens=template.max_tokens,
            batch_tokens=None,
            prefix_cache_mb=None,
        )
        if not runs_code:
            await _outline(spec, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{one.name}: {error.message}") from error
    return notices


async def _outline(spec: ModelSpec, settings: Settings) -> None:
    start, variables = Start(OUTLINE, 1, "off", (spec,)), settings.worker_variables
    async with Worker(start, "assay.engine.outline", variables=variables) as worker:
        message = await worker.receive()
    if isinstance(message, Refused):
        raise CheckpointError(message.message)


def _sampled(template: Template, card: Card) -> dict[str, Any]:
    """Return a sample's reading, or why there is none."""
    (rendered,) = template.render_all([targets.sample(card)])
    if isinstance(rendered, AssayError):
        return {"no_reading": rendered.message, "roles": template.chat_format.roles}
    tokens = template.tokenizer.tokens(rendered.ids.tolist())
    places = template.read_positions.places(rendered)
    return {"reading": Reading(tokens, places), "roles": template.chat_format.roles}


async def tokenize(scorer: Scorer, request: wire.TokenizeRequest) -> wire.TokenizeAnswer:
    """Answer `POST /tokenize`."""
    target = scorer.target(request.model)
    wanted = request.items()
    size = len(wanted)
    sources = await aside(size, lambda: items.sources_of(wanted, request))
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
            "attention": loaded.attention,
            "warnings": _warnings(scorer, target),
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


def _warnings(scorer: Scorer, target: Target) -> list[str]:
    """Return what the workers said of a target's members, each thing once."""
    loaded = filter(None, map(scorer.loaded, target.members))
    return list(dict.fromkeys(warning for one in loaded for warning in one.warnings))


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
    tokens = target.members[0].template.tokenizer.tokens(ids)
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
