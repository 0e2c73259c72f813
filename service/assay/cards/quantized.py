"""Whether a checkpoint is quantized, and how: by config.json, the files beside it, and its tensors.

What is served has its weights' names and shapes told as they are once expanded; what isn't is
refused in a sentence. Loaded as if it weren't quantized, it would give other numbers, or an
exception deep in a library.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from safetensors import SafetensorError, safe_open

from assay.cards import headers, packed
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import numpy as np

    from assay.cards.headers import Tensor, Weights
    from assay.cards.packed import Packed, Read

    Layout = Callable[[Mapping[str, Any], Mapping[str, Tensor], Read], dict[str, Packed]]

KEYS = ("quantization_config", "compression_config")
_LAYOUTS = {
    "fp8": packed.fp8,
    "compressed-tensors": packed.compressed,
    "gptq": packed.gptq,
    "awq": packed.awq,
    "bitsandbytes": packed.bitsandbytes,
}
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
_ANY = re.compile("|".join(_TENSORS))
_NARROW = re.compile(r"F8_.*|F4.*|F6.*|U?INT\d+|[UI]\d+")
_MATRIX = 2
_TRANSPOSED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
_MOST_SMALL = 2**14  # numbers, of a tensor that says how another one is packed
_GIVE = "give the checkpoint in bfloat16, float16 or float32 that it was made from"


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of a checkpoint as a model takes them.

    `tensors` are all of them by name, the quantized ones with the shapes that they expand to;
    `packed` says how each of those lies in the files. `has_quantized_activations` where the
    checkpoint asks for it, which isn't done.
    """

    weights: Weights
    tensors: Mapping[str, Tensor]
    packed: Mapping[str, Packed] = field(default_factory=dict)
    method: str = ""
    has_quantized_activations: bool = False

    @property
    def has_fp8_rows(self) -> bool:
        """Whether all that is quantized is FP8 (e4m3) with a scale for each row or the tensor."""
        return all(map(self._is_fp8_in_rows, self.packed.values()))

    def _is_fp8_in_rows(self, one: Packed) -> bool:
        stored = self.weights.tensors
        if "weight" not in one.parts or stored[one.parts["weight"]].dtype != "F8_E4M3":
            return False
        match one.scheme:
            case packed.Fp8():
                return math.prod(stored[one.parts["scale"]].shape) == 1
            case packed.Compressed():
                return one.scheme.strategy in ("tensor", "channel") and one.scheme.is_symmetric
        return False


@dataclass(frozen=True, slots=True)
class _Declared:
    """What config.json says: the method by the file's word and by ours, and everything else."""

    method: str
    shown: str
    said: Mapping[str, Any]


def check(folder: Path) -> None:
    """Refuse a checkpoint that is quantized in a way which isn't served.

    Raises:
        CheckpointError: It is, or config.json can't be read.
    """
    declared = _declared(folder)
    if declared is not None:
        _layout(folder, declared)
    elif (how := _by_files(folder)) is not None:
        raise _unserved(folder, how)
    if not headers.has_weights(folder):
        return
    try:
        weights = headers.weights(folder)
    except CheckpointError:  # a damaged file is told by who reads it
        return
    _contents(folder, declared, weights)


def contents(folder: Path) -> Contents:
    """Return the tensors of a checkpoint as a model takes them.

    Raises:
        CheckpointError: A file is damaged, or quantized in a way which isn't served.
    """
    return _contents(folder, _declared(folder), headers.weights(folder))


def tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, quantized ones expanded; see `contents`."""
    return dict(contents(folder).tensors)


def advice(folder: Path) -> list[str]:
    """Return what becomes of a quantized checkpoint's weights; nothing of another's."""
    declared = _declared(folder)
    if declared is None or declared.method not in _LAYOUTS:
        return []
    said = f"its weights are quantized ({declared.shown}); they are expanded while they are loaded"
    return [f"{said}, and take the memory of plain ones"]


def note(folder: Path) -> str:
    """Return what an operator should know of a quantized checkpoint; nothing of another."""
    found = contents(folder) if _declared(folder) is not None else None
    if found is None or not found.has_quantized_activations:
        return ""
    return (
        f"its {found.method} weights are expanded, and activations are left as they are: scores "
        "are those of the dequantized model, not of a server that quantizes activations too"
    )


def _contents(folder: Path, declared: _Declared | None, weights: Weights) -> Contents:
    if declared is None:
        how = _of_tensors(weights.tensors)
        if how is not None:
            raise _unserved(folder, how)
        return Contents(weights, weights.tensors)
    layout = _layout(folder, declared)
    try:
        with _Small(weights.tensors) as small:
            found = layout(declared.said, weights.tensors, small)
    except packed.UnservedError as error:
        raise _unfit(folder, declared, str(error)) from error
    if not found:
        raise _unfit(folder, declared, "no tensor of its files is")
    whole = _rest(weights.tensors, found, declared.method)
    if twice := sorted(found.keys() & whole.keys()):
        raise _unfit(folder, declared, f"holds '{twice[0]}' beside what expands to it")
    if how := _of_tensors(whole):
        raise _unfit(folder, declared, f"holds what is none of that: {how}")
    expanded = {
        name: headers.Tensor(one.shape, "F32", weights.tensors[next(iter(one.parts.values()))].file)
        for name, one in found.items()
    }
    activations = _quantizes_activations(declared, found)
    return Contents(weights, whole | expanded, found, declared.shown, activations)


def _rest(
    stored: Mapping[str, Tensor], found: Mapping[str, Packed], method: str
) -> dict[str, Tensor]:
    """Return the tensors that aren't quantized, without what is said of activations."""
    taken = {name for one in found.values() for name in one.parts.values()}
    unread = packed.UNREAD if method in ("fp8", "compressed-tensors") else ()
    return {
        name: tensor
        for name, tensor in stored.items()
        if name not in taken and not name.endswith(unread)
    }


