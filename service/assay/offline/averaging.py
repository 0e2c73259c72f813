"""The mean of several checkpoints' weights as one checkpoint (WARM, Ramé et al. 2401.12187).

Tensors are read, averaged in float32 and written a piece at a time, into the first checkpoint's
files: their headers are taken as they are. Not here: members that are served together (`targets`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np
import tomli_w

from assay.cards import adapter, code, headers, quantized, repository, stored_numbers
from assay.cards import card as cards
from assay.errors import CheckpointError
from assay.offline import folders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from assay.cards.repository import Found
    from assay.cards.stored_numbers import Place

_PROVENANCE = ("_name_or_path", "transformers_version")  # of config.json: no score depends on it
_MEASURED = ("statistics", "evaluation", "agreement", "length", "golden", "source")
_PIECE = 1 << 22  # numbers of each checkpoint in memory at a time


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """One that is averaged: what was found, and where each of its tensors stands."""

    found: Found
    places: Mapping[str, Place]

    @property
    def folder(self) -> Path:
        return self.found.folder


def average(found: Sequence[Found], output: Path) -> None:
    """Write the mean of some checkpoints' weights into a new folder, as the first one is written.

    Raises:
        CheckpointError: They aren't fine-tunes of one architecture, or the folder is there already.
            Nothing is left of what was written.
    """
    sources = [_opened(one) for one in found]
    first, *others = sources
    if not others or len({source.folder for source in sources}) < len(sources):
        raise CheckpointError("give at least two different checkpoints to average")
    for other in others:
        _check_alike(first, other)
    with folders.written(output) as folder:
        _copy(first.folder, folder)
        for file in _files(first):
            _write(file, folder / file.name, sources)
        (folder / cards.FILE_NAME).write_text(_card(found), encoding="utf-8")


def _opened(found: Found) -> _Checkpoint:
    folder = found.folder
    if found.doubts:
        raise CheckpointError(f"{folder} looks like {found.family}, but: {'; '.join(found.doubts)}")
    if adapter.is_adapter(folder):
        raise CheckpointError(f"{folder} is an adapter; merge it into its base before averaging")
    for checkpoint in repository.source(found).checkpoints:
        if checkpoint.folder != folder or found.card.policy is not None:
            raise CheckpointError(f"{folder} is made of several models; average theirs instead")
    if (contents := quantized.contents(folder)).packed:
        raise CheckpointError(
            f"{folder} is quantized ({contents.method}); average the weights it was made from"
        )
    for name, head in found.card.heads.items():
        if head.file is not None and not head.file.endswith(".safetensors"):
            raise CheckpointError(
                f"{folder}: the head '{name}' is in {head.file}, a pickle; convert it to "
                ".safetensors before averaging"
            )
    files = {tensor.file for tensor in contents.tensors.values()} | _head_files(found)
    return _Checkpoint(
        found,
        {
            name: place
            for file in sorted(files)
            for name, place in stored_numbers.places(file).items()
        },
    )


def _head_files(found: Found) -> set[Path]:
    """Return the files of heads of their own; not of what was fitted to the weights there were."""
    kept = _kept_heads(found.card)
    return {found.folder / head.file for head in kept.values() if head.file is not None}


def _kept_heads(card: cards.Card) -> dict[str, Any]:
    is_fitted = card.spread is not None and card.spread.kind == "laplace"
    return {name: head for name, head in card.heads.items() if not (is_fitted and name == "spread")}


def _files(source: _Checkpoint) -> list[Path]:
    return sorted({place.file for place in source.places.values()})


def _check_alike(first: _Checkpoint, other: _Checkpoint) -> None:
    """Refuse checkpoints that differ in more than their numbers."""
    pair = f"{first.folder} and {other.folder}"
    for name in sorted(first.places.keys() ^ other.places.keys()):
        there, lacks = (first, other) if name in first.places else (other, first)
        raise CheckpointError(f"{there.folder} has a tensor '{name}' and {lacks.folder} has none")
    for name, place in first.places.items():
        for what in ("shape", "dtype"):
            ours, theirs = getattr(place, what), getattr(other.places[name], what)
            if ours != theirs:
                raise CheckpointError(
                    f"{pair} differ in the {what} of '{name}': {_said(ours)} and {_said(theirs)}"
                )
    configs = [headers.config(one.folder) for one in (first, other)]
    for key in sorted(configs[0].keys() | configs[1].keys()):
        if key not in _PROVENANCE and configs[0].get(key) != configs[1].get(key):
            raise CheckpointError(f"{pair} differ in config.json: '{key}' isn't the same")
    if repository.template_key(first.folder) != repository.template_key(other.folder):
        raise CheckpointError(f"{pair} differ in their tokenizer's files or chat template")
    if _mechanism(first.found.card) != _mechanism(other.found.card):
        raise CheckpointError(f"{pair} differ in their cards: they aren't read alike")


def _said(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _mechanism(card: cards.Card) -> object:
    said = card.model_copy(update={"heads": _kept_heads(card), "spread": None})
    return said.model_dump(include={*repository.MECHANISM, "ensemble"})


def _copy(source: Path, folder: Path) -> None:
    """Copy what isn't weights: configuration, tokenizer, an index of shards, code."""
    patterns = (*repository.TEMPLATE_FILES, headers.CONFIG, "*.safetensors.index.json", code.FILES)
    for path in {path for pattern in patterns for path in source.glob(pattern) if path.is_file()}:
        copied = folder / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)


