"""A device's own faults, told as themselves; a GPU's load, on what stands in for one."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from assay.engine import faults, loading, model_runner, verification
from assay.worker_protocol import ModelSpec
from tests.fidelity import checkpoints

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
]
BROKEN = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
]
WITHOUT_ACCELERATE = """
import sys
from dataclasses import dataclass
sys.modules["accelerate"] = None
import torch
from pathlib import Path
from assay.cards.card import Card
from assay.engine import checkpoint
model, _ = checkpoint.load(
    Path(sys.argv[1]), Card(), device=torch.device("meta", 0), dtype=torch.bfloat16
)
assert {one.device.type for one in model.parameters()} == {"meta"}
print("loaded")
"""


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_a_lack_of_memory_is_known_in_each_of_its_forms(error):
    """It ends a batch, or a start; the device is fine."""
    assert faults.is_out_of_memory(error)
    assert not faults.loses_the_device(error)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_broken_device_isnt_short_of_memory(error):
    """Each further call fails, too."""
    assert faults.loses_the_device(error)
    assert not faults.is_out_of_memory(error)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A trunk that isn't verified yet."""
    folder = checkpoints.make(tmp_path_factory.mktemp("faults") / "m", "qwen3", vocabulary=300)
    return model_runner.load(folder, device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("error", [*NO_MEMORY, *BROKEN], ids=str)
def test_a_fault_while_a_path_is_verified_is_raised_as_itself(loaded, error):
    """It says nothing about whether the architecture can be served correctly."""

    def fail(_module, _args, given):
        if "position_ids" in given:  # a packed pass, not the reference's
            raise error

    hook = loaded.model.base_model.register_forward_pre_hook(fail, with_kwargs=True)
    try:
        with pytest.raises(type(error)) as raised:
            verification.verify(loaded)
    finally:
        hook.remove()

    assert raised.value is error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (NO_MEMORY[1], "cuda:1 has too little memory for /judge (CUDA error: CUBLAS_STATUS_ALLOC"),
        (BROKEN[0], "cuda:1 failed while judge was loaded (CUDA error: device-side assert trigger"),
    ],
)
def test_a_start_that_a_device_ends_names_the_device_and_its_words(error, says):
    """In one line, without advice about the model."""
    spec = ModelSpec("judge", Path("/judge"), None, "auto", 100, None)
    message = loading.of_the_device(error, "cuda:1", spec)

    assert message.startswith(says)
    assert "\n" not in message


def test_weights_reach_a_device_without_accelerate(tmp_path):
    """transformers wants that package to put them there itself; then they are moved instead."""
    folder = checkpoints.make(tmp_path / "model", "qwen3", vocabulary=300)

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ACCELERATE, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout == "loaded\n", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("device", "dtype", "warns"),
    [
        ("cuda:0", torch.float32, True),
        ("cuda:0", torch.bfloat16, False),
        ("cuda:0", torch.float16, False),
        ("cpu", torch.float32, False),
    ],
)
def test_float32_on_a_gpu_is_warned_of(loaded, device, dtype, warns):
    """It is about fifteen times slower there; the start and `/models` say so, and what to set."""

    @dataclass
    class Placed:
        """A model that is said to be on a device."""

        device: torch.device
        base_model: "Placed"
        dtype: torch.dtype

        def __getattr__(self, name):
            return getattr(loaded.model, name)

    base = Placed(torch.device(device), loaded.model.base_model, dtype)
    placed = model_runner.ModelRunner(Placed(torch.device(device), base, dtype), loaded.readout)

    assert any("dtype = bfloat16" in one for one in placed.warnings) is warns