def _quantizes_activations(declared: _Declared, found: Mapping[str, Packed]) -> bool:
    if declared.method == "compressed-tensors":
        groups = declared.said["config_groups"].values()
        return any(group.get("input_activations") for group in groups)
    return any(isinstance(one.scheme, packed.Fp8 | packed.Bnb8) for one in found.values())


class _Small:
    """Reads tensors that say how others are packed; none of them is large."""

    def __init__(self, stored: Mapping[str, Tensor]) -> None:
        self._tensors = stored
        self._files = contextlib.ExitStack()
        self._opened: dict[Path, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def __call__(self, name: str) -> np.ndarray:
        """Return the numbers of a tensor."""
        tensor = self._tensors[name]
        if math.prod(tensor.shape) > _MOST_SMALL:
            raise packed.UnservedError(f"'{name}' has the shape {[*tensor.shape]}")
        try:
            if tensor.file not in self._opened:
                opened = self._files.enter_context(safe_open(tensor.file, framework="np"))
                self._opened[tensor.file] = opened
            numbers: np.ndarray = self._opened[tensor.file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{tensor.file} is damaged or cut short ({error}); copy it again"
            ) from error
        return numbers


def _layout(folder: Path, declared: _Declared) -> Layout:
    layout = _LAYOUTS.get(declared.method)
    if layout is None:
        raise _unserved(folder, f"{declared.shown}, by config.json")
    kind = headers.json_object(folder / headers.CONFIG).get("model_type")
    if kind in _TRANSPOSED:
        raise _unserved(folder, f"{declared.shown}, by config.json, with the layers of '{kind}'")
    return layout


def _unserved(folder: Path, how: str) -> CheckpointError:
    return CheckpointError(f"{folder} is quantized ({how}), which isn't served yet; {_GIVE}")


def _unfit(folder: Path, declared: _Declared, why: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} is quantized ({declared.shown}, by config.json), and {why}; {_GIVE}"
    )


def _by_files(folder: Path) -> str | None:
    """Return how a checkpoint is quantized by the files beside config.json."""
    for file, name in _FILES.items():
        if (folder / file).is_file():
            return f"{name}, by {file}"
    return "GGUF" if any(folder.glob("*.gguf")) and not headers.has_weights(folder) else None


def _declared(folder: Path) -> _Declared | None:
    """Return the method that config.json names, for the model or for its language part."""
    path = folder / headers.CONFIG
    config = headers.json_object(path) if path.is_file() else {}
    for section in (config, config.get("text_config"), config.get("llm_config")):
        for key in KEYS:
            said = section.get(key) if isinstance(section, dict) else None
            if said and (declared := _method(said)):
                return declared
    return None


def _method(said: Any) -> _Declared | None:
    if not isinstance(said, dict):
        return _Declared("", "by a method that it doesn't name", {})
    four, eight = said.get("load_in_4bit"), said.get("load_in_8bit")
    method = str(said.get("quant_method") or said.get("quant_algo") or "")
    if method in ("", "bitsandbytes") and "load_in_4bit" in said and not four and not eight:
        return None
    if (four or eight) and method in ("", "bitsandbytes"):
        return _Declared("bitsandbytes", f"bitsandbytes, {4 if four else 8} bit", said)
    shown = _NAMES.get(method, method or "by a method that it doesn't name")
    return _Declared(method, shown, said)


def _of_tensors(tensors: Mapping[str, headers.Tensor]) -> str | None:
    """Return how tensors are quantized by their names, or by a matrix of few bits a number."""
    suspects = [name for name in tensors if _ANY.search(name)]
    for pattern, how in _TENSORS.items():
        name = next((name for name in suspects if re.search(pattern, name)), None)
        if name is not None:
            return f"{how}, by the tensor '{name}'"
    for name, tensor in tensors.items():
        is_matrix = name.endswith("weight") and len(tensor.shape) >= _MATRIX
        if is_matrix and _NARROW.fullmatch(tensor.dtype):
            return f"{tensor.dtype}, by the tensor '{name}'"
    return None
