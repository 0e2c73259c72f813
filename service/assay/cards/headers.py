"""What a checkpoint's files say about themselves: config.json, and each tensor's name and shape.

The one reader of which files are a checkpoint's weights: recognising, loading, trunk and heads all
ask here. Only headers are read, never weights, but where a folder holds two whole sets of them.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from assay.cards import paths, pickled, sameness, sizes
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CHOSEN = "transformers_weights"  # transformers' name for which file of a folder it loads
# Whole sets of weights: a single file or an index of shards, also of a variant such as fp16. Not
# `consolidated.safetensors`: under Mistral's own names it is skipped, as transformers does.
_SET = re.compile(
    r"model(\.\w+)?\.safetensors|(?!consolidated|adapter_).+\.safetensors\.index(\.\w+)?\.json"
)
_MOST_JSON = 2**28  # bytes
_CONSOLIDATED = re.compile(r"consolidated\.safetensors(\.index\.json)?")


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a safetensors file; `dtype` as the format spells it, such as BF16."""

    shape: tuple[int, ...]
    dtype: str
    file: Path


def config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json.

    Raises:
        CheckpointError: There is none, it isn't a JSON object, or states sizes that no model has.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {CONFIG}; give the folder of a transformers checkpoint"
        )
    said = json_object(path)
    sizes.check(path, said)
    return said


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint's weights: the single file or index that names them all, and its tensors."""

    name: str
    tensors: Mapping[str, Tensor]

    @property
    def files(self) -> dict[str, Path]:
        """Each tensor's file."""
        return {name: tensor.file for name, tensor in self.tensors.items()}


def has_weights(folder: Path) -> bool:
    """Whether a folder holds a set of weights, whole or not."""
    return bool(_sets(folder))


def weights(folder: Path) -> Weights:
    """Return the weights that every reader of a checkpoint takes: the trunk's and its heads'.

    Raises:
        CheckpointError: A set is incomplete or damaged, or there are two and they aren't equal.
    """
    named = _sets(folder) or [WEIGHTS]
    declared = _declared(folder)
    if declared is not None:
        return Weights(declared, _of_set(folder, declared))
    first, *others = _whole(folder, named)
    for other in (*others, *_consolidated(folder, first)):
        if not sameness.are_equal(first.files, other.files, rounded=_is_variant(other.name)):
            raise CheckpointError(
                f"{folder} holds two sets of weights that aren't equal, {first.name} and "
                f"{other.name}; move away the one that isn't meant"
            )
    return first


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint's own weights; see `weights`."""
    return dict(weights(folder).tensors)


def _whole(folder: Path, named: list[str]) -> list[Weights]:
    """Return the sets of those names.

    Raises:
        CheckpointError: One is incomplete or damaged; where another is whole, both are named.
    """
    whole, broken = [], {}
    for name in named:
        try:
            whole.append(Weights(name, _of_set(folder, name)))
        except CheckpointError as error:
            broken[name] = error
    for name, why in broken.items():
        raise _beside(folder, whole[0].name, name, why) if whole else why
    return whole


def _consolidated(folder: Path, first: Weights) -> Iterator[Weights]:
    """Yield Mistral's own file or index where it has transformers' names, not Mistral's."""
    for path in sorted(folder.glob("consolidated.safetensors*")):
        if not _CONSOLIDATED.fullmatch(path.name):
            continue
        with contextlib.suppress(CheckpointError):  # transformers doesn't read it, broken or not
            consolidated = Weights(path.name, _of_set(folder, path.name))
            if consolidated.tensors.keys() == first.tensors.keys():
                yield consolidated


def _beside(folder: Path, whole: str, broken: str, error: CheckpointError) -> CheckpointError:
    """Return what tells which of two sets to move away."""
    return CheckpointError(
        f"{folder} holds two sets of weights, {whole} and {broken}, and the second isn't whole; "
        f"move {broken} away if the first is meant, or else mend it: {error.message}"
    )


