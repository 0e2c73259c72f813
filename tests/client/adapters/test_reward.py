"""What all adapters share: the options, their order, and what has no reward."""

import logging
import pickle
from typing import get_type_hints

import pytest

from assay import errors, wire
from assay.client.adapters.reward import Options, Reward
from tests.client.adapters.cases import (
    HENS,
    ITEMS,
    TOO_LONG,
    conversations,
    entries,
    natively,
)
from tests.client.judge import Judge, served

NOWHERE = "http://127.0.0.1:9"
UNSURE = wire.Uncertainty(std=0.5, variance=0.25, members=2)


def reward(**options):
    """Return a reward that asks nobody."""
    return Reward.of(NOWHERE, options)


def entry(score, **fields):
    """Return a native entry of ten tokens."""
    return wire.ScoreEntry(index=0, score=score, n_tokens=10, truncated=False, **fields)


def failed(kind):
    """Return the entry of an item with an error."""
    return entry(None, error=wire.ItemError(code=kind.code, message="why"))


def sigmoid(score):
    """Return σ(score) where it isn't negative."""
    return 1 / (1 + 2.718281828459045**-score)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2.0),
        ({"uncertainty_penalty": 2.0}, 1.0),
        ({"length_penalty": 0.25}, -0.5),
        ({"length_penalty": -0.25}, 4.5),
        ({"clip": (-1.0, 1.5)}, 1.5),
        ({"clip": (2.5, 3.0)}, 2.5),
        ({"activation": "sigmoid"}, sigmoid(2.0)),
        ({"activation": "sigmoid", "uncertainty_penalty": 2.0}, sigmoid(1.0)),
        ({"activation": "sigmoid", "length_penalty": 0.25}, sigmoid(2.0) - 2.5),
        ({"length_penalty": 0.25, "clip": (0.0, 1.0)}, 0.0),
        (
            {
                "uncertainty_penalty": 2.0,
                "activation": "sigmoid",
                "length_penalty": 0.05,
                "clip": (0.0, 0.1),
            },
            0.1,
        ),
    ],
)
def test_options_apply_in_one_order(options, expected):
    """Uncertainty, activation, length, clip."""
    (found,) = reward(**options).rewards([entry(2.0, uncertainty=UNSURE)])
    assert found == pytest.approx(expected, rel=1e-12)


def test_a_large_negative_score_has_a_probability():
    """Without overflow."""
    assert reward(activation="sigmoid").rewards([entry(-1e4)]) == [0.0]


def test_a_penalty_on_uncertainty_needs_an_ensemble(server):
    """It isn't taken for 0."""
    asked = Reward.of(server.url, {"uncertainty_penalty": 1.0})
    with pytest.raises(errors.InvalidField, match="ensemble"):
        asked.rewards(asked.ask(ITEMS))


@pytest.mark.parametrize("value", [None, -3.0])
def test_an_unscorable_item_has_the_number_given(value):
    """As it is: neither activated nor penalized nor clipped."""
    options = {"unscorable": value, "clip": (0.0, 1.0), "length_penalty": 1.0}
    assert reward(**options).rewards([failed(errors.ItemTooLong)]) == [value]


def test_where_a_number_is_needed_there_is_one_or_an_error():
    """The error says what to set."""
    assert reward(unscorable=-3.0).numbers([failed(errors.EmptyItem)]) == [-3.0]
    with pytest.raises(errors.RequestError, match="why; `unscorable`"):
        reward().numbers([failed(errors.EmptyItem)])


def test_one_bad_item_does_not_take_the_others(server, caplog):
    """It is logged, and the rest have their scores."""
    asked = Reward.of(server.url, {})
    items = [ITEMS[0], {"prompt": "a", "response": TOO_LONG}, ITEMS[1]]
    with caplog.at_level(logging.WARNING, "assay.client"):
        found = asked.rewards(asked.ask(items))
    assert found == [natively(server, ITEMS[:1])[0], None, natively(server, ITEMS[1:2])[0]]
    assert "1 of 3 items" in caplog.text


def test_a_text_that_is_cut_is_said(server, caplog):
    """Of a text nobody knows which part is the response: its start goes."""
    asked = Reward.of(server.url, {})
    with caplog.at_level(logging.WARNING, "assay.client"):
        found = asked.rewards(asked.ask([{"text": TOO_LONG}, {"text": "no"}]))
    assert found == natively(server, [{"text": TOO_LONG}, {"text": "no"}])
    assert "1 of 2 items were cut" in caplog.text


