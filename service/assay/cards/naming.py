"""A catalogue's card for a checkpoint that is called as the card is, where the files agree.

Several families write the same files; what a folder, its place in the hub's cache, or config.json
calls the checkpoint tells them apart. A name alone settles nothing: files that the card doesn't fit
aren't its.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.cards import card as cards
from assay.cards import catalogue, headers, layouts, parts, quantized, recognise, validation
from assay.errors import AssayError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from assay.cards.card import Card
    from assay.cards.parts import Parts

_SEPARATORS = ("--", "__")  # between a hub id's two parts, in a folder's name
_MECHANISM = {*recognise.FAMILYS, "policy"}


def card_of(called: str, folder: Path, repository: Path) -> tuple[str, Card, str] | None:
    """Return a card that a checkpoint's name is that of: its name, itself, and what calls it so.

    `called` is the name or hub id of its folder. None where no card is called so, where two that
    differ are, or where the files aren't what the card describes.
    """
    said = str(headers.config(folder).get("_name_or_path") or "")
    for name, by in ((called, "its folder"), (said, "config.json's _name_or_path")):
        named = [*_named(name, repository)]
        checkpoint = parts.of(folder) if named else None
        matches = [match for match in named if checkpoint and _agrees(checkpoint, *match)]
        matches = [match for match in matches if match[1].policy is None or name is called]
        matches = [match for match in matches if match[0].casefold() == name.casefold()] or matches
        if matches and all(_mechanism(card) == _mechanism(matches[0][1]) for _, card in matches):
            return (*matches[0], by)
    return None


def _named(name: str, repository: Path) -> Iterator[tuple[str, Card]]:
    """Yield the catalogue's cards that are called so, or written for a checkpoint that is."""
    spellings = {spelling.casefold() for spelling in _spellings(name)}
    for entry, card in catalogue.without_weights(repository):
        hub_id = card.source.id if card.source else entry
        aliases = {entry, hub_id, hub_id.rpartition("/")[2]}
        if spellings & {alias.casefold() for alias in aliases}:
            yield entry, card


def _spellings(name: str) -> set[str]:
    """Return a name, the hub id that it may stand for, and a path's last part."""
    if not name.strip("/"):
        return set()
    last = name.rstrip("/").rpartition("/")[2]
    hub_ids = {last.replace(separator, "/", 1) for separator in _SEPARATORS if separator in last}
    return {name, last, *hub_ids, *(hub_id.rpartition("/")[2] for hub_id in hub_ids)}


def _agrees(checkpoint: Parts, name: str, card: Card) -> bool:
    """Whether a checkpoint's files are those that a card describes, to the last tensor."""
    if not (_is_of_kind(checkpoint, name, card) and _has_tokens(checkpoint.folder, card)):
        return False
    tensors = quantized.tensors(checkpoint.folder)
    try:
        tuned = layouts.tuned(card, checkpoint)
        if validation.problems(checkpoint.folder, tuned, checkpoint.config, tensors):
            return False
        recognise.check(checkpoint, tuned)
    except AssayError:
        return False
    if card.policy is not None or _reads_the_vocabulary(card):
        return recognise.is_language_model(checkpoint)
    return bool(card.heads) or recognise.is_stock(checkpoint, max(1, len(card.score.outputs)))


def _is_of_kind(checkpoint: Parts, name: str, card: Card) -> bool:
    """Whether the trunk is of the kind that a card's name says, and laid out as its card says."""
    if not checkpoint.declared("model_type").startswith(catalogue.kind(name, card)):
        return False
    prefix = card.trunk.prefix
    if prefix and not any(tensor.startswith(prefix) for tensor in checkpoint.trunk):
        return False
    layout = next((layout for layout in layouts.LAYOUTS if layout.fits(checkpoint)), None)
    if layout is None:
        return True
    like = cards.read(catalogue.embedded() / layout.cards[0]).trunk
    return like.layout == card.trunk.layout


def _has_tokens(folder: Path, card: Card) -> bool:
    """Whether the tokenizer has the tokens that a card names; yes where it can't be told."""
    path = folder / "tokenizer.json"
    tokens = {token for _, token in validation.tokens(card) if isinstance(token, str)}
    if not tokens or not path.is_file():
        return True
    said = headers.json_object(path)
    words = (said.get("model") or {}).get("vocab") or {}
    vocabulary = {word if isinstance(word, str) else str(word[0]) for word in words}
    vocabulary |= {str(added.get("content")) for added in said.get("added_tokens") or ()}
    return all(vocabulary & {token, f"▁{token}", f"Ġ{token}"} for token in tokens)


def _reads_the_vocabulary(card: Card) -> bool:
    return any(layer.op == "vocabulary" for head in card.heads.values() for layer in head.layers)


def _mechanism(card: Card) -> dict[str, object]:
    return card.model_dump(include=_MECHANISM)
