"""A plain HTTP server in the common style: FastAPI around transformers, one batch a request.

python -m loadtest.peers.plain --checkpoint DIR [--port 8001] [--dtype float32] [--threads N]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


class Input(BaseModel):
    """A prompt and a response."""

    prompt: str
    response: str


class ScoreRequest(BaseModel):
    """What POST /score takes."""

    inputs: list[Input]


def create_app(checkpoint: str, dtype: str) -> FastAPI:
    """Load the model and return the application."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype=dtype).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    app = FastAPI()

    @app.post("/score")
    def score(request: ScoreRequest) -> dict[str, Any]:
        texts = [
            tokenizer.apply_chat_template(
                [
                    {"role": "user", "content": one.prompt},
                    {"role": "assistant", "content": one.response},
                ],
                tokenize=False,
            )
            for one in request.inputs
        ]
        batch = tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**batch.to(model.device)).logits
        return {"scores": logits[:, 0].float().tolist()}

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.plain", description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    app = create_app(arguments.checkpoint, arguments.dtype)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
