"""Batches through a socket, on a device that computes at once and on one that runs behind."""

import socket
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from assay.engine import batch_loop
from assay.worker_protocol import Batch, Done, Ending, Failed, PrefixBatch, encode, encode_answer
from tests.engine.worker_process import heard


@dataclass
class Scores:
    """What a device is still computing."""

    trunk: "ModelRunner"
    number: int
    device = torch.device("cpu")

    def double(self):
        return self

    def cpu(self):
        self.trunk.events.append(f"read {self.number}")
        if self.number in self.trunk.fails_late:
            raise RuntimeError("an illegal memory access")
        return torch.tensor([[float(self.number)]])


@dataclass
class ModelRunner:
    """Notes when passes are launched and read; an item's first id is its batch's number."""

    runs_behind: bool
    fails: tuple[int, ...] = ()
    fails_late: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()
    events: list[str] = field(default_factory=list)

    def launch(self, batch, on_ending, part):
        number = int(batch.ids[0])
        if number in self.fails:
            raise torch.OutOfMemoryError
        if number in self.breaks:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        self.events.append(f"launch {number}")
        on_ending()
        return Scores(self, number)

    def padded_tokens(self, batch):
        return -batch.tokens % 16


def answers(trunk, count):
    """Send batches all at once; return what comes back, `Ending` left out."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number in range(count):
            prefix_batch = PrefixBatch.unshared([np.array([number], np.int32)])
            ours.sendall(b"".join(encode(Batch(number, "judge", prefix_batch, 0.8))))
        ours.shutdown(socket.SHUT_WR)
        batch_loop.serve(
            {"judge": trunk}, theirs, lambda message: theirs.sendall(encode_answer(message))
        )
        theirs.shutdown(socket.SHUT_WR)
        said = []
        while (message := heard(ours)) is not None:
            said.append(message)
    assert [one.number for one in said if isinstance(one, Ending)] == [
        number for number in range(count) if number not in trunk.fails
    ]
    return [one for one in said if not isinstance(one, Ending)]


@pytest.mark.parametrize("runs_behind", [True, False])
def test_every_batch_is_answered_with_its_own_scores_in_order(runs_behind):
    """However they overlap."""
    said = answers(ModelRunner(runs_behind), 4)

    assert [(one.number, one.numbers.tolist()) for one in said] == [
        (n, [[float(n)]]) for n in range(4)
    ]
    assert all(isinstance(one, Done) and one.padded_tokens == 15 for one in said)


def test_a_device_that_runs_behind_gets_the_next_batch_before_the_last_is_read():
    """It never waits for the host while there is work."""
    trunk = ModelRunner(runs_behind=True)
    answers(trunk, 3)

    order = ["launch 0", "launch 1", "read 0", "launch 2", "read 1"]
    assert trunk.events[:5] == order


def test_a_device_that_computes_at_once_is_read_at_once():
    """Nobody's answer waits for the next batch."""
    trunk = ModelRunner(runs_behind=False)
    answers(trunk, 2)

    assert trunk.events == ["launch 0", "read 0", "launch 1", "read 1"]


@pytest.mark.parametrize("runs_behind", [True, False])
def test_a_batch_that_fails_leaves_the_others_as_they_are(runs_behind):
    """When it is launched, and when it is read."""
    said = answers(ModelRunner(runs_behind, fails=(1,), fails_late=(2,)), 4)

    assert [type(one) for one in said] == [Done, Failed, Failed, Done]
    assert [one.reason for one in said[1:3]] == ["OutOfMemoryError", "RuntimeError"]
    assert [one.out_of_memory for one in said[1:3]] == [True, False]


def test_a_cpu_without_memory_is_told_from_other_errors():
    """torch raises a bare `RuntimeError` there."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)

    assert batch_loop.is_out_of_memory(raised.value)
    assert batch_loop.is_out_of_memory(MemoryError())
    assert not batch_loop.is_out_of_memory(RuntimeError("shapes don't match"))


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("CUDA error: device-side assert triggered\nCompile with ...", True),
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", False),
        ("shapes don't match", False),
    ],
)
def test_an_older_torch_tells_by_its_words_that_the_device_is_lost(text, is_lost):
    """It raises a bare `RuntimeError` there."""
    assert batch_loop.loses_the_device(RuntimeError(text), kind=None) is is_lost
    assert not batch_loop.loses_the_device(torch.OutOfMemoryError("CUDA out of memory."), kind=None)


def test_an_error_that_breaks_the_device_ends_the_process():
    """Each further batch would fail, too; a new process can use the device again."""
    with pytest.raises(batch_loop.DeviceLost):
        answers(ModelRunner(runs_behind=True, breaks=(1,)), 3)
