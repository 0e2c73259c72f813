"""The tree kernel: interpreted on CPU, and compiled for GPUs that aren't here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from assay.engine.attention import interface, tree
from assay.engine.attention.pattern import Pattern
from assay.errors import CheckpointError
from tests.engine import compiling
from tests.engine.compiling import NEEDS_TRITON
from tests.engine.test_attention import CPU, inputs, prefix_batch
from tests.fidelity import checkpoints, reference, texts

ROOT = Path(__file__).parents[2]
GPU = torch.device("cuda")


@NEEDS_TRITON
@pytest.mark.timeout(600)
def test_it_does_by_tritons_interpreter_what_it_should():
    """All of `interpreted.py`, in a process in which Triton interprets."""
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/engine/interpreted.py"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr


@NEEDS_TRITON
@pytest.mark.parametrize("target", compiling.TARGETS)
@pytest.mark.parametrize(
    ("dtype", "width", "pattern"),
    [
        (torch.bfloat16, 128, Pattern(0.1, causal=True)),
        (torch.float16, 80, Pattern(0.1, causal=False, window=20)),
        (torch.bfloat16, 256, Pattern(0.1, causal=True, window=20, softcap=50.0)),
        (torch.float32, 64, Pattern(0.1, causal=True)),
    ],
)
def test_it_compiles_for_gpus_and_fits_them(monkeypatch, tmp_path, target, dtype, width, pattern):
    """The interpreter takes what the compiler doesn't; and tiles must fit a program's memory."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    with compiling.launches(monkeypatch) as launched:
        tree.attend(*inputs(16, dtype, (4, 2, width)), prefix_batch([9]), pattern)

    assert compiling.shared_memory(target, launched[0]) <= compiling.TARGETS[target][-1]


def test_a_gpu_has_it_behind_flash_attention(monkeypatch):
    """Caps, float32 and heads that flash attention doesn't know no longer end in plain products."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    half, single = torch.bfloat16, torch.float32

    assert interface.names(GPU, half, compiled=True) == [
        *("assay-varlen", "assay-tree", "assay-blocks")
    ]
    assert interface.names(GPU, single, compiled=True) == ["assay-tree", "assay-blocks"]
    assert interface.missing(GPU, half, "assay-varlen", compiled=True) == []
    (why,) = interface.missing(GPU, single, "assay-tree", compiled=True)
    assert "flash attention takes bfloat16 and float16" in why
    assert interface.missing(GPU, half, "assay-blocks", compiled=True) == []


@pytest.mark.parametrize("lacks", ["Triton", "a C compiler"])
def test_a_gpu_without_it_says_what_it_lacks(monkeypatch, lacks, tmp_path):
    """Where something slower was chosen than it."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if lacks == "Triton":
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)

    assert "assay-tree" not in interface.names(GPU, torch.float16, compiled=True)
    assert interface.missing(GPU, torch.float16, "assay-varlen", compiled=True) == []
    (why,) = interface.missing(GPU, torch.float16, "assay-blocks", compiled=True)
    assert f"the tree kernel needs {lacks}" in why


@pytest.mark.parametrize(
    ("attention", "why"),
    [("tree", "runs on a GPU, not on cpu"), ("varlen", "GPU"), ("native", "isn't compiled")],
)
def test_what_was_asked_for_and_is_not_there_is_refused(monkeypatch, tmp_path, attention, why):
    """The model isn't served in another way; `blocks` is everywhere, and is no fallback then."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=texts.vocabulary())

    with pytest.raises(CheckpointError, match=f"attention = '{attention}' can't be had: .*{why}"):
        reference.load(folder, attention=attention, compiled=False)
    trunk = reference.load(folder, attention="blocks")
    assert (trunk.attention, trunk.warnings) == ("assay-blocks", [])
    assert interface.obstacle("native", GPU, torch.float32, compiled=True)
    assert not interface.obstacle("blocks", CPU, torch.float64, compiled=False)
