from array import array

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from assay import wire

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
PAIR = {"prompt": "Hi", "response": "Hello"}


def refusal(kind, **fields):
    """Return the first message with which a request is refused."""
    with pytest.raises(ValidationError) as error:
        kind.model_validate(fields)
    return error.value.errors()[0]["msg"].removeprefix("Value error, ")


@pytest.mark.parametrize(
    "form",
    [
        PAIR,
        {"prompt": MESSAGES[:1], "response": "Hello"},
        {"messages": MESSAGES},
        {"text": "<s>Hi Hello"},
        {"input_ids": [1, 2, 3]},
        {"input_ids": [0], "id": "mine"},
    ],
)
def test_an_item_may_have_any_one_form(form):
    """Each form alone is an item."""
    assert wire.Item.model_validate(form).model_dump(exclude_unset=True, exclude_none=True) == form


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"id": "mine"},
        {**PAIR, "text": "Hi"},
        {**PAIR, "messages": MESSAGES},
        {"text": "Hi", "input_ids": [1]},
        {"messages": MESSAGES, "input_ids": [1]},
    ],
)
def test_an_item_has_exactly_one_form(fields):
    """None, or two, is refused."""
    assert refusal(wire.Item, **fields) == (
        "send exactly one of 'prompt' with 'response', 'messages', 'text' or 'input_ids'"
    )


@pytest.mark.parametrize(("present", "missing"), [("prompt", "response"), ("response", "prompt")])
@pytest.mark.parametrize("kind", [wire.Item, wire.ScoreRequest])
def test_half_a_pair_names_the_other_half(kind, present, missing):
    """A prompt needs a response, and the other way round."""
    assert refusal(kind, **{present: "Hi"}) == (
        f"'{missing}' is missing: send 'prompt' together with 'response'"
    )


@pytest.mark.parametrize("messages", [[], MESSAGES[:1], [*MESSAGES, MESSAGES[0]]])
def test_messages_must_end_with_the_assistant(messages):
    """What is scored is the last turn, and it is the assistant's."""
    assert refusal(wire.Item, messages=messages) == (
        "'messages' must end with the assistant turn to score"
    )


def test_a_template_may_call_the_assistant_otherwise():
    """A reranker's messages end with a document; whether the target has one, its template knows."""
    messages = [{"role": "query", "content": "Hi"}, {"role": "document", "content": "Ho"}]

    assert wire.Item(messages=messages).messages[-1].role == "document"


@pytest.mark.parametrize("prompt", [5, {"role": "user", "content": "Hi"}, True])
def test_a_prompt_is_a_text_or_messages(prompt):
    """Anything else is told the two forms."""
    assert refusal(wire.Item, prompt=prompt, response="Hello") == (
        "send a string, or a list of messages with 'role' and 'content'"
    )


@pytest.mark.parametrize("inputs", [5, "Hi", None])
def test_inputs_that_are_no_items_are_refused(inputs):
    """A bare string is no item: which form it has must be said."""
    with pytest.raises(ValidationError):
        wire.TokenizeRequest.model_validate({"inputs": inputs})


def test_an_empty_response_is_a_response():
    """The empty string is an answer to score, not a missing field."""
    assert wire.Item(prompt="Hi", response="").response == ""


@pytest.mark.parametrize("ids", [[-1], ["1"], [1.5], [True], [2**31], 3])
def test_token_ids_are_whole_numbers_from_zero(ids):
    """Anything else is no id of a vocabulary."""
    with pytest.raises(ValidationError):
        wire.Item.model_validate({"input_ids": ids})


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (wire.Item, {**PAIR, "respnse": "Hello"}),
        (wire.Message, {"role": "user", "content": "Hi", "contnet": "Hi"}),
        (wire.ScoreRequest, {"inputs": [PAIR], "normalise": True}),
        (wire.CompareRequest, {"comparisons": [], "tie": 1}),
        (wire.BestOfNRequest, {"groups": [], "topk": 1}),
        (wire.TokenizeRequest, {"inputs": [PAIR], "trunction": "prompt_start"}),
    ],
)
def test_an_unknown_field_is_refused(kind, fields):
    """A misspelt option is an error, not a silent default."""
    assert refusal(kind, **fields) == "Extra inputs are not permitted"


def test_one_item_may_stand_for_a_list_of_one():
    """`inputs` takes an item or a list of them."""
    assert wire.ScoreRequest.model_validate({"inputs": PAIR}).items() == [wire.Item(**PAIR)]


def test_a_list_of_items_keeps_its_order_and_mixes_forms():
    """Items of any form, in the caller's order."""
    request = wire.ScoreRequest.model_validate({"inputs": [{"text": "b"}, PAIR, {"text": "a"}]})
    assert request.items() == [wire.Item(text="b"), wire.Item(**PAIR), wire.Item(text="a")]


def test_no_items_are_a_request():
    """An empty list is answered, not refused."""
    assert wire.ScoreRequest.model_validate({"inputs": []}).items() == []


def test_a_pair_at_the_top_level_stands_for_one_item():
    """The shorthand of one prompt and one response."""
    assert wire.ScoreRequest.model_validate(PAIR).items() == [wire.Item(**PAIR)]


