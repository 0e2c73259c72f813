"""Rank responses to a prompt through LiteLLM, as one of its vLLM or Infinity deployments."""

import json
import os
import sys

import litellm

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]

ranked = litellm.rerank(
    model="hosted_vllm/starter",
    api_base=URL,
    api_key=KEY,
    query=PROMPT,
    documents=RESPONSES,
    top_n=2,
    timeout=60,
)
by_infinity = litellm.rerank(
    model="infinity/starter",
    api_base=URL,
    api_key=KEY,
    query=PROMPT,
    documents=RESPONSES,
    return_documents=False,
    timeout=60,
)

print(
    json.dumps(
        {
            "hosted_vllm": [[one["index"], one["relevance_score"]] for one in ranked.results],
            "infinity": [[one["index"], one["relevance_score"]] for one in by_infinity.results],
        }
    )
)
