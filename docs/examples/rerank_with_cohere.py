"""Rank responses to a prompt with Cohere's own client, by its v2 and its v1 route."""

import json
import os
import sys

import cohere

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]

new = cohere.ClientV2(api_key=KEY, base_url=URL, timeout=60)
ranked = new.rerank(model="starter", query=PROMPT, documents=RESPONSES, top_n=2)

old = cohere.Client(api_key=KEY, base_url=URL, timeout=60)
with_documents = old.rerank(model="starter", query=PROMPT, documents=RESPONSES)

print(
    json.dumps(
        {
            "v2": [[one.index, one.relevance_score] for one in ranked.results],
            "v1": [[one.document.text, one.relevance_score] for one in with_documents.results],
        }
    )
)
