"""Read attributes as CAMEL and NeMo Curator do of NVIDIA's reward models, by OpenAI's client."""

import json
import os
import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
MODEL = sys.argv[2] if len(sys.argv) > 2 else "starter"
TURNS = [
    {"role": "user", "content": "Name a prime number."},
    {"role": "assistant", "content": "Seven is a prime number."},
]

client = OpenAI(base_url=f"{URL}/v1", api_key="none", timeout=180, max_retries=3)
choice = client.chat.completions.create(model=MODEL, messages=TURNS).choices[0]
scores = {one.token: one.logprob for one in choice.logprobs.content}

print(json.dumps({"scores": scores, "content": choice.message.content}))
