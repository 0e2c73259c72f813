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

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


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


# --- compressed-tensors -----------------------------------------------------------------------


def compressed(
    kind: str, bits: int, strategy: str, *, is_packed: bool = False, is_symmetric: bool = True
) -> tuple[dict[str, Any], Quantize]:
    """Return what llm-compressor says in config.json, and what writes its tensors."""
    weights = {
        "num_bits": bits,
        "type": kind,
        "strategy": strategy,
        "symmetric": is_symmetric,
        "group_size": 32 if strategy == "group" else None,
        "dynamic": False,
        "block_structure": [32, 32] if strategy == "block" else None,
    }
    plain = {"int": "int-quantized", "float": "float-quantized"}[kind]
    form = "pack-quantized" if is_packed else plain
    dynamic = {"num_bits": bits, "type": kind, "strategy": "token", "dynamic": True}
    group = {
        "targets": ["Linear"],
        "weights": weights,
        "input_activations": None if is_packed else {**dynamic, "symmetric": True},
    }
    said = {
        "quant_method": "compressed-tensors",
        "format": form,
        "ignore": ["score", "lm_head"],
        "config_groups": {"group_0": group},
        "quantization_status": "compressed",
    }
    shapes = {"tensor": None, "channel": (1, -1), "group": (1, 32), "block": (32, 32)}

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        height, width = shapes[strategy] or weight.shape
        width = weight.shape[1] if width < 0 else width
        blocks = weight.unflatten(0, (-1, height)).unflatten(2, (-1, width)).transpose(1, 2)
        low, high = blocks.amin((2, 3)), blocks.amax((2, 3))
        most = 448.0 if kind == "float" else 2.0 ** (bits - 1) - 1
        zero = torch.zeros_like(low)
        if is_symmetric:
            scale = torch.maximum(-low, high) / most
        else:
            scale = (high - low) / (2 * most + 1)
            zero = (-most - 1 - low / scale).round().clamp(-most - 1, most)
        scale = scale.to(torch.bfloat16)
        codes = blocks / scale[..., None, None].float() + zero[..., None, None]
        codes = codes.clamp(-most - (kind == "int"), most)
        dtype = torch.float8_e4m3fn if kind == "float" else torch.int8
        codes = (codes if kind == "float" else codes.round()).to(dtype)
        products = (codes.to(torch.bfloat16) - zero[..., None, None].bfloat16()) * scale[
            ..., None, None
        ]
        dense = products.transpose(1, 2).flatten(2).flatten(0, 1)
        codes = codes.transpose(1, 2).flatten(2).flatten(0, 1)
        parts = {f"{module}.weight_scale": scale[0, 0] if strategy == "tensor" else scale}
        if is_packed:
            words = pack(codes.numpy().astype(np.int64) + 2 ** (bits - 1), bits)
            parts[f"{module}.weight_packed"] = words
            parts[f"{module}.weight_shape"] = torch.tensor(weight.shape)
        else:
            parts[f"{module}.weight"] = codes
        if not is_symmetric:
            zeros = zero.to(torch.int8)
            if is_packed:
                zeros = pack(zeros.numpy().astype(np.int64).T + 2 ** (bits - 1), bits).T
            parts[f"{module}.weight_zero_point"] = zeros
        return parts, dense

    return said, change


# --- GPTQ and AWQ -----------------------------------------------------------------------------


def gptq(
    bits: int, group: int, *, form: str = "gptq", is_ordered: bool = False, has_index: bool = True
) -> tuple[dict[str, Any], Quantize]:
    """Return what GPTQModel says in config.json, and what writes its tensors.

    Ordered by activations, each input has a group of its own choice.
    """
    said = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "desc_act": is_ordered,
        "sym": False,
        "checkpoint_format": form,
        "lm_head": False,
    }
    random = np.random.default_rng(3)

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        inputs = weight.shape[1]
        size = inputs if group == -1 else group
        index = np.arange(inputs) // size
        index = random.permutation(index) if is_ordered else index
        codes, scales, zeros = _by_groups(weight, index, bits)
        dense = (codes - zeros[index]).astype(np.float16) * scales[index]
        stored = zeros - 1 if form == "gptq" else zeros
        parts = {
            f"{module}.qweight": pack(codes.T, bits).T,
            f"{module}.qzeros": pack(stored % 2**bits, bits),
            f"{module}.scales": torch.from_numpy(scales),
        }
        if has_index:
            parts[f"{module}.g_idx"] = torch.from_numpy(index.astype(np.int32))
        return parts, torch.from_numpy(dense.T.copy())

    return said, change


