"""Compare a group as NeMo Gym's GenRMStrategy does. A replay of its request, without NeMo Gym."""

import json
import os
import sys

import httpx

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
CONVERSATION = [{"role": "user", "content": "Name a prime number."}]
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]


def response_obj(text: str) -> dict:
    """Return a response as the Responses API has it: reasoning, then the answer."""
    reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "A prime?"}]}
    said = {"type": "output_text", "text": text, "annotations": []}
    return {"output": [reasoning, {"type": "message", "role": "assistant", "content": [said]}]}


answer = httpx.post(
    f"{URL}/compare",
    json={
        "conversation_history": CONVERSATION,
        "response_objs": [response_obj(text) for text in RESPONSES],
        "principle": "Be concise.",
    },
    timeout=None,  # noqa: S113  Gym has none
)
answer.raise_for_status()
result = answer.json()

print(json.dumps({"rewards": result["rewards"], "metrics": result["metrics"]}))