@pytest.mark.parametrize("fields", [{}, {**PAIR, "inputs": []}])
def test_inputs_and_the_shorthand_exclude_each_other(fields):
    """Exactly one of them says what to score."""
    assert refusal(wire.ScoreRequest, **fields) == (
        "send either 'inputs', or 'prompt' with 'response'"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("activation", "softmax"),
        ("priority", "urgent"),
        ("on_error", "ignore"),
        ("deadline_ms", 0),
        ("truncation", "middle"),
        ("include", ["logits"]),
        ("deadline_ms", True),
        ("deadline_ms", "5000"),
        ("deadline_ms", 1e300),
        ("threshold", "0.5"),
        ("normalize", 1),
        ("normalize", "yes"),
        ("attributes", {"quality": True}),
        ("cache_salt", ""),
        ("cache_salt", "x" * 1_025),
        ("cache_salt", 7),
    ],
)
def test_an_option_outside_its_values_is_refused(field, value):
    """Options come from closed sets and ranges."""
    with pytest.raises(ValidationError) as error:
        wire.ScoreRequest.model_validate({"inputs": [], field: value})
    assert error.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (wire.ScoreRequest, {"inputs": []}),
        (wire.CompareRequest, {"comparisons": []}),
        (wire.BestOfNRequest, {"groups": []}),
    ],
)
def test_null_is_an_option_that_is_not_set(kind, given):
    """Clients of typed languages write every field of theirs."""
    options = kind.model_fields.keys() - given
    nulls = dict.fromkeys(options)

    assert kind.model_validate(given | nulls) == kind.model_validate(given)


def test_a_turn_as_the_openai_package_writes_it_is_taken():
    """`message.model_dump()` names what the turn doesn't have."""
    absent = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
    turn = {"role": "assistant", "content": "Four.", "tool_calls": None, **absent}
    asked = {"role": "user", "content": "Two and two?"}

    item = wire.Item(messages=[asked, turn])

    assert item.messages[-1].turn() == {"role": "assistant", "content": "Four."}
    with pytest.raises(ValidationError, match="no place for it"):
        wire.Message(role="assistant", content="", refusal="I won't.")


@pytest.mark.parametrize("ids", [np.array([5, 6]), torch.tensor([5, 6]), array("i", [5, 6])])
def test_token_ids_may_be_an_array(ids):
    """Trainers have these."""
    assert list(wire.Item(input_ids=ids).input_ids) == [5, 6]


@pytest.mark.parametrize(
    ("form", "candidates"),
    [
        ({"responses": ["a", "b", "c"]}, ["a", "b", "c"]),
        ({"chosen": "a", "rejected": "b"}, ["a", "b"]),
    ],
)
def test_a_comparison_has_one_of_two_forms(form, candidates):
    """Responses in order, or chosen (index 0) with rejected."""
    assert wire.Comparison(prompt="Hi", **form).candidates() == candidates


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"chosen": "a"},
        {"rejected": "b"},
        {"chosen": "a", "rejected": "b", "responses": ["a", "b"]},
        {"chosen": "a", "responses": ["a", "b"]},
    ],
)
def test_a_comparison_has_exactly_one_form(form):
    """Neither, half of one, or both, is refused."""
    assert refusal(wire.Comparison, prompt="Hi", **form) == (
        "send either 'responses', or 'chosen' with 'rejected'"
    )


def test_a_comparison_needs_two_responses():
    """One response has nothing to win against."""
    with pytest.raises(ValidationError):
        wire.Comparison(prompt="Hi", responses=["a"])


@pytest.mark.parametrize("short", [{"responses": ["a", "b"]}, {"chosen": "a", "rejected": "b"}])
def test_one_comparison_at_the_top_level_stands_for_a_list_of_one(short):
    """The shorthand equals the long form."""
    request = wire.CompareRequest.model_validate({"prompt": "Hi", **short})
    assert request.all() == [wire.Comparison(prompt="Hi", **short)]


def test_a_comparison_without_a_prompt_is_refused():
    """Responses alone answer nothing."""
    assert refusal(wire.CompareRequest, responses=["a", "b"]) == "'prompt' is missing"


@pytest.mark.parametrize("fields", [{}, {"comparisons": [], "prompt": "Hi"}])
def test_comparisons_and_the_shorthand_exclude_each_other(fields):
    """Exactly one of them says what to compare."""
    assert refusal(wire.CompareRequest, **fields) == (
        "send either 'comparisons', or 'prompt' with 'responses'"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("temperature", float("inf")), ("tie_margin", -1)],
)
def test_a_comparisons_numbers_have_ranges(field, value):
    """A temperature is positive and finite, a tie margin not negative."""
    with pytest.raises(ValidationError) as error:
        wire.CompareRequest.model_validate({"comparisons": [], field: value})
    assert error.value.errors()[0]["loc"] == (field,)


def test_one_group_at_the_top_level_stands_for_a_list_of_one():
    """The shorthand of best-of-n."""
    request = wire.BestOfNRequest.model_validate({"prompt": "Hi", "responses": ["a"]})
    assert request.all() == [wire.Group(prompt="Hi", responses=["a"])]


def test_a_group_needs_a_response():
    """Best of none is nobody."""
    with pytest.raises(ValidationError):
        wire.Group(prompt="Hi", responses=[])


@pytest.mark.parametrize("fields", [{}, {"groups": [], "prompt": "Hi", "responses": ["a"]}])
def test_groups_and_the_shorthand_exclude_each_other(fields):
    """Exactly one of them says what to rank."""
    assert refusal(wire.BestOfNRequest, **fields) == (
        "send either 'groups', or 'prompt' with 'responses'"
    )


def test_an_answer_may_grow():
    """Clients ignore fields they don't know."""
    assert wire.ItemError.model_validate({"code": "a", "message": "b", "hint": "c"}) == (
        wire.ItemError(code="a", message="b")
    )


def test_what_is_absent_is_left_out_of_an_answer():
    """Optional parts that weren't asked for don't appear; the score's null does."""
    entry = wire.ScoreEntry(index=0, score=None, n_tokens=3, truncated=False)
    assert entry.model_dump() == {
        "index": 0,
        "score": None,
        "uncertainty": None,
        "n_tokens": 3,
        "truncated": False,
    }
