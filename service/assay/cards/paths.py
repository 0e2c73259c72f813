"""Folders by whatever path leads there, and the name that a folder is served under.

A path is bytes to the system and text to everybody else: it may come from a shell in any locale,
from a file in UTF-8, or from a request. Names are text that can be printed, sent and typed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from assay import scratch
from assay.errors import UNPRINTABLE, CheckpointError

_HUB_FOLDER = "models--"  # the hub's cache: models--ORG--NAME/snapshots/COMMIT
_SNAPSHOTS = "snapshots"
_BLOBS = "blobs"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_NAMELESS = "model"  # what is served from the file system's root
_STRANGE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST = 64  # characters of a link's own name


def of(text: str) -> Path:
    """Return the path that a text names, `~` expanded, whatever the locale says of its letters."""
    path = Path(os.fsdecode(_bytes(text)))
    try:
        return path.expanduser()
    except RuntimeError:  # a home that nobody has
        return path


def exists(text: str) -> bool:
    """Whether there is anything at a path; not at one that no file can have."""
    try:
        return bool(text) and of(text).exists()
    except (OSError, ValueError):
        return False


def label(text: str) -> str:
    """Return a file's name as text: what is UTF-8 as it reads, what is none or no letter as `_`."""
    return UNPRINTABLE.sub("_", _bytes(text).decode("utf-8", "surrogateescape"))


def name(text: str) -> str:
    """Return the name that the folder at a path is served under: its own, or its link's.

    A snapshot in the hub's cache is called as its repository, never as a commit.
    """
    path = _spelt(of(text))
    if path.name.startswith(_HUB_FOLDER):
        return _hub_id(path)
    if path.parent.name == _SNAPSHOTS and path.parents[1].name.startswith(_HUB_FOLDER):
        return _hub_id(path.parents[1])
    while path.name == _SNAPSHOTS or _COMMIT.fullmatch(path.name):
        path = path.parent
    return label(path.name) or _NAMELESS


def spellings(text: str) -> set[str]:
    """Return how a caller may spell what was given as this: as it was, without a slash, whole.

    Of `CARD=PATH` also the path alone.
    """
    spelt = {text, text.rstrip("/") or text}
    _, _, path = text.partition("=")
    if exists(text):
        spelt.add(str(_spelt(of(text))))
    elif exists(path):
        spelt |= spellings(path)
    return {_bytes(spelling).decode("utf-8", "surrogateescape") for spelling in spelt}


def longer_name(text: str) -> str:
    """Return a name that tells a folder from others called alike: its parent's before its own."""
    parent = label(_spelt(of(text)).parent.name)
    return f"{parent}-{name(text)}" if parent else name(text)


def readable(folder: Path) -> Path:
    """Return a path to a folder that libraries written in Rust can open, which want UTF-8.

    Another one is reached by a link, which is there as long as the front is.
    """
    if not UNPRINTABLE.search(str(folder)):
        return folder
    told_apart = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    link = scratch.folder() / f"{told_apart}-{_STRANGE.sub('_', folder.name)[:_LONGEST]}"
    with contextlib.suppress(FileExistsError):
        link.symlink_to(folder.absolute())
    return link


def check_inside(folder: Path, path: Path) -> None:
    """Refuse what lies elsewhere than in its folder, by links or by its name.

    A snapshot in the hub's cache is made of links to that cache's own files.

    Raises:
        CheckpointError: It does.
    """
    try:
        root, real = folder.resolve(), path.resolve()
    except RuntimeError as error:  # links that lead in a circle
        raise CheckpointError(f"{path} is a link that leads nowhere") from error
    roots = [root]
    if root.parent.name == _SNAPSHOTS and root.parents[1].name.startswith(_HUB_FOLDER):
        roots.append(root.parents[1] / _BLOBS)
    if not any(real.is_relative_to(root) for root in roots):
        raise CheckpointError(
            f"{path} is a link that leads out of its folder, to {real}; copy or move the file there"
        )


def _spelt(path: Path) -> Path:
    """Return an absolute path without `..`, its links not followed where they need not be."""
    parts = path.absolute().parts
    if ".." not in parts:
        return Path(*parts)
    after = len(parts) - parts[::-1].index("..")
    return Path(*parts[:after]).resolve().joinpath(*parts[after:])


def _hub_id(path: Path) -> str:
    return label(path.name.removeprefix(_HUB_FOLDER).replace("--", "/"))


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, that JSON can spell: no file is called so
        return text.encode("utf-8", "replace")
