"""What a foreign body has beside the fields of its contract, which is mostly passed over.

These contracts take fields that nobody knows, and real clients send many. Refused is what would
otherwise give another answer than the caller asked for, without a word: a misspelt field, a second
input of which only one can be scored, an option of another contract that would change the number.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from assay.errors import InvalidField, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

# What some contract scores.
INPUTS = frozenset(
    {
        *("input", "inputs", "input_ids", "instances", "items", "messages", "conv", "passages"),
        *("queries", "documents", "text", "texts", "text_1", "text_2", "data_1", "data_2"),
    }
)
# What changes the number in some contract, or natively.
_CHANGES = frozenset(
    {
        *("activation", "use_activation", "function_to_apply", "aggregate", "chat_template"),
        *("instruction", "instruct"),
    }
)
_BEST = {"top_n": "top_k", "top_k": "top_n"}  # one contract's name and another's
_SWITCHES = frozenset({"normalize", "raw_scores", "softmax", "apply_softmax"})  # off is nothing
_ALIKE = 0.85
_LONGEST_NAME = 64


def check_spelling(extra: Mapping[str, Any], field_names: Collection[str]) -> None:
    """Refuse a field that is nearly called as a known one.

    Raises:
        ValueError: There is one; the message names both.
    """
    for name, value in extra.items():
        near = None if value is None else _near(name[:_LONGEST_NAME], tuple(field_names))
        if near is not None:
            raise ValueError(f"unknown field '{shown(name)}'; did you mean '{near}'?")


@lru_cache(maxsize=4_096)
def _near(name: str, field_names: tuple[str, ...]) -> str | None:
    return next(iter(get_close_matches(name, field_names, n=1, cutoff=_ALIKE)), None)


def check_meaning(extra: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuse a second input, and an option that would change the number and isn't heeded.

    `fields` are those of the contract, with their values.

    Raises:
        InvalidField: There is one.
    """
    for name, value in extra.items():
        if name in INPUTS and value not in (None, [], ""):
            scored = next((field for field in fields if field in INPUTS and fields[field]), "query")
            message = f"'{name}' beside '{scored}', which is scored here: send one of them"
        elif value is not None and fields.get(_BEST.get(name, "")) is not None:
            message = f"'{name}' beside '{_BEST[name]}': send one of them"
        elif (name in _CHANGES and value is not None) or (name in _SWITCHES and value):
            message = f"'{name}' isn't an option of this contract; leave it out"
        else:
            continue
        raise InvalidField(message, param=name)


def check_one(fields: Mapping[str, Any]) -> None:
    """Refuse more than one of the fields that may each be what is scored.

    Raises:
        ValueError: There are several.
    """
    present = [name for name, value in fields.items() if value not in (None, [])]
    if len(present) > 1:
        raise ValueError(f"send either '{present[0]}' or '{present[1]}', not both")
