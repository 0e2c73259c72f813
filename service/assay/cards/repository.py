"""A name, path or hub id, resolved to a checkpoint folder with its card.

A name is a folder of the model repository; a path is a checkpoint folder; anything else of the form
`org/name[@revision]` is fetched from the hub, safetensors and tokenizer files only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import card as cards
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

STARTER = "starter"
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
_TEMPLATE_FILES = (
    "tokenizer*",
    "*.jinja",
    "*.model",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_PATH_STARTS = (".", "/", "~")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder with `config.json` and safetensors, and the name it is served under."""

    name: str
    folder: Path
    card: cards.Card


@dataclass(frozen=True, slots=True)
class Source:
    """What one argument of `assay serve` stands for: one checkpoint, or an ensemble's members."""

    name: str
    card: cards.Card
    checkpoints: tuple[Checkpoint, ...]

    @property
    def is_ensemble(self) -> bool:
        """Whether the members are combined into one reward."""
        return self.card.ensemble is not None


def embedded() -> Path:
    """Return the folder of models that come with Assay: the wheel's, or the checkout's."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "models"
    return inside if inside.is_dir() else package.parents[1] / "models"


def available(repository: Path) -> list[str]:
    """Return the names in the model repository and among the embedded models."""
    return sorted(
        {
            entry.name
            for root in (repository, embedded())
            if root.is_dir()
            for entry in root.iterdir()
            if (entry / cards.FILE_NAME).is_file() or (entry / "config.json").is_file()
        }
    )


def resolve(reference: str, repository: Path) -> Source:
    """Return what a name, path or hub id stands for, fetching it if need be.

    Raises:
        CheckpointError: Nothing of that name exists, or what exists isn't a checkpoint.
    """
    folder = _find(reference, repository)
    name = folder.name if not _looks_like_hub_id(reference) else reference.split("@", maxsplit=1)[0]
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder; give the folder that holds config.json and *.safetensors"
        )
    card = cards.read(folder)
    if card.ensemble is None:
        return Source(name, card, (_checkpoint(name, folder, card),))
    members = tuple(
        _checkpoint(f"{name}/{member}", folder / member, _member_card(card, member))
        for member in card.ensemble.members
    )
    return Source(name, card, members)


def revision(folder: Path) -> str:
    """Return the first 12 hex digits of the SHA-256 over everything that decides the scores."""
    return _digest(folder, ("config.json", "*.safetensors", *_TEMPLATE_FILES))


def template_key(folder: Path) -> str:
    """Return a key that is equal for folders whose items render to the same ids."""
    return _digest(folder, _TEMPLATE_FILES)


def combined_revision(revisions: Iterable[str]) -> str:
    """Return the revision of an ensemble from those of its members."""
    return hashlib.sha256("\n".join(revisions).encode()).hexdigest()[:12]


def _find(reference: str, repository: Path) -> Path:
    if not reference.startswith(_PATH_STARTS):
        for root in (repository, embedded()):
            if (root / reference).is_dir():
                return root / reference
    path = Path(reference).expanduser()
    if path.exists():
        return path.resolve()
    if _looks_like_hub_id(reference):
        return _fetch(reference)
    known = ", ".join(available(repository)) or "none"
    raise CheckpointError(
        f"'{reference}' is neither a model of the repository {repository} (it has: {known}), "
        "nor a folder, nor a hub id of the form org/name[@revision]"
    )


def _looks_like_hub_id(reference: str) -> bool:
    parts = reference.split("@", maxsplit=1)[0].split("/")
    return (
        len(parts) == 2
        and all(parts)
        and not reference.startswith(_PATH_STARTS)
        and not Path(reference).exists()
    )


def _fetch(reference: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  slow to import
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    name, _, wanted = reference.partition("@")
    try:
        return Path(snapshot_download(name, revision=wanted or None, allow_patterns=_HUB_FILES))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"'{reference}' is not in the local hub cache and the hub can't be reached; check the "
            "network, or HF_HUB_OFFLINE, or give a local folder"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"'{reference}' can't be fetched from the hub ({type(error).__name__}); check the "
            "spelling, the revision and HF_TOKEN"
        ) from error


def _member_card(card: cards.Card, member: str) -> cards.Card:
    """Return a member's card: the ensemble's limits with the member's own statistics."""
    moments = card.statistics.members.get(member) if card.statistics else None
    statistics = cards.Statistics(mean=moments.mean, std=moments.std) if moments else None
    return cards.Card(summary=card.summary, limits=card.limits, statistics=statistics)


def _checkpoint(name: str, folder: Path, card: cards.Card) -> Checkpoint:
    if not folder.is_dir():
        raise CheckpointError(f"{name}: {folder} is not a folder")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{name}: {folder} has no config.json; give the folder of a transformers checkpoint"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{name}: {folder} holds only pickles ({', '.join(pickles)}), which can "
                "run code when read; convert them to safetensors (save_pretrained writes them)"
            )
        raise CheckpointError(f"{name}: {folder} has no *.safetensors file")
    return Checkpoint(name, folder, card)


def _digest(folder: Path, patterns: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
