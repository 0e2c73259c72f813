"""A name, path or hub id, resolved to models: files read, tokenizer loaded, a sample rendered.

Only in a process that may be killed: whatever a checkpoint brings, it is read and run here first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from assay import child_process
from assay.cards import adapter, code, headers, quantized, repository, validation
from assay.errors import AssayError, CheckpointError, InvalidField, refusing
from assay.items import Contest, Conversation, Solution
from assay.prompts import notices
from assay.prompts.models import Facts, Inspected, Model, Padding, Reading, Resolved
from assay.prompts.template import Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assay.cards.card import Card
    from assay.items import Source, TokenizedItem
    from assay.prompts.models import Kind, ResolveSettings

_READING_S = 120.0  # of processor time, for a tokenizer and a sample: some seconds
_WARM = Conversation(
    ({"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello"})
)


def resolve(reference: str, settings: ResolveSettings) -> tuple[Resolved, dict[str, Template]]:
    """Return what a reference stands for, and the templates of its models by their names.

    Slow; touches disk and network.

    Raises:
        CheckpointError: A name, folder or tokenizer can't be used.
    """
    with refusing(reference):
        source = repository.resolve(
            reference,
            settings.repository,
            trusted=settings.trusted,
            remotes=settings.remotes,
            name=settings.name(reference),
        )
        kind: Kind = "ensemble" if source.is_ensemble else "model"
        if source.card.policy is not None:
            kind = "policy"
        models: list[Model] = []
        templates: dict[str, Template] = {}
        messages: list[str] = []
        for checkpoint in source.checkpoints:
            if kind == "policy" and templates:
                template = next(iter(templates.values()))
                model = _reference(checkpoint, models[0], template, settings)
            else:
                model, template, doubts = _model(checkpoint, settings)
                messages += [f"{checkpoint.name}: {doubt}" for doubt in doubts]
            models.append(model)
            templates[model.name] = template
        resolved = Resolved(
            source.name,
            source.card,
            kind,
            tuple(models),
            source.notes,
            tuple(messages),
            source.calibration,
        )
        return resolved, templates


def inspect(reference: str, settings: ResolveSettings) -> Inspected:
    """Return what a reference stands for, checked as a start checks it but for the weights.

    For an ensemble the first member's sample is shown.

    Raises:
        CheckpointError: It can't be told what it is.
    """
    target = repository.find(reference, settings.repository, trusted=settings.trusted)
    notes = (
        *target.notes,
        *code.advice(target.name, target.folder),
        *quantized.advice(target.folder),
    )
    said = Inspected(target.name, target.folder, target.family, target.card, target.doubts, notes)
    try:
        with refusing(reference):
            for checkpoint in repository.source(target).checkpoints:
                if not said.models:
                    said = replace(
                        said, **_sampled(template_of(checkpoint, settings), checkpoint.card)
                    )
                model, _, doubts = _model(checkpoint, settings)
                models, notices = (*said.models, model), (*said.notices, *doubts)
                said = replace(said, models=models, notices=notices)
    except AssayError as error:
        return replace(said, problem=error)
    return said


def _sampled(template: Template, card: Card) -> dict[str, Any]:
    """Return a sample's reading, or why there is none."""
    (rendered,) = template.render_all([sample(card)])
    if isinstance(rendered, AssayError):
        return {"no_reading": rendered.message, "roles": template.chat_format.roles}
    tokens = template.tokenizer.tokens(rendered.ids.tolist())
    places = template.read_positions.places(rendered)
    return {"reading": Reading(tokens, places), "roles": template.chat_format.roles}


def _model(
    checkpoint: repository.Checkpoint, settings: ResolveSettings
) -> tuple[Model, Template, list[str]]:
    try:
        with child_process.processor_limit(_READING_S):
            template = template_of(checkpoint, settings)
            digest = trusted(checkpoint, settings)
            is_checked = digest is None and checkpoint.name not in settings.remotes
            doubts = check(checkpoint, template, has_known_tensors=is_checked)
        _check_time(template)
        return replace(_described(checkpoint, template, settings), trusted=digest), template, doubts
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error.message}") from error


def _reference(
    checkpoint: repository.Checkpoint, policy: Model, template: Template, settings: ResolveSettings
) -> Model:
    """Return a policy's reference: it reads the ids that the policy's own tokenizer gives."""
    if not adapter.is_adapter(checkpoint.folder):
        _check_vocabulary(quantized.tensors(checkpoint.folder), template)
    return replace(_described(checkpoint, template, settings), template_key=policy.template_key)


def _described(
    checkpoint: repository.Checkpoint, template: Template, settings: ResolveSettings
) -> Model:
    files = checkpoint.revision
    return Model(
        name=checkpoint.name,
        checkpoint=checkpoint,
        files=files,
        revision=_revision(files, checkpoint.card, settings),
        template_key=template_key(checkpoint, template),
        facts=Facts(
            max_tokens=template.max_tokens,
            truncation=template.truncation,
            inputs=template.token_ids.inputs,
            padding=_padding(template),
            card_in_ids=template.token_ids.in_ids(checkpoint.card),
        ),
    )


