"""Read rewards with OpenAI's client: by a chat completion, or as embeddings of one number."""

import json
import os
import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
TURNS = [
    {"role": "user", "content": "Name a prime number."},
    {"role": "assistant", "content": "Seven is a prime number."},
]
TEXT = "\n".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in TURNS)

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=60)
names = [model.id for model in client.models.list()]

completion = client.chat.completions.create(model="starter", messages=TURNS)
rewards = {one.token: one.logprob for one in completion.choices[0].logprobs.content}

embedded = client.embeddings.create(model="starter", input=[TEXT])

print(
    json.dumps(
        {
            "models": names,
            "content": completion.choices[0].message.content,
            "rewards": rewards,
            "embedding": embedded.data[0].embedding,
        }
    )
)
