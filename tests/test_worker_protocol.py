"""What a device process may say to the front: its own few messages, and nothing else."""

import contextlib
import pickle

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay import worker_protocol
from assay.errors import WorkerError
from assay.worker_protocol import Done, Ending, Failed, Inputs, Loaded, Progress, Refused
from tests.scheduling.models import loaded

SAID = [
    Progress("judge", "warm up", 0.5),
    loaded("judge", 256, shares=True),
    Refused("judge", "no such file"),
    Ending(3),
    Failed(4, "RuntimeError", out_of_memory=True),
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KINDS = [Progress, Loaded, Refused, Ending, Done, Failed]


def body(message):
    """Return a frame's body."""
    frame = worker_protocol.encode_answer(message)
    assert (
        worker_protocol.answer_size(frame[: worker_protocol.HEADER.size])
        == len(frame) - worker_protocol.HEADER.size
    )
    return frame[worker_protocol.HEADER.size :]


@pytest.mark.parametrize("message", SAID, ids=lambda one: type(one).__name__)
def test_what_a_worker_says_arrives_as_it_was_said(message):
    """Of its own type, field by field."""
    assert worker_protocol.decode_answer(body(message)) == message


def test_numbers_keep_every_bit():
    """Also those of what isn't a number, of either zero, and of none at all."""
    odd = np.array([0x7FF8000000000123, 0xFFF0000000000000, 0x8000000000000000, 1], np.uint64)
    for numbers in (
        odd.view(np.float64).reshape(2, 2),
        np.empty((0, 3)),
        np.arange(6.0)[::2, None],
    ):
        heard = worker_protocol.decode_answer(body(Done.of(7, numbers, 0.25, 3, 1 << 40)))

        assert heard.numbers.tobytes() == numbers.tobytes()
        assert heard.numbers.shape == numbers.shape
        assert (heard.number, heard.compute_s, heard.padded_tokens) == (7, 0.25, 3)
        assert heard.device_bytes == 1 << 40


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_end_the_worker(content):
    """Whatever they are."""
    with pytest.raises(WorkerError):
        raise WorkerError(repr(worker_protocol.decode_answer(content)))


@given(st.sampled_from(KINDS), st.dictionaries(st.text(), PLAIN), st.data())
def test_no_fields_do_more_than_end_the_worker(kind, others, data):
    """Of the right names, or of any, with whatever in them."""
    fields = kind.__struct_fields__
    said = {"type": kind.__name__} | others
    said |= {name: data.draw(PLAIN) for name in fields if data.draw(st.booleans())}
    with contextlib.suppress(WorkerError):
        worker_protocol.decode_answer(msgspec.msgpack.encode(said))


class Touch:
    """A pickle that runs something where it is read."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle of the worker's was read",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Touch()),
        b"\x91" * 200_000,
        body(SAID[1])[:-1],
        body(SAID[0]) + b"\x00",
        msgspec.msgpack.encode({"type": "Ending", "number": 1, "more": 1}),
        msgspec.msgpack.encode({"type": "Batch", "number": 1}),
    ],
    ids=["a pickle", "nested deep", "cut short", "too much", "another field", "another type"],
)
def test_what_no_worker_says_is_refused_unread(content):
    """It is an error of the worker, never a defect of the front."""
    with pytest.raises(WorkerError):
        worker_protocol.decode_answer(content)


@pytest.mark.parametrize(
    "change",
    [
        {"compute_s": float("nan")},
        {"compute_s": -1.0},
        {"padded_tokens": -1},
        {"shape": (3, 1)},
        {"shape": (-2, -1)},
        {"data": bytes(15)},
    ],
    ids=str,
)
def test_an_answer_whose_parts_do_not_agree_is_refused(change):
    """As many numbers as its shape says, in a time that can be added up."""
    good = msgspec.to_builtins(Done.of(0, np.zeros((2, 1)), 0.5, 0), builtin_types=(bytes,))

    with pytest.raises(WorkerError):
        worker_protocol.decode_answer(msgspec.msgpack.encode(good | change))


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_per_s": float("inf")},
        {"prefix_blocks": 10**12},
        {"budget_tokens": 0},
        {"outputs": {"reward": -1}},
        {"outputs": {str(number): 1 for number in range(10_000)}},
        {"warnings": [""] * 10_000},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_model_that_cannot_be_is_refused(change):
    """The front makes room for what it says, and counts with it."""
    good = msgspec.to_builtins(loaded("judge", 256, shares=True))

    with pytest.raises(WorkerError):
        worker_protocol.decode_answer(msgspec.msgpack.encode(good | change))


def test_a_frame_longer_than_any_answer_is_not_waited_for():
    """Its length alone ends the worker, before room is made for it."""
    worker_protocol.answer_size(worker_protocol.HEADER.pack(worker_protocol.MOST_BYTES))

    with pytest.raises(WorkerError, match="bytes at once"):
        worker_protocol.answer_size(worker_protocol.HEADER.pack(worker_protocol.MOST_BYTES + 1))


def test_the_inputs_of_a_model_keep_what_is_left_out():
    """None is a value of its own."""
    said = loaded("judge", 256, shares=True)
    for inputs in (Inputs(5), Inputs(5, 2, 0)):
        changed = msgspec.structs.replace(said, inputs=inputs)

        assert worker_protocol.decode_answer(body(changed)).inputs == inputs
