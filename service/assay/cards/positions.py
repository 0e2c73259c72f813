"""How long a sequence may be: what a config.json has positions for, stretched as it says.

And for its positions to mean the same in any batch. Two kinds of rotary positions ask how long the
longest sequence of a batch is: beyond the length the model was first trained with, `longrope`
(Phi-3) and `dynamic` (NTK) turn every sequence's positions otherwise. And sparse attention
(DeepSeek-V3.2) that chooses `index_topk` keys chooses others where there is padding beside them. Up
to that length a score doesn't depend on its batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEPEND_ON_THE_BATCH = {"longrope", "su", "dynamic"}
_STRETCH = {"yarn", "linear"}  # the others' config.json states the length that they reach
_STRETCHED_ALREADY = {"gemma3", "gemma3_text", "gemma3n", "gemma3n_text"}  # linear, and said so
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
_LENGTHS = ("max_seq_len", "max_sequence_length", "max_seq_length", "seq_length")
_UNBOUNDED = {"bloom"}  # ALiBi; its seq_length is that of its training
_COUNT_FROM_PADDING = {
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "xmod"),
    *("data2vec-text", "longformer", "ibert", "mpnet", "luke", "lilt", "esm"),
}


def stated_tokens(config: Mapping[str, Any]) -> int | None:
    """Return how many positions a config.json has; None where it states no bound.

    YaRN stretches the length that the model was first trained with, linear scaling the positions
    that there are. Encoders of RoBERTa's kind count from behind their padding index.
    """
    kind = config.get("model_type")
    if kind in _UNBOUNDED:
        return None
    stated = min(_numbers(config, _POSITIONS), default=None)
    if kind not in _STRETCHED_ALREADY:
        stated = max(_stretched(config, stated), default=stated)
    if stated is not None and kind in _COUNT_FROM_PADDING:
        padding = config.get("pad_token_id")
        stated -= (1 if padding is None else int(padding)) + 1
    bounds = [*_numbers(config, _LENGTHS), *([] if stated is None else [stated])]
    return min(bounds, default=None)


def steady_tokens(config: Mapping[str, Any]) -> int | None:
    """Return that length by a model's config; None where positions never depend on the batch."""
    lengths = [
        rope.get("original_max_position_embeddings")
        or config.get("original_max_position_embeddings")
        or config.get("max_position_embeddings")
        for rope in _ropes(config)
        if rope.get("rope_type", rope.get("type")) in _DEPEND_ON_THE_BATCH
    ]
    return min(map(int, filter(None, (*lengths, config.get("index_topk")))), default=None)


def _stretched(config: Mapping[str, Any], positions: int | None) -> Iterator[int]:
    """Yield what each kind of rotary positions that is stretched reaches."""
    for rope in _ropes(config):
        kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor")
        first = rope.get("original_max_position_embeddings") if kind == "yarn" else None
        if kind in _STRETCH and factor and (first or positions):
            yield int((first or positions) * factor)


def _ropes(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what a config says of rotary positions: once, or for each type of layer."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return [rope, *(layer_rope for layer_rope in rope.values() if isinstance(layer_rope, dict))]


def _numbers(config: Mapping[str, Any], names: tuple[str, ...]) -> list[int]:
    values = [config.get(name) for name in names]
    return [int(value) for value in values if isinstance(value, int | float) and value > 0]