def awq(group: int) -> tuple[dict[str, Any], Quantize]:
    """Return what AutoAWQ says in config.json, and what writes its tensors."""
    said = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        inputs = weight.shape[1]
        index = np.arange(inputs) // (inputs if group == -1 else group)
        codes, scales, zeros = _by_groups(weight, index, 4)
        dense = (codes - zeros[index]).astype(np.float16) * scales[index]
        qweight, qzeros = (
            pack(one.reshape(len(one), -1, 8)[..., AWQ_ORDER].reshape(len(one), -1), 4)
            for one in (codes, zeros)
        )
        parts = {"qweight": qweight, "qzeros": qzeros, "scales": torch.from_numpy(scales)}
        named = {f"{module}.{part}": tensor for part, tensor in parts.items()}
        return named, torch.from_numpy(dense.T.copy())

    return said, change


def _by_groups(
    weight: torch.Tensor, index: np.ndarray, bits: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return codes (inputs, outputs), and scales and zeros (groups, outputs)."""
    rows = weight.numpy().T
    most = 2**bits - 1
    groups = [rows[index == number] for number in range(index.max() + 1)]
    low = np.stack([np.minimum(one.min(0), 0) for one in groups])
    high = np.stack([np.maximum(one.max(0), 0) for one in groups])
    scales = ((high - low) / most).astype(np.float16)
    zeros = np.clip(np.round(-low / scales), 1, most).astype(np.int64)
    codes = np.clip(np.round(rows / scales[index]) + zeros[index], 0, most).astype(np.int64)
    return codes, scales, zeros


def pack(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Return rows of codes as rows of 32-bit words, from the lowest bits up."""
    rows = []
    for row in codes:
        stream = sum(int(code) << (bits * place) for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append(np.frombuffer(stream.to_bytes(4 * count, "little"), "<i4"))
    return torch.from_numpy(np.stack(rows).astype(np.int32))


# --- bitsandbytes -----------------------------------------------------------------------------


def nf4(*, is_nested: bool, dtype: str = "float16") -> tuple[dict[str, Any], Quantize]:
    """Return what bitsandbytes says in config.json, and what writes its NF4."""
    said = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "load_in_8bit": False,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": is_nested,
        "bnb_4bit_compute_dtype": "float32",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["score"],
    }
    table = np.array(NF4, np.float32)

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        blocks = weight.reshape(-1, 64).numpy()
        scales = np.abs(blocks).max(1)
        parts, state = {}, {"quant_type": "nf4", "blocksize": 64, "dtype": dtype}
        state["shape"] = [*weight.shape]
        stored = scales
        if is_nested:
            outer = np.linspace(-1, 1, 256, dtype=np.float32) ** 3
            offset = float(scales.mean())
            widest = np.abs(scales - offset).max(keepdims=True).astype(np.float32)
            near = np.abs((scales - offset)[:, None] / widest - outer).argmin(1)
            stored = near.astype(np.uint8)
            scales = outer[near] * widest + np.float32(offset)
            parts["nested_absmax"] = torch.from_numpy(widest)
            parts["nested_quant_map"] = torch.from_numpy(outer)
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        codes = np.abs(blocks[..., None] / scales[:, None, None] - table).argmin(2).reshape(-1, 2)
        dense = table[codes.reshape(blocks.shape)] * scales[:, None]
        parts |= {
            "absmax": torch.from_numpy(stored),
            "quant_map": torch.from_numpy(table),
            "quant_state.bitsandbytes__nf4": torch.tensor([*json.dumps(state).encode()]).byte(),
        }
        named = {f"{module}.weight.{part}": tensor for part, tensor in parts.items()}
        named[f"{module}.weight"] = torch.tensor(codes[:, :1] * 16 + codes[:, 1:]).byte()
        rounded = torch.from_numpy(dense.reshape(weight.shape)).to(getattr(torch, dtype))
        return named, rounded

    return said, change


def int8() -> tuple[dict[str, Any], Quantize]:
    """Return what bitsandbytes says in config.json, and what writes its 8 bits."""
    said = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}

    def change(module: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        scale = weight.abs().amax(1)
        codes = (weight / scale[:, None] * 127).round().to(torch.int8)
        parts = {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0).byte()}
        dense = codes.double() * scale[:, None].double() / 127
        return {f"{module}.{part}": tensor for part, tensor in parts.items()}, dense

    return said, change
