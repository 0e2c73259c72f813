"""Rank retrieved nodes with LlamaIndex's client of Text Embeddings Inference."""

import json
import os
import sys

from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]

reranker = TextEmbeddingInference(base_url=URL, auth_token=f"Bearer {KEY}", top_n=2, timeout=60)
nodes = [NodeWithScore(node=TextNode(text=response)) for response in RESPONSES]
best = reranker.postprocess_nodes(nodes, query_str=PROMPT)

print(json.dumps([[one.node.text, one.score] for one in best]))
