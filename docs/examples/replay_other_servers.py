"""Ask as clients of vLLM, SGLang and Text Embeddings Inference do. A replay of their requests."""

import json
import os
import sys

import httpx

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
PROMPT = "Name a prime number."
RESPONSE = "Seven is a prime number."
TURNS = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": RESPONSE}]
TEXT = "\n".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>" for turn in TURNS)

with httpx.Client(base_url=URL, timeout=60) as client:

    def ask(path: str, **body: object) -> dict | list:
        """Return the answer to a request."""
        answer = client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()

    classified = ask("/classify", model="starter", input=TEXT, use_activation=False)
    pooled = ask("/pooling", model="starter", messages=TURNS)
    paired = ask("/score", model="starter", queries=PROMPT, documents=[RESPONSE])
    judged = ask("/classify", model="starter", text=[TEXT])
    embedded = ask("/v1/embeddings", model="starter", input=TEXT)
    predicted = ask("/predict", inputs=TEXT, raw_scores=True)
    ranked = ask("/rerank", query=PROMPT, texts=[RESPONSE], raw_scores=True)

print(
    json.dumps(
        {
            "vllm /classify": classified["data"][-1]["probs"][-1],
            "vllm /pooling": pooled["data"][0]["data"][-1],
            "vllm /score": paired["data"][0]["score"],
            "sglang /classify": judged[0]["embedding"][0],
            "sglang /v1/embeddings": embedded["data"][-1]["embedding"][-1],
            "tei /predict": predicted[0]["score"],
            "tei /rerank": ranked[0]["score"],
        }
    )
)
