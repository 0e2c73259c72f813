"""A launch on a device that holds no numbers: whatever would wait for a GPU can't be done there.

torch's `meta` stands in for a GPU: to look at a number raises there, where on a GPU it waits.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from assay.engine import gpu_kernels, model_runner, transfer
from assay.engine.attention import interface
from assay.engine.block_cache import BlockCache
from assay.engine.last_layer import LastLayer
from assay.worker_protocol import BLOCK_TOKENS, PrefixBatch
from tests.fidelity import checkpoints

META = torch.device("meta")
NAMES = ["qwen2", "qwen3", "llama", "mistral", "gemma", "gemma2", "phi3", "gpt-neox", "modernbert"]
WAYS = [(name, "tree") for name in NAMES] + [
    (name, "varlen")
    for name in NAMES
    if name != "gemma2"  # it caps products
]
WAYS += [("qwen3", "blocks"), ("gemma2", "blocks"), ("modernbert", "blocks")]


class Copies(TorchDispatchMode):
    """Notes which copies go from the host to the device, and whether the host waits for them."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in {"to", "_to_copy", "copy_"}:
            names = [argument.name for argument in function._schema.arguments]
            given = dict(zip(names, args, strict=False)) | (kwargs or {})
            source = given.get("src", given["self"])
            if source.device.type == "cpu" and result.device == META:
                self.waits.append(not given.get("non_blocking", False))
        return result


@pytest.fixture(scope="module")
def runner_of(tmp_path_factory):
    """Return an architecture's runner on the device, which attends in one way."""
    root = tmp_path_factory.mktemp("launch")

    def load(name, attention):
        if not (root / name).exists():
            checkpoints.make(root / name, name, vocabulary=300)
        runner = model_runner.load(root / name, device=META, dtype=torch.bfloat16)
        runner.attention = f"assay-{attention}"
        runner.attend()
        return runner

    return load


def batches():
    """Return batches by what they hold: items alone, behind a prefix, kept, and read in places."""
    alone = PrefixBatch.unshared([np.arange(1, 1 + n, dtype=np.int32) for n in (40, 3, 17, 64)])
    shared = replace(alone, parents=np.array([-1, 0, 0, 1], np.int32))
    blocks = np.arange(2, dtype=np.int32)
    keeping = replace(
        shared, new_blocks=blocks, new_rows=np.arange(2 * BLOCK_TOKENS, dtype=np.int32)
    )
    held = replace(
        shared,
        ids=shared.ids[16:],
        lengths=np.array([16, 27, 17, 64], np.int32),
        held=1,
        reads=np.array([1, 2, 3], np.int32),
        cached_blocks=blocks,
    )
    rows = np.array([3, 90, 90], np.int32)
    read = replace(alone, read_rows=rows, next_ids=rows)
    return {"alone": alone, "shared": shared, "keeping": keeping, "held": held, "read": read}


@pytest.mark.parametrize(("name", "attention"), WAYS)
@pytest.mark.parametrize("is_narrowed", [False, True])
def test_a_launch_waits_for_nothing(monkeypatch, runner_of, name, attention, is_narrowed):
    """No number is looked at, and what the device indexes by comes once a batch, not a layer."""
    monkeypatch.setattr(gpu_kernels, "launch", lambda *args, **constants: None)
    monkeypatch.setattr(torch.ops.assay, "attend", interface._attend)  # looked into, unlike an op
    runner = runner_of(name, attention)
    is_decoder = name in checkpoints.DECODERS
    layers = runner.model.config.num_hidden_layers
    if is_narrowed:
        runner.last_layer = LastLayer(runner.model.base_model, layers, drops_queries=False)
        runner.last_layer.install()
    runner.block_cache = BlockCache(4) if is_decoder else None
    kinds = 1 + (name in {"gemma2", "modernbert"})  # of layers: each has tables of its own

    for kind, batch in batches().items():
        if not is_decoder and kind in {"shared", "keeping", "held"}:
            continue
        with Copies() as copies:
            numbers = runner.launch(batch)

        assert numbers.device == META
        assert copies.waits
        assert not any(copies.waits)
        at_once = 1 + (attention == "varlen" and bool((batch.parents >= 0).any()))
        tables = (kinds + is_narrowed) * (attention != "varlen")
        assert len(copies.waits) <= at_once + tables


def test_arrays_of_any_shape_arrive_as_they_were():
    """Beside one another, each where it can be read fast."""
    arrays = [np.arange(5), np.empty(0, np.int32), np.arange(6).reshape(2, 3), np.array([[7]])]

    there = transfer.to_device(arrays, torch.device("cpu"))

    assert [one.tolist() for one in there] == [one.tolist() for one in arrays]
    assert {one.dtype for one in there} == {torch.int32}


def test_a_gpus_arrays_go_in_one_copy_from_pinned_memory(monkeypatch):
    """Its buffer is stood in for: the device's part of it is looked at on the host."""
    asked = []

    class Buffer:
        def __init__(self, count):
            self.numbers = torch.full((count,), -9, dtype=torch.int32)

        def numpy(self):
            return self.numbers.numpy()

        def to(self, device, *, non_blocking):
            asked.append((device, non_blocking))
            return self.numbers

    def empty(count, *, dtype, pin_memory):
        asked.append((dtype, pin_memory))
        return Buffer(count)

    monkeypatch.setattr(torch, "empty", empty)
    arrays = [np.arange(17), np.arange(6).reshape(2, 3), np.empty(0, np.int64), np.array([5])]

    there = transfer.to_device(arrays, torch.device("cuda", 1))

    assert asked == [(torch.int32, True), (torch.device("cuda", 1), True)]
    assert [one.tolist() for one in there] == [one.tolist() for one in arrays]
    assert [one.storage_offset() % 16 for one in there] == [0, 0, 0, 0]