@pytest.mark.parametrize(
    "kind",
    [errors.NotReady, errors.Overloaded, errors.DeadlineExceeded, errors.InternalError],
)
def test_an_item_that_the_service_failed_is_an_error(kind):
    """It isn't the item's own."""
    body = {"index": 0, "score": None, "n_tokens": 0, "truncated": False}
    error = {"code": kind.code, "message": "about it"}

    class Failing(Judge):
        def score(self, question):
            status, headers, answer = super().score(question)
            return status, headers, {**answer, "data": [{**body, "error": error}]}

    with served(Failing()) as url:
        asked = Reward.of(url, {"retries": 0, "unscorable": 0.0})
        with pytest.raises(kind, match="about it"):
            asked.ask([{"text": "1"}])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"model": "nope"}, errors.UnknownTarget),
        ({"model": "helpsteer", "attributes": {"wit": 1.0}}, errors.InvalidField),
        ({"aggregate": "min"}, errors.InvalidField),
    ],
)
async def test_a_refused_request_is_an_error(server, options, kind):
    """For threads and tasks alike, whatever `unscorable` says."""
    asked = Reward.of(server.url, {**options, "unscorable": 0.0})
    with pytest.raises(kind):
        asked.ask(ITEMS)
    with pytest.raises(kind):
        await asked.aask(ITEMS)


def test_steps_to_a_model_without_are_an_error(server):
    """Not a solution that can't be scored."""
    asked = Reward.of(server.url, {"unscorable": 0.0})
    items = [{"prompt": HENS, "steps": ["Six.", "42."]}]
    with pytest.raises(errors.InvalidField):
        asked.steps(items, asked.ask(items))


def test_no_answer_is_an_error():
    """After the retries."""
    with pytest.raises(errors.NotReady):
        reward(retries=0).ask([{"text": "1"}])


def test_a_deadline_is_an_error():
    """Also where a number stands for what can't be scored."""
    with served(Judge(delay_s=1.0)) as url, pytest.raises(errors.DeadlineExceeded):
        Reward.of(url, {"deadline_s": 0.1, "unscorable": 0.0}).ask([{"text": "1"}])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": "crew"},
        {"normalize": True},
        {"activation": "sigmoid"},
        {"activation": "sigmoid", "model": "crew"},
        {"model": "helpsteer", "attributes": {"helpfulness": 0.5, "verbosity": -1.0}},
        {"model": "helpsteer", "truncation": "response_end"},
        {"priority": "batch"},
    ],
)
async def test_options_mean_what_they_mean_on_the_native_route(server, options):
    """To the last bit, for threads and tasks."""
    asked = Reward.of(server.url, options)
    items = [*ITEMS, *conversations()]
    expected = natively(server, items, **options)
    assert asked.rewards(asked.ask(items)) == expected
    assert asked.rewards(await asked.aask(items)) == expected


def test_penalties_are_of_the_answers_own_numbers(server):
    """The ensemble's spread and the item's tokens."""
    asked = Reward.of(
        server.url, {"model": "crew", "uncertainty_penalty": 0.5, "length_penalty": 0.01}
    )
    assert asked.rewards(asked.ask(ITEMS)) == [
        one["score"] - 0.5 * one["uncertainty"]["std"] - 0.01 * one["n_tokens"]
        for one in entries(server, ITEMS, model="crew")
    ]


def test_nothing_asked_is_nothing_answered(server):
    """An empty batch is no error."""
    asked = Reward.of(server.url, {})
    assert asked.rewards(asked.ask([])) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modle": "a"}, "field 'modle'"),
        ({"clip": (1.0,)}, "field 'clip"),
        ({"clip": (5.0, -5.0)}, "the lowest reward, then a higher one"),
        ({"clip": (float("nan"), 1.0)}, "the lowest reward, then a higher one"),
        ({"uncertainty_penalty": -1.0}, "field 'uncertainty_penalty'"),
        ({"uncertainty_penalty": float("nan")}, "field 'uncertainty_penalty'"),
        ({"activation": "tanh"}, "field 'activation'"),
        ({"deadline_s": 0}, "field 'deadline_s'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    """Before anything is asked."""
    with pytest.raises(errors.InvalidField, match=message):
        reward(**options)


@pytest.mark.parametrize(
    "urls", ["http://a:1, http://b:2", ["http://a:1", "http://b:2"], ("http://a:1", "http://b:2")]
)
def test_several_servers_may_be_given(urls):
    """As a list, or with commas."""
    assert Reward.of(urls, {}).url == ("http://a:1", "http://b:2")


def test_a_configurations_own_sequences_are_taken():
    """Hydra's lists are no lists."""

    class Listed:
        def __init__(self, *values):
            self._values = values

        def __iter__(self):
            return iter(self._values)

    made = Reward.of(Listed("http://a:1"), {"clip": Listed(-1, 1)})
    assert (made.url, made.clip) == (("http://a:1",), (-1.0, 1.0))


def test_no_address_is_refused():
    """With the field's name."""
    with pytest.raises(errors.InvalidField, match="url"):
        Reward.of("", {})


def test_the_typed_options_are_the_rewards():
    """A field that it gains is a keyword too."""
    assert get_type_hints(Options).keys() == Reward.model_fields.keys() - {"url"}


def test_a_key_is_sent_and_not_shown(server):
    """Logs have the representation."""
    made = Reward.of(server.url, {"api_key": "secret-key"})
    assert "secret-key" not in repr(made)
    assert pickle.loads(pickle.dumps(made)) == made
