"""Ask a reward model to choose between answers with OpenAI's client and its decisions."""

import json
import os
import sys

from openai import OpenAI

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=60)
decision = client.decisions.create(
    model="starter",
    input="Somebody was asked for a prime number.",
    questions=[
        {
            "type": "choice",
            "name": "answer",
            "instructions": "Which is the best answer?",
            "choices": [{"value": response} for response in RESPONSES],
        },
    ],
)

(answer,) = decision.answers
print(
    json.dumps(
        {
            "choice": answer.choice,
            "confidence": answer.confidence,
            "probabilities": [one.probability for one in answer.probabilities],
        }
    )
)
