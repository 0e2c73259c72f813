"""What an operator should know of a model before its first score: sentences, of its files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.items import TokenizedItem
    from assay.prompts.template import Template

_SHOWN = 5


def of(template: Template, sample: TokenizedItem | None) -> list[str]:
    """Return a sentence for each thing that a model's tokenizer and config.json leave open."""
    read = _before_padding(template, sample) if sample is not None else []
    dated = [note] if (note := template.chat_format.note) else []
    return [*_beyond_the_embedding(template), *_beyond_the_positions(template), *read, *dated]


def _beyond_the_embedding(template: Template) -> list[str]:
    """Say which tokens of the tokenizer the model has no embedding for."""
    if not (tokens := template.token_ids.beyond()):
        return []
    more = f" and {len(tokens) - _SHOWN} more" if len(tokens) > _SHOWN else ""
    listed = ", ".join(map(repr, tokens[:_SHOWN])) + more
    rows = template.token_ids.inputs.vocabulary
    notice = (
        f"the tokenizer has {listed} beyond the {rows} rows of the model's embedding; "
        "an item that names one is refused"
    )
    return [notice]


def _beyond_the_positions(template: Template) -> list[str]:
    """Say that a limit was set beyond the positions that config.json states."""
    stated = template.stated_tokens
    if stated is None or template.max_tokens <= stated:
        return []
    notice = (
        f"the limit of {template.max_tokens} tokens (max_tokens, or limits.max_tokens in the card) "
        f"exceeds the {stated} positions that config.json states: the model was not made for "
        f"longer items; lower it to {stated}, or state in config.json how positions are stretched"
    )
    return [notice]


def _before_padding(template: Template, sample: TokenizedItem) -> list[str]:
    """Say that a sample isn't read at its end, where that is what config.json calls padding."""
    place, token = template.read_positions.read_token(sample)
    padding = int(sample.ids[-1])
    if padding != template.token_ids.inputs.padding or place == len(sample.ids) - 1:
        return []
    (last,) = template.tokenizer.tokens([padding])
    notice = (
        f"a conversation ends with {last!r}, which config.json has as pad_token_id {padding}: "
        f"transformers' class reads the last token that isn't padding, {token!r}, and so does "
        f'Assay; a card\'s [read] at = "last" reads {last!r}'
    )
    return [notice]
