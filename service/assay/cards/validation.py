"""A card held against its checkpoint's files: what it promises must be there, and must fit.

By headers alone, in milliseconds, so that `assay inspect` and each start can ask. What only the
tokenizer knows: `engine.token_ids`; whether the trunk is whole, `engine.outline` and the loading.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from assay.cards import headers, widths
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from assay.cards.card import Card
    from assay.cards.mechanism import Head, Read, Token
    from assay.cards.widths import Shape, Shapes

# The head's last layer in transformers' own classes.
STOCK_LAST = (
    "score.weight",
    "classifier.weight",
    "classifier.out_proj.weight",
    "classification_head.out_proj.weight",
    "logits_proj.weight",
)
OUTPUT_EMBEDDINGS = ("lm_head.weight", "embed_out.weight", "output.weight")
_INPUT_EMBEDDINGS = (
    *("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"),
    *("tok_embeddings.weight", "tokens_embed.weight", "shared.weight"),
)
_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim")
_LISTED = 5


def problems(
    folder: Path, card: Card, config: Mapping[str, Any], tensors: Mapping[str, headers.Tensor]
) -> list[str]:
    """Return what of a card its checkpoint can't keep, a sentence each that begins with the field.

    `config` is config.json, `tensors` are the trunk's files'; heads may have files of their own.
    """
    messages = [*_of_trunk(card, tensors), *_of_places(card)]
    sizes: dict[str, int | None] = {}
    for name, head in card.heads.items():
        try:
            hidden = _hidden(config)
            shapes = _shapes(folder, head, tensors)
            sizes[name] = widths.of_head(f"heads.{name}", head, shapes, hidden)
        except CheckpointError as error:
            messages.append(error.message)
    if not card.has_reward_head and card.policy is None:
        last = next((tensors[name] for name in STOCK_LAST if name in tensors), None)
        sizes["reward"] = last.shape[0] if last and last.shape else None
    known_sizes = {name: size for name, size in sizes.items() if size is not None}
    return [*messages, *of_score(card, known_sizes)]


def of_score(card: Card, sizes: Mapping[str, int]) -> list[str]:
    """Return what of `[score]` and `[preference]` doesn't go with the heads' numbers.

    `sizes` are how many numbers each head gives; a head that isn't there isn't looked at.
    """
    if card.policy is not None:
        return []
    reward, gate = sizes.get("reward"), sizes.get("gate")
    if card.preference is not None and card.preference.form == "bilinear":
        return [*_of_embedding(reward, gate)]
    messages = [] if reward is None else [*_of_numbers(card, reward)]
    if card.score.rule == "gated" and None not in (reward, gate) and reward != gate:
        messages.append(
            f"score.rule: 'gated' weighs each number of 'reward' by one of 'gate', and these give "
            f"{reward} and {gate}"
        )
    return [*messages, *_of_spread(card, reward, sizes.get("spread"))]


def embedding_rows(tensors: Mapping[str, headers.Tensor]) -> int | None:
    """Return how many tokens a trunk has an embedding of; None: it can't be told."""
    rows = [
        tensor.shape[0]
        for name, tensor in tensors.items()
        if name.endswith(_INPUT_EMBEDDINGS) and "vision" not in name and len(tensor.shape) > 1
    ]
    return rows[0] if len(rows) == 1 else None


def _of_trunk(card: Card, tensors: Iterable[str]) -> Iterator[str]:
    """Yield that a prefix is none of the files' names: it would be passed over."""
    prefix = card.trunk.prefix
    if prefix and not any(name.startswith(prefix) for name in tensors):
        near = ", ".join(f"'{name}'" for name in sorted(tensors)[:_LISTED])
        yield f"trunk.prefix: no tensor's name begins with '{prefix}'; the files have {near}"


def _of_numbers(card: Card, width: int) -> Iterator[str]:
    """Yield what of `[score]` doesn't go with so many numbers of the head 'reward'."""
    score = card.score
    names = len(score.outputs)
    of = f"the head 'reward' gives {width} number{'' if width == 1 else 's'}"
    if names and names != width:
        yield f"score.outputs: {of}, and {names} are named: name each, in their order"
    elif not names and not card.has_reward_head and width > 1:
        yield f"score.outputs: {of}, and none is named: name each, in their order"
    if score.rule in ("index", "softmax") and score.index >= width:
        yield f"score.index: {score.index} is beyond the last: {of}, counted from 0"
    if score.rule == "softmax" and width == 1:
        yield f"score.rule: 'softmax' of one number is always 1, and {of}; take 'index'"
    if score.rule == "sum" and width != 1:
        yield f"score.rule: 'sum' adds one number a place, and {of}"


