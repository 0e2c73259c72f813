"""Kernels compiled for GPUs that aren't here."""

import sys
from contextlib import contextmanager

import pytest
import torch

from assay.engine import gpu_kernels

NEEDS_TRITON = pytest.mark.skipif(sys.platform != "linux", reason="Triton is built for Linux alone")
# Architecture, threads of a warp, and bytes of shared memory that a program may have.
TARGETS = {
    "ada": ("cuda", 89, 32, 101_376),
    "hopper": ("cuda", 90, 32, 232_448),
    "blackwell": ("cuda", 100, 32, 232_448),
    "mi300": ("hip", "gfx942", 64, 65_536),
}
KINDS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@contextmanager
def launches(monkeypatch):
    """Note which kernels are launched, by which arguments, instead of running them."""
    launched = []
    with monkeypatch.context() as patch:
        patch.setattr(
            gpu_kernels,
            "launch",
            lambda kernel, _, *args, **kw: launched.append((kernel, args, kw)),
        )
        yield launched


def shared_memory(target, launched):
    """Return the shared memory of a kernel as Triton compiles it for arguments of such kinds."""
    from triton import compile as compile_for
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, arguments, constants = launched
    options = {
        name: constants.pop(name) for name in ("num_warps", "num_stages") if name in constants
    }
    signature = dict.fromkeys(constants, "constexpr")
    aligned = {}  # what a launch finds to be a multiple of 16, as tensors' addresses are
    for place, (parameter, one) in enumerate(zip(kernel.params, arguments, strict=False)):
        if isinstance(one, torch.Tensor):
            kind = f"*{KINDS.get(one.dtype, 'i32')}"
        else:
            kind = "fp32" if isinstance(one, float) else "i32"
        signature[parameter.name] = kind
        is_number = kind == "i32" and not parameter.do_not_specialize and one % 16 == 0
        if kind.startswith("*") or is_number:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    built = compile_for(source, target=GPUTarget(*TARGETS[target][:3]), options=options)
    return built.metadata.shared
