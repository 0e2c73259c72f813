"""Fused layers and invariant products: interpreted, and compiled for GPUs that aren't here."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from assay.engine import gpu_kernels, products, verification
from assay.engine.fused import parts
from tests.engine import compiling
from tests.engine.compiling import NEEDS_TRITON
from tests.fidelity import checkpoints, reference, texts

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda")


@NEEDS_TRITON
@pytest.mark.timeout(600)
def test_they_do_by_tritons_interpreter_what_they_should():
    """All of `interpreted_layers.py`, in a process in which Triton interprets."""
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "tests/engine/interpreted_layers.py",
        ],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr


def calls(dtype):
    """Yield calls as a model of 8 billion parameters makes them; in float32 the product alone."""
    linear = torch.nn.Linear(4096, 1024, dtype=dtype)
    yield lambda: products.InvariantLinear(linear)(torch.ones(16, 4096, dtype=dtype))
    if dtype == torch.float32:
        return
    norm = parts.Norm(torch.ones(4096, dtype=dtype), 1e-6)
    of_head = parts.Norm(torch.ones(128, dtype=dtype), 1e-6)
    state = torch.ones(16, 4096, dtype=dtype)
    heads = torch.ones(1, 16, 16, 128, dtype=dtype)
    angles = torch.ones(1, 16, 128, dtype=dtype)
    scale = parts.Scale(has_offset=False, rounds_first=True)
    yield lambda: parts.norm(state, scale, norm, residual=state, first=norm)
    yield lambda: parts.norm(heads, scale, of_head)
    yield lambda: parts.rotate(
        *(heads, heads[:, :8], angles, angles),
        rounds_products=True,
        norms=(of_head, of_head),
        scale=scale,
    )
    for activation in parts.ACTIVATIONS:
        yield lambda activation=activation: parts.gate(state, state, activation)


@NEEDS_TRITON
@pytest.mark.parametrize("target", compiling.TARGETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_they_compile_for_gpus_and_fit_them(monkeypatch, tmp_path, target, dtype):
    """The interpreter takes what the compiler doesn't; and tiles must fit a program's memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with compiling.launches(monkeypatch) as launched:
        for call in calls(dtype):
            call()

    for one in launched:
        assert compiling.shared_memory(target, one) <= compiling.TARGETS[target][-1]


@NEEDS_TRITON
def test_no_build_depends_on_the_number_of_rows():
    """It would be another order of sums, or another way to round one, in another batch."""
    from assay.engine import product_kernel
    from assay.engine.fused import kernels

    for kernel in (kernels.norm, kernels.rotate, kernels.gate, product_kernel.multiply):
        (rows,) = (one for one in kernel.params if one.name == "rows")
        assert rows.do_not_specialize


def test_a_cpu_computes_as_ever(monkeypatch, tmp_path):
    """Neither is anything fused there nor multiplied otherwise, and nothing is said of it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=texts.vocabulary())

    trunk = reference.load(folder, fused=True, invariant=True)

    assert trunk.warnings == []
    kinds = {type(module).__module__ for module in trunk.model.base_model.modules()}
    assert not any("fused" in kind or "products" in kind for kind in kinds)
    assert not hasattr(trunk.model.base_model.norm, "scale")


def test_an_invariant_model_takes_no_flash_attention_by_itself(monkeypatch):
    """Its bits are torch's matter; who asks for it gets it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    runner = SimpleNamespace(device=GPU, dtype=torch.bfloat16, card_forward="packed")
    ways = {
        (asked, invariant): verification._attentions(
            runner, asked, compiled=True, invariant=invariant
        )
        for asked in ("auto", "varlen")
        for invariant in (False, True)
    }

    assert ways["auto", True] == ["assay-tree", "assay-blocks"]
    assert ways["auto", False] == ["assay-varlen", *ways["auto", True]]
    assert ways["varlen", True] == ways["varlen", False] == ["assay-varlen"]


def test_a_gpu_without_triton_says_so(monkeypatch):
    """The layers run as they are; what was promised isn't served without."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    for why in (
        products.obstacle(GPU, torch.bfloat16),
        gpu_kernels.obstacle(GPU, torch.bfloat16, "the kernel of fused layers"),
    ):
        assert why.endswith("needs Triton, which isn't installed")
