"""Rank responses to a prompt with Voyage's, Mixedbread's and, in LangChain, NVIDIA's own client."""

import json
import os
import sys

import voyageai
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank
from mixedbread import Mixedbread

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("ASSAY_URL", "http://localhost:8000")
KEY = os.environ.get("ASSAY_API_KEY", "none")
PROMPT = "Name a prime number."
RESPONSES = ["Eight.", "Seven is a prime number.", "I like numbers."]

voyage = voyageai.Client(api_key=KEY, base_url=f"{URL}/v1")
first = voyage.rerank(PROMPT, RESPONSES, model="starter", top_k=2)

mixedbread = Mixedbread(api_key=KEY, base_url=URL)
second = mixedbread.rerank(
    model="starter", query=PROMPT, input=RESPONSES, top_k=2, return_input=True
)

nvidia = NVIDIARerank(model="starter", base_url=f"{URL}/v1", api_key=KEY, top_n=2)
third = nvidia.compress_documents(
    query=PROMPT, documents=[Document(page_content=one) for one in RESPONSES]
)

print(
    json.dumps(
        {
            "voyage": [[one.index, one.relevance_score] for one in first.results],
            "mixedbread": [[one.index, one.score] for one in second.data],
            "nvidia": [[one.page_content, one.metadata["relevance_score"]] for one in third],
        }
    )
)