def template_key(checkpoint: repository.Checkpoint, template: Template) -> str:
    """Return what is equal for models whose items render alike."""
    return f"{checkpoint.template_key}/{template.max_tokens}/{template.truncation}"


def _padding(template: Template) -> Padding:
    tokenizer = template.tokenizer.hf
    return Padding(
        tokenizer.pad_token,
        tokenizer.eos_token,
        tokenizer.pad_token_id,
        tokenizer.eos_token_id,
        tokenizer.bos_token_id,
    )


def _revision(files: str, card: Card, settings: ResolveSettings) -> str:
    """Return a checkpoint's revision with the settings that change its scores; else its own."""
    said: dict[str, object] = {}
    if settings.max_tokens is not None:
        said["max_tokens"] = settings.max_tokens
    if settings.dtype != "auto":
        said["dtype"] = settings.dtype
    if settings.quantize not in ("auto", card.trunk.quantize or "none"):
        said["quantize"] = settings.quantize
    return repository.combined_revision([files], said) if said else files


def template_of(checkpoint: repository.Checkpoint, settings: ResolveSettings) -> Template:
    """Return what renders a checkpoint's items.

    Raises:
        CheckpointError: Its tokenizer can't be used, or lacks a token that the card names.
    """
    return Template(
        checkpoint.tokenizer_folder,
        checkpoint.card,
        config_folder=checkpoint.config_folder,
        max_tokens=settings.max_tokens or checkpoint.card.limits.max_tokens,
        moment=settings.moment,
    )


def sample(card: Card) -> Source:
    """Return an item of the form that a model takes."""
    prompt = _WARM.messages[:1]
    if card.template.pair is not None:
        return Contest(prompt, "Hello", "Hi")
    if card.steps is not None:
        return Solution(prompt, ("Hello", "Hi"))
    return _WARM


def check(
    checkpoint: repository.Checkpoint, template: Template, *, has_known_tensors: bool = True
) -> list[str]:
    """Refuse a checkpoint whose card, files and tokenizer don't go together.

    Returns a sentence for each thing that an operator should know all the same.

    No weight is read: `assay inspect` asks this, too. A model that runs code of its own, or whose
    weights are elsewhere, isn't held against the tensors that transformers' class has.

    Raises:
        CheckpointError: Something doesn't; the message begins with the field of the card.
    """
    if has_known_tensors and not adapter.is_adapter(checkpoint.folder):
        tensors = quantized.tensors(checkpoint.folder)
        config = headers.config(checkpoint.config_folder)
        problems = validation.problems(checkpoint.folder, checkpoint.card, config, tensors)
        if problems:
            raise CheckpointError("; ".join(problems))
        _check_vocabulary(tensors, template)
    return notices.of(template, _try(template, checkpoint.card))


def _check_time(template: Template) -> None:
    if template.chat_format.has_overrun:
        raise CheckpointError(
            "its chat template takes too long for a sample of two words: items would be refused"
        )


def trusted(checkpoint: repository.Checkpoint, settings: ResolveSettings) -> str | None:
    """Return the digest of the own code by which a checkpoint is served; None: by none.

    Raises:
        CheckpointError: The operator trusts other code than what is here.
    """
    is_named = checkpoint.name in settings.trusted
    if not is_named or not code.runs(checkpoint.folder, checkpoint.card):
        return None
    return code.trusted(checkpoint.name, checkpoint.folder, settings.trust)


def _check_vocabulary(tensors: Mapping[str, headers.Tensor], template: Template) -> None:
    """Refuse a tokenizer whose own vocabulary goes beyond the embedding: another model's."""
    rows = validation.embedding_rows(tensors)
    if rows is not None and (count := template.tokenizer.ordinary_tokens) > rows:
        raise CheckpointError(
            f"the tokenizer has {count} tokens, and the model an embedding of {rows}: copy the "
            "tokenizer from the model it was trained from"
        )


def _try(template: Template, card: Card) -> TokenizedItem | None:
    """Render a sample, which also compiles the chat template, and check what comes of it.

    None where it can't be rendered.

    Raises:
        CheckpointError: A turn leaves no trace in it, what a head is read at stands nowhere in it,
            or another token stands there than the card expects.
    """
    template.check(sample(card))
    (rendered,) = template.render_all([sample(card)])
    if isinstance(rendered, InvalidField):
        fields = [path for path, read in validation.reads(card) if read.pattern]
        raise CheckpointError(
            f"{', '.join(f'{path}.pattern' for path in fields) or 'template'}: a sample has no "
            f"score: {rendered.message}"
        )
    expected = card.template.expected_read_token
    if isinstance(rendered, AssayError):
        if expected is None:
            return None
        raise CheckpointError(
            "template.expected_read_token: a sample can't be rendered: " + rendered.message
        )
    place, token = template.read_positions.read_token(rendered)
    if expected is not None and int(rendered.ids[place]) != template.token_ids.of(expected):
        raise CheckpointError(
            f"template.expected_read_token: a sample is read at the token {token!r}, and the card "
            f"expects {expected!r}: the tokenizer's template isn't the one the card was written for"
        )
    return rendered
