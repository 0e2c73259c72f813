"""Whether a checkpoint is quantized, and how: by config.json, the files beside it, and its tensors.

Such checkpoints aren't served yet. Loaded as if they weren't, they would give other numbers, or an
exception deep in a library.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from assay.cards import headers
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_KEYS = ("quantization_config", "compression_config")
# What some tools write beside config.json, and whose it is.
_FILES = {
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "hf_quant_config.json": "ModelOpt",
    "quanto_qmap.json": "quanto",
}
_NAMES = {
    "awq": "AWQ",
    "gptq": "GPTQ",
    "fp8": "FP8",
    "fbgemm_fp8": "FP8",
    "modelopt": "ModelOpt",
    "aqlm": "AQLM",
    "hqq": "HQQ",
    "eetq": "EETQ",
    "mxfp4": "MXFP4",
}
_TENSORS = {
    r"\.qweight$": "GPTQ or AWQ",
    r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\..+)$": (
        "bitsandbytes, 4 bit"
    ),
    r"\.(SCB|weight_format)$": "bitsandbytes, 8 bit",
    r"\.(weight_packed|weight_shape|weight_zero_point)$": "compressed-tensors",
    r"\.(weight_scale_inv|weight_scale|weight_scale_2|weight_scales|input_scale)$": (
        "a scale beside each weight"
    ),
    r"_proj_(blocks|scales)$": "MXFP4",
    r"\.W_q$": "HQQ",
    r"\.(codebooks|codes)$": "AQLM",
    r"\.weight(\._data|\._scale|\._shift|:\w+)$": "quanto or torchao",
}
_NARROW = re.compile(r"F8_.*|F4.*|F6.*|U?INT\d+|[UI]\d+")
_MATRIX = 2


def check(folder: Path) -> None:
    """Refuse a quantized checkpoint.

    Raises:
        CheckpointError: It is one, or config.json can't be read.
    """
    how = _how(folder)
    if how is not None:
        raise CheckpointError(
            f"{folder} is quantized ({how}), which isn't served yet; give the checkpoint in "
            "bfloat16, float16 or float32 that it was made from"
        )


def _how(folder: Path) -> str | None:
    """Return how a checkpoint is quantized, and what says so; None where nothing does."""
    config = folder / headers.CONFIG
    if config.is_file() and (said := _declared(headers.json_object(config))):
        return f"{said}, by config.json"
    for file, name in _FILES.items():
        if (folder / file).is_file():
            return f"{name}, by {file}"
    if any(folder.glob("*.gguf")) and not headers.has_weights(folder):
        return "GGUF"
    try:
        return _of_tensors(headers.tensors(folder)) if headers.has_weights(folder) else None
    except CheckpointError:  # a damaged file is told by who reads it
        return None


def _declared(config: Mapping[str, Any]) -> str | None:
    """Return the method that config.json names, for the model or for its language part."""
    for section in (config, config.get("text_config"), config.get("llm_config")):
        for key in _KEYS:
            said = section.get(key) if isinstance(section, dict) else None
            if said and (method := _method(said)):
                return method
    return None


def _method(said: Any) -> str | None:
    if not isinstance(said, dict):
        return "by a method that it doesn't name"
    four, eight = said.get("load_in_4bit"), said.get("load_in_8bit")
    method = str(said.get("quant_method") or said.get("quant_algo") or "")
    if method in ("", "bitsandbytes") and "load_in_4bit" in said and not four and not eight:
        return None
    if four or eight:
        return f"bitsandbytes, {4 if four else 8} bit"
    return _NAMES.get(method, method or "by a method that it doesn't name")


def _of_tensors(tensors: Mapping[str, headers.Tensor]) -> str | None:
    """Return how tensors are quantized by their names, or by a matrix of few bits a number."""
    for pattern, how in _TENSORS.items():
        name = next((name for name in tensors if re.search(pattern, name)), None)
        if name is not None:
            return f"{how}, by the tensor '{name}'"
    for name, tensor in tensors.items():
        is_matrix = name.endswith("weight") and len(tensor.shape) >= _MATRIX
        if is_matrix and _NARROW.fullmatch(tensor.dtype):
            return f"{tensor.dtype}, by the tensor '{name}'"
    return None
