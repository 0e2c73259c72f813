"""Batches through a socket, on a device that computes at once and on one that runs behind."""

import socket
import weakref
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from assay.engine import batch_loop
from assay.worker_protocol import Batch, Done, Ending, Failed, PrefixBatch, encode, encode_answer
from tests.engine.worker_process import heard


class Event:
    """A point of a device's work that the test lets it reach; time goes on by one a point."""

    def __init__(self, trunk, number):
        self.trunk, self.number = trunk, number
        trunk.recorded += 1
        self.at = trunk.recorded

    def is_reached(self):
        return not self.trunk.runs_behind or self.at <= self.trunk.computed

    def wait(self):
        self.trunk.computed = max(self.trunk.computed, self.at)
        self.trunk.events.append(f"read {self.number}")
        if self.number in self.trunk.fails_late:
            raise RuntimeError("an illegal memory access")

    def seconds_since(self, earlier):
        return float(self.at - earlier.at)


@dataclass
class ModelRunner:
    """Notes when passes are launched and read; an item's first id is its batch's number.

    A device that runs behind comes nowhere before somebody waits for it.
    """

    runs_behind: bool
    fails: tuple[int, ...] = ()
    fails_late: tuple[int, ...] = ()
    breaks: tuple[int, ...] = ()
    events: list[str] = field(default_factory=list)
    device = torch.device("cpu")
    number = 0
    recorded = 0
    computed = 0

    def event(self):
        return Event(self, self.number)

    def launch(self, batch, on_ending, part):
        number = self.number = int(batch.ids[0])
        if number in self.fails:
            raise torch.OutOfMemoryError
        if number in self.breaks:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")
        self.events.append(f"launch {number}")
        on_ending()
        return torch.tensor([[float(number)]])

    def padded_tokens(self, batch):
        return -batch.tokens % 16


def one_item(number):
    """Return a batch of one token."""
    return PrefixBatch.unshared([np.array([number], np.int32)])


def answers(trunk, count):
    """Send batches all at once; return what comes back, `Ending` left out.

    On a device that runs behind the next batch has come before the last one's end is near.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for number in range(count):
            ours.sendall(b"".join(encode(Batch(number, "judge", one_item(number), 0.8))))
        ours.shutdown(socket.SHUT_WR)
        batch_loop.serve(
            {"judge": trunk}, theirs, lambda message: theirs.sendall(encode_answer(message))
        )
        theirs.shutdown(socket.SHUT_WR)
        said = []
        while (message := heard(ours)) is not None:
            said.append(message)
    assert [one.number for one in said if isinstance(one, Ending)] == [
        number for number in range(count) if number not in trunk.fails and not trunk.runs_behind
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


@dataclass
class Device(ModelRunner):
    """One that comes to its next point each time it is looked at, as long as it has one."""

    runs_behind: bool = True

    def event(self):
        return Looked(self, self.number)


class Looked(Event):
    """A point of it."""

    def is_reached(self):
        self.trunk.computed = min(self.trunk.computed + 1, self.trunk.recorded)
        return super().is_reached()


def test_a_gpu_says_that_a_batch_ends_when_it_has_come_there_itself():
    """Not when the host has launched as much, which may be long before."""
    trunk = Device()
    ours, theirs = socket.socketpair()
    said = []
    with ours, theirs:
        ours.sendall(b"".join(encode(Batch(0, "judge", one_item(0), 0.8))))

        def send(message):
            said.append((type(message), trunk.computed))
            if isinstance(message, Done):
                ours.shutdown(socket.SHUT_WR)

        batch_loop.serve({"judge": trunk}, theirs, send)

    (ending, at_ending), (done, at_done) = said
    assert (ending, done) == (Ending, Done)
    assert at_ending >= 2  # events: its begin, its ending, its end
    assert at_done >= 3


def test_a_gpus_time_is_its_own():
    """From where it began the batch to where it ended it, whatever the host did meanwhile."""
    said = answers(ModelRunner(runs_behind=True), 3)

    assert [one.compute_s for one in said] == [2.0, 2.0, 2.0]  # begin, ending, end


def test_what_a_failed_pass_held_is_free_before_memory_is_given_back(monkeypatch):
    """The frames of its error hold it as long as they live."""
    held = []

    class Failing(ModelRunner):
        def launch(self, batch, on_ending, part):
            activations = torch.ones(3)
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: held.append(held[0]()))

    answers(Failing(runs_behind=False, fails=(0,)), 1)

    assert held[1:] == [None]


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