def _sets(folder: Path) -> list[str]:
    """Return the files that each stand for a set of weights; transformers' own names first."""
    names = [path.name for path in folder.iterdir() if _SET.fullmatch(path.name)]
    return sorted(names, key=lambda name: (_is_variant(name), name))


def _is_variant(name: str) -> bool:
    return name not in (WEIGHTS, INDEX)


def _declared(folder: Path) -> str | None:
    """Return the file that config.json names for its weights, as transformers reads it."""
    path = folder / CONFIG
    name = json_object(path).get(_CHOSEN) if path.is_file() else None
    if name is not None and (not isinstance(name, str) or not _is_plain(name)):
        raise CheckpointError(
            f"{path}: '{_CHOSEN}' must name a .safetensors file of that folder, or an index"
        )
    return name


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the folder itself, whose bytes its revision counts."""
    return name.endswith((".safetensors", ".safetensors.index.json")) and not (
        "/" in name or "\\" in name
    )


def _of_set(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the tensors of a single file, or of all files that an index names.

    Raises:
        CheckpointError: A file is missing or damaged, or has not what the index says.
    """
    path = folder / name
    if not name.endswith(".json"):
        return in_files([path])
    places = json_object(path).get("weight_map")
    if not isinstance(places, dict) or not all(
        isinstance(file, str) and _is_plain(file) for file in places.values()
    ):
        raise CheckpointError(
            f"{path} is not a valid index: it has no 'weight_map' of names of safetensors files in "
            "that folder"
        )
    by_name = _in_shards(folder / file for file in sorted(set(places.values())))
    if lost := sorted(places.keys() - by_name.keys()):
        raise CheckpointError(
            f"{path} places '{lost[0]}' in {places[lost[0]]}, which doesn't hold it; "
            "copy the files again"
        )
    return by_name


def _in_shards(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors of an index's files, none of which lies in two of them with two values."""
    by_name: dict[str, Tensor] = {}
    for file in files:
        shard = in_files([file])
        for name in by_name.keys() & shard.keys():
            if not sameness.are_equal({name: by_name[name].file}, {name: file}):
                raise CheckpointError(
                    f"'{name}' has one value in {by_name[name].file} and another in {file}; copy "
                    "the files again"
                )
        by_name |= shard
    return by_name


def in_files(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return every tensor of some safetensors files.

    Raises:
        CheckpointError: One is missing, damaged or cut short.
    """
    by_name: dict[str, Tensor] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        try:
            with safe_open(file, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118  not a mapping
                    entry = opened.get_slice(name)
                    by_name[name] = Tensor(tuple(entry.get_shape()), entry.get_dtype(), file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is damaged or cut short ({error}); copy it again"
            ) from error
    return by_name


def head_files(folder: Path, name: str) -> list[Path]:
    """Return where a head's own file may lie: LLaMA-Factory writes one name with either suffix.

    The one that can be read without running code comes first, as LLaMA-Factory reads it.

    Raises:
        CheckpointError: One is a link that leads out of the folder.
    """
    path = folder / name
    candidates = [path]
    if path.suffix in (".safetensors", ".bin"):
        candidates = [path.with_suffix(".safetensors"), path.with_suffix(".bin")]
    for candidate in candidates:
        paths.check_inside(folder, candidate)
    return candidates


def of_head_file(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor in a head's own file, .safetensors or torch's.

    Raises:
        CheckpointError: It is missing, damaged, or holds no tensors by name.
    """
    path = next((path for path in head_files(folder, name) if path.is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder / name} is missing; the card reads a head from it")
    if path.suffix != ".safetensors":
        return pickled.shapes(path)
    return {name: tensor.shape for name, tensor in in_files([path]).items()}


def labels(config: Mapping[str, Any]) -> int:
    """Return how many labels transformers makes of a config; two where it says nothing."""
    names = config.get("id2label")
    return len(names) if isinstance(names, dict) else int(config.get("num_labels") or 2)


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: It isn't JSON, or not an object.
    """
    try:
        if path.stat().st_size > _MOST_JSON:
            raise CheckpointError(f"{path} has over {_MOST_JSON} bytes, which no such file has")
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise CheckpointError(f"{path} is nested too deep") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content
