"""Rank responses and classify texts with Infinity's own client."""

import json
import os
import sys

from infinity_client import AuthenticatedClient
from infinity_client.api.default import classify, models, rerank
from infinity_client.models import ClassifyInput, RerankInput

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]
TEXT = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n{RESPONSES[1]}<|im_end|>"

client = AuthenticatedClient(base_url=URL, token=KEY, timeout=60, raise_on_unexpected_status=True)
served = models.sync(client=client)
ranked = rerank.sync(
    client=client,
    body=RerankInput(model="starter", query=PROMPT, documents=RESPONSES, raw_scores=True),
)
classified = classify.sync(
    client=client, body=ClassifyInput(model="starter", input_=[TEXT], raw_scores=True)
)

print(
    json.dumps(
        {
            "models": [[one.id, one.capabilities] for one in served.data],
            "rerank": [[one.index, one.relevance_score] for one in ranked.results],
            "classify": [[label.label, label.score] for label in classified.data[0]],
        }
    )
)
