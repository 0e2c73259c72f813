"""Code that a checkpoint brings: which class it is for, and whether the operator trusts it.

What is trusted is a digest, a whole SHA-256, over all that the code can meet beside it: itself,
configuration, tokenizer, texts. Not the weights: they are numbers, large, and of the revision. What
isn't pinned isn't there for the code (`engine.trusted`), which alone runs it.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from assay.cards import headers, paths
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from assay.cards.card import Card

FILES = "**/*.py"  # what else decides the scores, and so belongs to the revision
PINNED = (".py", ".json", ".jinja", ".model", ".txt")  # the hub is asked for these, too
_WEIGHTS = "*.safetensors"
_CACHE = "__pycache__"
_KIND = b"assay code 1\0"  # of digest: another list of files would be another kind
_DIGITS = 64
_AUTO_CLASSES = ("AutoModelForSequenceClassification", "AutoModel")


@dataclass(frozen=True, slots=True)
class Trust:
    """What a worker may run: code of this digest, from a folder that is the worker's alone."""

    digest: str
    private: Path


def auto_class(folder: Path) -> str | None:
    """Return transformers' auto class whose model the checkpoint's own code defines, if any.

    Raises:
        CheckpointError: The code is in another repository, which no digest of this one pins.
    """
    named = headers.config(folder).get("auto_map")
    if not isinstance(named, dict):
        return None
    if elsewhere := [reference for reference in named.values() if "--" in str(reference)]:
        raise CheckpointError(
            f"{folder}/config.json takes code from another repository ('{elsewhere[0]}'); copy its "
            "files into the folder and name them in auto_map without the repository"
        )
    return next((name for name in _AUTO_CLASSES if name in named), None)


def digest(folder: Path) -> str:
    """Return the SHA-256, in hex, over the names and contents of all that is pinned."""
    hasher = hashlib.sha256(_KIND)
    for name, path in _pinned(folder):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        hasher.update(name.encode("utf-8", "surrogateescape") + b"\0" + content)
    return hasher.hexdigest()


def copy(folder: Path, private: Path) -> None:
    """Make a folder hold all that is pinned of a checkpoint, links to its weights, and no more."""
    shutil.rmtree(private, ignore_errors=True)
    private.mkdir(mode=0o700)
    for name, path in _pinned(folder):
        target = private / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    for path in folder.glob(_WEIGHTS):
        (private / path.name).symlink_to(path.absolute())


def trusted(name: str, folder: Path, entries: Iterable[str]) -> str | None:
    """Return the digest at which some NAME@DIGEST lets a model run its own code; None: at none.

    Raises:
        CheckpointError: The model is trusted, and what is here is something else.
    """
    for entry in entries:
        model, _, pinned = entry.rpartition("@")
        if model == name:
            check(name, pinned, digest(folder))
            return pinned
    return None


def check(name: str, pinned: str, here: str) -> None:
    """Refuse code of another digest than the one that is trusted.

    Raises:
        CheckpointError: It is; says how to trust what is here.
    """
    if pinned == here:
        return
    why = f"its code is trusted at {pinned}, and here is {here}"
    if len(pinned) < _DIGITS:
        why = (
            f"its code is trusted at {pinned}, and that is no pin: other code can be made that has "
            f"these {len(pinned)} digits; only all {_DIGITS} are taken"
        )
    raise CheckpointError(
        f"{why}. Nothing of it was run. Read the code that is here, then trust it: "
        f"{option(name, here)}"
    )


def option(name: str, here: str) -> str:
    """Return the command's option that trusts a model's code, as a shell takes it."""
    return f"--trust-remote-code {shlex.quote(f'{name}@{here}')}"


def advice(name: str, folder: Path) -> list[str]:
    """Return how to trust the code that a checkpoint brings; nothing where it brings none."""
    if not (folder / headers.CONFIG).is_file() or auto_class(folder) is None:
        return []
    trusting = option(name, digest(folder))
    return [f"code of its own, as it is here, would be run by {trusting}; read it first"]


def runs(folder: Path, card: Card) -> bool:
    """Return whether a trusted model is served by its own code; a card's heads need none."""
    if card.heads or card.policy is not None or card.trunk.architecture is not None:
        return False
    return auto_class(folder) is not None


def _pinned(folder: Path) -> list[tuple[str, Path]]:
    """Return all files that are pinned with their names from the folder on, in their order.

    Nothing hidden, such as what git and the hub's tools keep of a download.
    """
    files = [
        (inner.as_posix(), path)
        for inner, path in ((path.relative_to(folder), path) for path in folder.rglob("*"))
        if path.suffix in PINNED and not any(map(_is_passed_over, inner.parts)) and path.is_file()
    ]
    for _, path in files:
        paths.check_inside(folder, path)
    return sorted(files)


def _is_passed_over(part: str) -> bool:
    return part.startswith(".") or part == _CACHE