def _write(file: Path, output: Path, sources: Sequence[_Checkpoint]) -> None:
    """Write one of the first checkpoint's files with the mean of everybody's numbers."""
    places = stored_numbers.places(file)
    with output.open("wb") as opened:
        opened.write(stored_numbers.header(file))
        for name, place in sorted(places.items(), key=lambda item: item[1].begin):
            opened.seek(place.begin)
            same = [source.places[name] for source in sources]
            for piece in _mean(name, same, sources[0].found.card.trunk.unused):
                opened.write(piece.tobytes())


def _mean(name: str, places: Sequence[Place], unused: Sequence[str]) -> Iterator[np.ndarray]:
    """Yield the mean of a tensor's numbers; of what aren't floats what all have."""
    dtype = places[0].dtype
    if dtype not in stored_numbers.KINDS:
        yield from _same(name, places, unused)
        return
    kind = stored_numbers.KINDS[dtype]
    for stored in zip(
        *(stored_numbers.pieces(place, kind, _PIECE) for place in places), strict=True
    ):
        total = np.zeros(len(stored[0]), np.float32)
        for piece in stored:
            total += stored_numbers.floats(piece, dtype).astype(np.float32)
        mean = stored_numbers.rounded(total / np.float32(len(places)), dtype)
        if not np.isfinite(stored_numbers.floats(mean, dtype)).all():
            raise CheckpointError(f"'{name}' has numbers whose mean isn't finite")
        yield mean


def _same(name: str, places: Sequence[Place], unused: Sequence[str]) -> Iterator[np.ndarray]:
    for stored in zip(
        *(stored_numbers.pieces(place, "u1", _PIECE) for place in places), strict=True
    ):
        first, *others = stored
        is_read = not any(fnmatchcase(name, pattern) for pattern in unused)
        if is_read and not all(np.array_equal(first, other) for other in others):
            raise CheckpointError(
                f"'{name}' is of type {places[0].dtype}, which isn't averaged, and isn't the same "
                "in all checkpoints"
            )
        yield first


def _card(found: Sequence[Found]) -> str:
    """Return the first one's card without what was measured of it, and what it is the mean of."""
    card = found[0].card
    update: dict[str, Any] = {"heads": _kept_heads(card)}
    if "spread" not in update["heads"]:
        update["spread"] = None
    said = card.model_copy(update=update).model_dump(
        mode="json", exclude_defaults=True, exclude_none=True, exclude=set(_MEASURED)
    )
    said["averaged"] = [
        {"name": one.name, "revision": repository.revision(one.folder, one.card)} for one in found
    ]
    return tomli_w.dumps(said)
