"""A PEFT adapter's folder: what marks it, the base it was trained on, its tensors by name.

Not here: putting adapter and base together (`engine.adapter`), and fetching a base (`repository`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import headers
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."  # of every tensor's name
_VOCABULARIES = ("tokenizer.json", "*.model", "vocab*")
_PATH_STARTS = ("/", ".", "~")


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, to be put on a base that is elsewhere.

    Raises:
        CheckpointError: It holds a trunk's own weights, too: which of the two is meant?
    """
    if not (folder / CONFIG).is_file():
        return False
    if headers.has_weights(folder):
        raise CheckpointError(
            f"{folder} holds both an adapter ({CONFIG}) and a whole model's weights; keep each in "
            "a folder of its own"
        )
    return True


def base_of(folder: Path) -> Path | str:
    """Return an adapter's base: a folder that exists, or a hub id `name[@revision]`.

    Raises:
        CheckpointError: The adapter is incomplete, or names a folder that isn't there.
    """
    if not (folder / WEIGHTS).is_file():
        contents = f"only {_PICKLE}, a pickle" if (folder / _PICKLE).is_file() else f"no {WEIGHTS}"
        raise CheckpointError(
            f"{folder} holds {contents}; save the adapter with safe_serialization=True"
        )
    said = headers.json_object(folder / CONFIG)
    name = said.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"{folder / CONFIG} doesn't say its base_model_name_or_path")
    local = folder / Path(name).expanduser()  # an absolute name stays what it is
    if local.is_dir():
        return local.resolve()
    if name.startswith(_PATH_STARTS):
        raise CheckpointError(
            f"{folder / CONFIG} names the base '{name}', which is not a folder here; say where it "
            "is in base_model_name_or_path: a path, also from the adapter's folder, or a hub id"
        )
    revision = said.get("revision")
    return f"{name}@{revision}" if revision else name


def base_folder(folder: Path, fetch: Callable[[str], Path]) -> Path:
    """Return the folder of an adapter's base; `fetch` turns a hub id into one.

    Raises:
        CheckpointError: There is none, or it is itself an adapter.
    """
    base = base_of(folder)
    path = base if isinstance(base, Path) else fetch(base)
    if (path / CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: its base {path} is an adapter itself ({CONFIG}); merge that one into its "
            "own base first"
        )
    return path


def config_folder(folder: Path, base: Path) -> Path:
    """Return whose config.json counts: the adapter's, or its base's where it has none."""
    return folder if (folder / headers.CONFIG).is_file() else base


def tokenizer_folder(folder: Path, base: Path) -> Path:
    """Return whose tokenizer and chat template count: the adapter's, or else its base's."""
    has_own = any(file for pattern in _VOCABULARIES for file in folder.glob(pattern))
    return folder if has_own else base


def tensors(folder: Path) -> dict[str, headers.Tensor]:
    """Return an adapter's tensors by their names within the model, from the header alone.

    Raises:
        CheckpointError: The file is missing, damaged or cut short.
    """
    prefixed = headers.in_files([folder / WEIGHTS])
    return {name.removeprefix(_PREFIX): tensor for name, tensor in prefixed.items()}
