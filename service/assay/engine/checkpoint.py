"""From a folder of safetensors to a model whose every tensor came from the file.

transformers fills what a file lacks with random numbers and only warns: here a missing, left-over
or misshapen tensor stops the start with its name. No remote code, no pickles.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError, safe_open

from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SUFFIX = "ForSequenceClassification"
_SHOWN = 5


def load(
    folder: Path, *, device: torch.device, dtype: torch.dtype | None
) -> transformers.PreTrainedModel:
    """Return the model in evaluation mode on the device, head in float32.

    `dtype` is the trunk's; None keeps the checkpoint's own.

    Raises:
        CheckpointError: The folder can't be served with the right numbers; says which tensor.
    """
    config = _config(folder)
    architecture = _architecture(config)
    names = _tensor_names(folder)
    try:
        model, report = architecture.from_pretrained(
            folder,
            config=config,
            dtype="auto" if dtype is None else dtype,
            device_map={"": device} if device.type != "cpu" else None,
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported, and refused below by name
        )
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} can't be loaded: {_first_line(error)}") from error
    _check_complete(folder, report)
    model.eval()
    model.requires_grad_(False)
    model.config.use_cache = False
    _restore_head_precision(model, names)
    return model


def head_modules(model: transformers.PreTrainedModel) -> list[torch.nn.Module]:
    """Return the modules above the trunk, those of its pooler included."""
    modules = [module for name, module in model.named_children() if name != model.base_model_prefix]
    pooler = getattr(model.base_model, "pooler", None)
    return modules if pooler is None else [pooler, *modules]


def _config(folder: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{folder}/config.json can't be used: {_first_line(error)}"
        ) from error


def _architecture(config: Any) -> Any:
    """Return transformers' class for the checkpoint; anything but a one-score head is refused."""
    named = (getattr(config, "architectures", None) or ["none"])[0]
    if not named.endswith(SUFFIX):
        raise CheckpointError(
            f"config.json names the architecture '{named}', which has no reward head; Assay serves "
            f"checkpoints of class …{SUFFIX}"
        )
    architecture = getattr(transformers, named, None)
    if architecture is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no class '{named}'; checkpoints that "
            "bring their own code are not run"
        )
    if config.num_labels != 1:
        raise CheckpointError(
            f"config.json declares {config.num_labels} labels; a reward head has one (num_labels=1)"
        )
    return architecture


def _tensor_names(folder: Path) -> dict[str, Path]:
    """Return every tensor's file, from the headers alone."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / name for name in sorted(set(_weight_map(index).values()))]
    else:
        files = [folder / "model.safetensors"]
    names: dict[str, Path] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        try:
            with safe_open(file, framework="pt") as tensors:
                names |= dict.fromkeys(tensors.keys(), file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is damaged or cut short ({_first_line(error)}); copy it again"
            ) from error
    return names


def _weight_map(index: Path) -> dict[str, str]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{index} is not a valid index ({_first_line(error)})") from error
    return weight_map


def _check_complete(folder: Path, report: dict[str, Any]) -> None:
    missing, left_over = report["missing_keys"], report["unexpected_keys"]
    misshapen = [entry[0] for entry in report["mismatched_keys"]]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {_listed(missing)}; it would be filled with random numbers. Is this "
            "the trained reward model, or its base?"
        )
    if misshapen:
        raise CheckpointError(f"{folder}: {_listed(misshapen)} has another shape than config.json")
    if left_over:
        raise CheckpointError(
            f"{folder} holds {_listed(left_over)}, which this architecture doesn't read; the "
            "model would not be the one that was trained"
        )


def _restore_head_precision(model: transformers.PreTrainedModel, names: dict[str, Path]) -> None:
    """Turn the head to float32, from the file's own numbers where the trunk's dtype cut them."""
    in_head = {id(parameter) for module in head_modules(model) for parameter in module.parameters()}
    for module in head_modules(model):
        module.float()
    for name, parameter in model.named_parameters():
        if id(parameter) in in_head and name in names:
            with safe_open(names[name], framework="pt") as tensors:
                parameter.data = tensors.get_tensor(name).to(parameter.device, torch.float32)


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(f"'{name}'" for name in ordered[:_SHOWN]) + more


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
