"""Cards by name, and by the hub checkpoint they were written for.

The model repository's come before those that come with Assay.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import card as cards
from assay.cards import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

# The model_type, or how it begins, of checkpoints whose name has a word for it; the first counts.
_KINDS = {
    r"qwen-?3": "qwen3",
    r"qwen-?2": "qwen2",
    r"internlm-?2": "internlm2",
    r"gemma-?3": "gemma3",
    r"gemma-?2(?!b)": "gemma2",
    r"gemma": "gemma",
    r"mixtral": "mixtral",
    r"mistral|zephyr": "mistral",
    r"llama": "llama",
    r"pythia": "gpt_neox",
    r"deberta": "deberta",
    r"bge-reranker-(base|large|v2-m3)": "xlm-roberta",
}


def embedded() -> Path:
    """Return the folder of models that come with Assay: the wheel's, or the checkout's."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parents[1] / "models"


def folders(repository: Path) -> dict[str, Path]:
    """Return every named folder that has a card or a checkpoint, by name."""
    by_name: dict[str, Path] = {}
    for root in (embedded(), repository):
        for entry in root.iterdir() if root.is_dir() else ():
            if (entry / cards.FILE_NAME).is_file() or (entry / "config.json").is_file():
                by_name[paths.label(entry.name)] = entry
    return dict(sorted(by_name.items()))


def without_weights(repository: Path) -> Iterator[tuple[str, cards.Card]]:
    """Yield the cards that wait for a checkpoint, by name; one of the repository's before ours."""
    seen: set[str] = set()
    for root in (repository, embedded()):
        for entry in sorted(root.iterdir()) if root.is_dir() else ():
            if (entry / cards.FILE_NAME).is_file() and not (entry / "config.json").is_file():
                card = cards.read(entry)
                if entry.name not in seen and not card.folders:
                    seen.add(entry.name)
                    yield entry.name, card


def kind(name: str, card: cards.Card) -> str:
    """Return how the model_type begins of what a card's name says it is of; '' if it doesn't."""
    called = f"{name} {card.source.id if card.source else ''}".casefold()
    return next((kind for said, kind in _KINDS.items() if re.search(said, called)), "")


def read(folder: Path) -> cards.Card:
    """Return the card in a folder; see `card.read`."""
    return cards.read(folder)


def of_source(hub_id: str, repository: Path) -> cards.Card | None:
    """Return the card that was written for a checkpoint on the hub, if there is one."""
    for folder in folders(repository).values():
        card = cards.read(folder)
        if card.source is not None and card.source.id == hub_id:
            return card
    return None
