"""Ask for preferences as OAT's remote oracle does. A replay of its requests, without OAT."""

import json
import os
import sys

import httpx
import msgspec

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
PROMPTS = ["Name a prime number.", "How do I keep basil alive?"]
CANDIDATES = [
    ("Seven is a prime number.", "Eight."),
    ("Water it from below.", "Buy another one."),
]

with httpx.Client(base_url=URL) as client:  # --remote_rm_url
    answer = client.post(
        "/get_feedback",
        content=msgspec.msgpack.encode(
            {"batch_prompt": PROMPTS, "batch_response": [], "batch_candidates": CANDIDATES}
        ),
        timeout=5,
    )
answer.raise_for_status()
first_wins = msgspec.msgpack.decode(answer.content)["batch_first_win_prob"]

print(json.dumps(first_wins))
