"""What crosses to and from the processes that render: as it was, or refused."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay import errors, worker_protocol
from assay.cards import card as cards
from assay.cards import catalogue
from assay.cards.repository import Checkpoint
from assay.errors import AssayError, InvalidField, WorkerError
from assay.items import ReadPositions, TokenizedItem
from assay.prompts import protocol
from assay.prompts.models import Facts, Inspected, Model, Padding, Reading, Resolved
from assay.prompts.protocol import (
    InspectedFrame,
    Outcomes,
    ReadFrame,
    Refusal,
    ResolvedFrame,
)
from assay.settings import Settings
from assay.worker_protocol import Inputs
from tests.test_errors import leaves

REPOSITORY = Settings().repository


def crossed(frame):
    """Return a frame as the front reads it."""
    sent = protocol.told(frame)
    size = worker_protocol.HEADER.size
    assert protocol.size(sent[:size]) == len(sent) - size
    return protocol.read(sent[size:])


@pytest.mark.parametrize("name", catalogue.folders(REPOSITORY))
def test_every_card_crosses_as_it_is(name):
    """With what it says and what it leaves out."""
    card = cards.read(catalogue.folders(REPOSITORY)[name])
    folder = Path("/models") / name
    padding = Padding("<pad>", None, 0, 2, None)
    facts = Facts(512, "prompt_start", Inputs(100, 2, None), padding, card)
    model = Model(name, Checkpoint(name, folder, card, folder / "base"), "a", "b", "c", facts)
    resolved = Resolved(name, card, "model", (model,), ("a note",), ("a notice",))

    back = crossed(ResolvedFrame.of(resolved)).resolved()

    assert back == resolved
    assert back.card.model_fields_set == card.model_fields_set


def test_what_was_inspected_crosses_as_it_is():
    """With the reason why it can't be served."""
    one = Inspected(
        "name",
        Path("/folder"),
        "family",
        cards.Card(summary="It."),
        ("a doubt",),
        ("a note",),
        ("a notice",),
        Reading(["a", "Ġb"], [1]),
        roles={"user": "human"},
        problem=errors.CheckpointError("it can't"),
    )

    back = crossed(InspectedFrame.of(one)).inspected()

    assert (back.problem.message, back.reading) == ("it can't", one.reading)
    assert (back.card, back.doubts, back.roles) == (one.card, one.doubts, one.roles)


def test_what_was_rendered_crosses_as_it_is():
    """Ids, places, segments; the text and the tokens where they were asked for."""
    read_at = ReadPositions(np.array([1, 3], np.int32), np.array([7, 8], np.int32), 2)
    ids = np.arange(5, dtype=np.int32)
    one = TokenizedItem(
        ids, "text ü", "both", read_at, ids % 2, ends_as_expected=False, has_mentions=True
    )

    (back, bare) = crossed(
        Outcomes(
            [
                ReadFrame.of(one, ["a"], looks=True),
                ReadFrame.of(TokenizedItem(ids, "b"), None, looks=False),
            ]
        )
    ).items
    found, plain = back.rendered(), bare.rendered()

    assert (found.ids.tolist(), found.text, found.cut) == (ids.tolist(), "text ü", "both")
    assert found.read_at.pairs() == read_at.pairs()
    assert (found.read_at.joined, found.segments.tolist()) == (2, [0, 1, 0, 1, 0])
    assert (found.ends_as_expected, found.has_mentions) == (False, True)
    assert back.tokens == ["a"]
    assert (plain.text, plain.read_at, plain.segments, bare.tokens) == (None, None, None, None)


@pytest.mark.parametrize("kind", leaves(AssayError))
def test_every_error_crosses_with_its_class(kind):
    """Its message, field and advice; what isn't Unicode is escaped."""
    error = kind("a message", param="messages[\ud800]", retry_after_s=2.0, advice="; do that")

    back = crossed(Outcomes([Refusal.of(error)])).items[0].error()

    assert type(back) is kind
    assert (back.message, back.param) == ("a message", r"messages[\ud800]")
    assert (back.retry_after_s, back.advice) == (2.0, "; do that")


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message_are_refused(body):
    """A process that was taken over can at most be ended."""
    with contextlib.suppress(WorkerError):
        protocol.read(body)


class Planted:
    """What an unpickling would run."""

    def __reduce__(self):
        return InvalidField, ("it was run",)


@pytest.mark.parametrize(
    "body", [pickle.dumps(Planted()), b"", b"\x91" * 100_000, b"\xc1"], ids=str
)
def test_a_pickle_is_no_message(body):
    """Nor is what nests without end."""
    with pytest.raises(WorkerError, match="isn't a message"):
        protocol.read(body)


def test_a_frame_that_claims_too_much_is_refused():
    """Before memory is taken for it."""
    with pytest.raises(WorkerError, match="isn't a message"):
        protocol.size(worker_protocol.HEADER.pack(1 << 40))
