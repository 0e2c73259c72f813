"""Checkpoints in quantized layouts, and the same ones dequantized, number by number, by numpy.

Nothing of Assay's and of no library's: layouts as their authors publish them, written down a second
time. Numbers are quantized coarsely, rounding to nearest: what is compared is what they stand for.
"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Tensors = dict[str, torch.Tensor]
    Quantize = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]


def quantize(folder: Path, said: dict[str, Any], change: Quantize) -> Path:
    """Quantize a checkpoint in its folder, and return the folder of its dequantized twin.

    `said` goes into config.json; `change` returns a weight's tensors by their names, and what they
    stand for.
    """
    twin = folder.with_name(f"{folder.name}-dequantized")
    shutil.copytree(folder, twin)
    stored = load_file(folder / "model.safetensors")
    packed, dense = {}, {}
    for name, tensor in stored.items():
        packed[name] = dense[name] = tensor
        if tensor.ndim == 2 and ".layer" in name:
            del packed[name]
            parts, numbers = change(name.removesuffix(".weight"), tensor.float())
            packed |= parts
            assert numbers.shape == tensor.shape
            dense[name] = numbers.float()
    for path, tensors in ((folder, packed), (twin, dense)):
        whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
        save_file(whole, path / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": said}))
    return twin


# --- FP8 --------------------------------------------------------------------------------------


def fp8(block: tuple[int, int] | None, scales: torch.dtype = torch.float32) -> Quantize:
    """Return what writes FP8 as transformers' FineGrainedFP8 does, by blocks or by tensor."""

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        height, width = block or weight.shape
        grid = -(-weight.shape[0] // height), -(-weight.shape[1] // width)
        scale = torch.empty(grid)
        codes, dense = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), weight.clone()
        for row, column in np.ndindex(*grid):
            place = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
            one = (weight[place].abs().max() / 448).to(scales)
            one = (2.0 ** one.float().log2().ceil()).to(scales) if scales.itemsize == 1 else one
            codes[place] = (weight[place] / one.float()).to(codes.dtype)
            dense[place] = codes[place].float() * one.float()
            scale[row, column] = one.float()
        stored = scale.to(scales) if block else scale.to(scales)[0, 0]
        return {f"{module}.weight": codes, f"{module}.weight_scale_inv": stored}, dense

    return change
