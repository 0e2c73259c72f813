"""Prompts and responses, and what the native route says of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from tests.http.processes import Server

MODEL_TOKENS = 512  # what "tiny" takes
TOO_LONG = "no " * 2 * MODEL_TOKENS
CHATS = [
    [{"role": "system", "content": "Answer in one sentence."}, {"role": "user", "content": PROMPT}],
    [{"role": "user", "content": "Name a prime."}],
    [
        {"role": "user", "content": "Name a prime."},
        {"role": "assistant", "content": "Which one?"},
        {"role": "user", "content": "The first."},
    ],
]
SAID = ["Water it from below.", "Seven.", "Two is the first prime number."]
TURNS = [[{"role": "assistant", "content": one}] for one in SAID]
ITEMS = [{"prompt": PROMPT, "response": one} for one in RESPONSES]
HENS = "A farm has 3 hens that lay 2 eggs a day. How many eggs in a week?"
SOLUTIONS = [
    "Each day they lay 6 eggs.\n\nA week has 7 days.\n\nIt is 42.",
    "Six eggs.",
    "I guess.\n\nIt is 40.",
]


def steps(solution: str) -> list[str]:
    """Return the steps of one."""
    return solution.split("\n\n")


def natively(server: Server, items: list[dict[str, Any]], **options: Any) -> list[float]:
    """Return the native scores of items."""
    return [one["score"] for one in entries(server, items, **options)]


def entries(server: Server, items: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Return the native entries of items."""
    answer = server.score(inputs=items, **options)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def conversations() -> list[dict[str, Any]]:
    """Return the chats with what was said, as native items."""
    return [{"messages": chat + turn} for chat, turn in zip(CHATS, TURNS, strict=True)]
