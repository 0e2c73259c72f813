"""Items in every form, and of many lengths."""

from __future__ import annotations

from typing import Any

PROMPT = "How do I keep basil alive on a windowsill?"
RESPONSE = "Water it from below when the soil is dry, and give it six hours of light."
PAIR: dict[str, Any] = {"prompt": PROMPT, "response": RESPONSE}
CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Answer in one sentence."},
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "Which way does the window face?"},
        {"role": "user", "content": "South — it's very bright. 🌞"},
        {"role": "assistant", "content": "Then shade it at noon."},
    ]
}
TEXT: dict[str, Any] = {"text": "<|im_start|>user\nHello<|im_end|>\n"}
IDS: dict[str, Any] = {"input_ids": [5, 17, 300, 42, 7]}
FORMS = [PAIR, CONVERSATION, TEXT, IDS]
RESPONSES = [
    RESPONSE,
    "Basil dies. Buy another.",
    "Pinch the tips, turn the pot each week, and don't let it stand in water overnight.",
    "I don't know.",
]


def many(count: int) -> list[dict[str, Any]]:
    """Return different items from a few to some hundred tokens long."""
    return [
        {
            "prompt": f"Question {number}: " + "why is that so? " * (number % 7),
            "response": f"Because of reason {number}. " * (1 + number * number % 23),
        }
        for number in range(count)
    ]