def _of_embedding(reward: int | None, gate: int | None) -> Iterator[str]:
    if reward is not None and reward % 2:
        yield (
            f"preference.form: 'bilinear' takes numbers in twos, and the head 'reward' gives "
            f"{reward}"
        )
    elif reward is not None and gate is not None and gate != reward // 2:
        yield (
            f"heads.gate: 'bilinear' takes a number for each two of 'reward', {reward // 2}, and "
            f"the head gives {gate}"
        )


def _of_spread(card: Card, reward: int | None, spread: int | None) -> Iterator[str]:
    """Yield that the head 'spread' doesn't say it of each number of the head 'reward'."""
    if card.spread is None or reward is None or spread is None:
        return
    gives = f"and 'spread' gives {spread}"
    match card.spread.kind:
        case "quantiles":
            if spread % reward or spread == reward:
                yield f"spread.kind: 'quantiles' are several of each of {reward} numbers, {gives}"
        case "laplace":
            if spread != 1:
                yield f"spread.kind: 'laplace' is one number, {gives}"
        case _:
            if spread != reward:
                yield f"spread.kind: '{card.spread.kind}' is one of each of {reward}, {gives}"


def _of_places(card: Card) -> Iterator[str]:
    """Yield what of the reading positions can't be read so."""
    by_head = any(head.read for head in card.heads.values())
    for path, read in reads(card):
        if by_head and (read.is_several or read.which == "each"):
            yield f"{path}: where a head has places of its own, each head reads one"
    for name, head in card.heads.items():
        places = _joined_places(head.read or card.read)
        if head.joined > 1 and places % head.joined:
            yield (
                f"heads.{name}.joined: {head.joined} places are read side by side, and "
                f"which = 'each' names {places}"
            )


def _joined_places(read: Read | None) -> int:
    """Return how many places `which = 'each'` reads; one where it isn't that."""
    return len(read.pattern) if read is not None and read.which == "each" else 1


def reads(card: Card) -> Iterator[tuple[str, Read]]:
    """Yield each `read` table of a card with its path."""
    if card.read is not None:
        yield "read", card.read
    for name, head in card.heads.items():
        if head.read is not None:
            yield f"heads.{name}.read", head.read


def tokens(card: Card) -> Iterator[tuple[str, Token]]:
    """Yield each token that a card names, with its path."""
    for number, token in enumerate(card.template.append):
        yield f"template.append.{number}", token
    if card.template.expected_read_token is not None:
        yield "template.expected_read_token", card.template.expected_read_token
    for path, read in reads(card):
        for number, token in enumerate(read.pattern):
            yield f"{path}.pattern.{number}", token
    for name, head in card.heads.items():
        for number, layer in enumerate(head.layers):
            if layer.op == "vocabulary":
                for place, token in enumerate(layer.tokens):
                    yield f"heads.{name}.layers.{number}.tokens.{place}", token


def _shapes(folder: Path, head: Head, tensors: Mapping[str, headers.Tensor]) -> Shapes:
    """Return the function from a tensor's name to its shape, in the files that a head reads."""
    where, shapes = folder, {name: tensor.shape for name, tensor in tensors.items()}
    if head.file is not None:
        where = folder / head.file
        shapes = headers.of_head_file(folder, head.file)

    def shape(name: str) -> Shape:
        if name == widths.VOCABULARY:
            return _vocabulary(tensors)
        if name not in shapes:
            near = (
                difflib.get_close_matches(name, shapes, n=3, cutoff=0.3) or sorted(shapes)[:_LISTED]
            )
            raise CheckpointError(
                f"{where} has no tensor '{name}'; the nearest are "
                + (", ".join(f"'{candidate}'" for candidate in near) or "none")
            )
        return shapes[name]

    return shape


def _vocabulary(tensors: Mapping[str, headers.Tensor]) -> Shape:
    """Return the output embedding's shape: its own, or the input's where they are tied."""
    names = OUTPUT_EMBEDDINGS + tuple(name for name in tensors if name.endswith(_INPUT_EMBEDDINGS))
    tensor = next((tensors[name] for name in names if name in tensors), None)
    if tensor is None:
        raise CheckpointError("the files have no output embedding")
    return tensor.shape


def _hidden(config: Mapping[str, Any]) -> int | None:
    inner = {**config, **(config.get("text_config") or {})}
    return next((int(inner[key]) for key in _HIDDEN if isinstance(inner.get(key), int)), None)
