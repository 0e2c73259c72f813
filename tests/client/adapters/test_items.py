"""From what frameworks hand over to native items."""

from dataclasses import dataclass

import pytest

from assay.client.adapters import items
from assay.client.adapters.reward import Reward
from assay.errors import InvalidField

USER = {"role": "user", "content": "Why?"}
SAID = {"role": "assistant", "content": "So."}
PARTS = [{"type": "text", "text": "S"}, {"type": "text", "text": "o."}]
CALL = {"type": "function", "id": "a", "function": {"name": "f", "arguments": "{}"}}


@dataclass
class Spoken:
    """A message as an object."""

    role: str
    content: object
    tool_calls: object = None


def pair(prompt, response, **options):
    """Return the item of a pair."""
    return items.pair(Reward.of("http://127.0.0.1:9", options), prompt, response)


@pytest.mark.parametrize(
    ("prompt", "response", "options", "expected"),
    [
        ("Why?", "So.", {}, {"prompt": "Why?", "response": "So."}),
        ("Why?", "So.", {"verbatim": True}, {"text": "Why?So."}),
        ([USER], "So.", {}, {"prompt": [USER], "response": "So."}),
        ([USER], "So.", {"verbatim": True}, {"prompt": [USER], "response": "So."}),
        ([USER], [SAID], {}, {"messages": [USER, SAID]}),
        ("Why?", [SAID], {"verbatim": True}, {"messages": [USER, SAID]}),
        ((USER,), [Spoken("assistant", "So.")], {}, {"messages": [USER, SAID]}),
        ("Why?", "So.<|end|>\n", {"turn_end": "<|end|>"}, {"prompt": "Why?", "response": "So."}),
        ("Why?", "So.\n", {"turn_end": "<|end|>"}, {"prompt": "Why?", "response": "So.\n"}),
        ("a", "b<|end|>", {"turn_end": "<|end|>", "verbatim": True}, {"text": "ab<|end|>"}),
    ],
)
def test_a_pair_becomes_an_item(prompt, response, options, expected):
    """By the forms of its prompt and its response."""
    assert pair(prompt, response, **options) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, ""),
        ("So.", "So."),
        (PARTS, PARTS),
        ([{**PARTS[0], "image": None}, "o."], PARTS),  # as tables fill rows up
    ],
)
def test_a_contents_text_is_taken(content, expected):
    """Parts of it as they are: how they are joined is the template's to say."""
    assert items.turns([{"role": "user", "content": content, "loss": True}]) == [
        {"role": "user", "content": expected}
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        Spoken("assistant", None, tool_calls=[CALL]),
    ],
)
def test_what_cannot_be_rendered_is_unscorable(server, message):
    """A conversation isn't scored without its images or tool calls."""
    made = Reward.of(server.url, {})
    conversation = {"messages": items.turns([USER, message, SAID])}
    plain = {"messages": [USER, SAID]}
    broken, whole = made.rewards(made.ask([conversation, plain]))
    assert broken is None
    assert whole is not None


@pytest.mark.parametrize(
    ("response", "separator", "steps"),
    [
        ("a\n\nb", "\n\n", ["a", "b"]),
        ("a\n\nb\n\n", "\n\n", ["a", "b"]),
        ("\n\n", "\n\n", ["\n\n"]),
        ("", "\n\n", [""]),
        ("a\n\nb", None, ["a\n\nb"]),
        ("a ки b", " ки ", ["a", "b"]),
    ],
)
def test_a_solution_is_parted_into_steps(response, separator, steps):
    """Blank ones are none."""
    assert items.solution("Why?", response, separator) == {"prompt": "Why?", "steps": steps}


@pytest.mark.parametrize(
    "columns",
    [
        {"prompts": ["a", "b"], "responses": ["x"]},
        {"prompts": ["a"], "responses": ["x"], "tools": [[], []]},
        {"prompts": ["a", "b"], "responses": ["x", "y"], "documents": [[]]},
    ],
)
def test_columns_of_unequal_length_are_refused(columns):
    """A reward is of one prompt and its response: nothing is paired by chance or left out."""
    with pytest.raises(InvalidField, match="give as many of each"):
        items.pairs(Reward.of("http://127.0.0.1:9", {}), **columns)
