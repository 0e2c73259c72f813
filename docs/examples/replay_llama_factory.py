"""Ask for rewards as LLaMA-Factory's PPO does. A replay of its request, without LLaMA-Factory."""

import json
import os
import sys

import requests

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
REWARD_MODEL = f"{URL}/v1/score/evaluation"  # what reward_model has
PROMPT = "<|im_start|>user\nName a prime number.<|im_end|>\n<|im_start|>assistant\n"
MESSAGES = [PROMPT + "Eight.<|im_end|>", PROMPT + "Seven is a prime number.<|im_end|>"]

answer = requests.post(  # noqa: S113  LLaMA-Factory waits forever
    REWARD_MODEL,
    json={"model": "model", "messages": MESSAGES},
    headers={"Content-Type": "application/json"},
)
scores = json.loads(answer.text)["scores"]  # whatever the status was

print(json.dumps({"answer": answer.json(), "scores": scores}))
