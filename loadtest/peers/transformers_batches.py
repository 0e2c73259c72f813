"""transformers in length-sorted padded batches: the usual good script, with no server around it.

    python -m loadtest.peers.transformers_batches --checkpoint DIR [--dtype bfloat16] [--threads N]

Asked over standard input (see `pipe.py`). Tokenizing is part of what is timed, as a server's is;
the chat template isn't. Attention and batch size are the fastest of a few on a small sample.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loadtest.peers import pipe
from loadtest.texts import Generated

if TYPE_CHECKING:
    from collections.abc import Sequence

ATTENTION = ("sdpa", "eager")
SIZES = (4, 8, 16)
SAMPLE = 32


class Batches:
    """A model and how many items of like length it takes at once."""

    def __init__(self, checkpoint: str, dtype: str, attention: str, size: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(
            checkpoint, dtype=dtype, attn_implementation=attention
        ).eval()
        self._model.to(device)
        self._device = device
        self.size = size

    @torch.inference_mode()
    def score(self, items: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return the scores of the texts, in order."""
        texts = [text for _, _, text in items]
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]), reverse=True)
        scores = [0.0] * len(ids)
        for start in range(0, len(order), self.size):
            places = order[start : start + self.size]
            batch = self._tokenizer.pad(
                {"input_ids": [ids[place] for place in places]}, return_tensors="pt"
            ).to(self._device)
            logits = self._model(**batch, use_cache=False).logits[:, 0].float().tolist()
            for place, logit in zip(places, logits, strict=True):
                scores[place] = logit
        return scores


def fastest(checkpoint: str, dtype: str) -> tuple[Batches, str]:
    """Return the fastest of the attentions and sizes on a small sample, and its description."""
    pairs = Generated(1 << 21).take(0, SAMPLE)
    sample = [(one.prompt, one.response, f"{one.prompt}\n{one.response}") for one in pairs]
    tried: list[tuple[float, str, int]] = []
    for attention in ATTENTION:
        batches = Batches(checkpoint, dtype, attention, SIZES[0])
        batches.score(sample[:4])
        for batches.size in SIZES:
            begin = time.perf_counter()
            batches.score(sample)
            tried.append((time.perf_counter() - begin, attention, batches.size))
    _, attention, size = min(tried)
    return Batches(checkpoint, dtype, attention, size), f"{attention}, batches of {size}"


def main() -> None:
    """Load, choose, answer."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.transformers_batches")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--attention", choices=ATTENTION, help="default: the fastest")
    parser.add_argument("--size", type=int, help="items of a batch; default: the fastest")
    arguments = parser.parse_args()
    answers = pipe.private_output()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.attention and arguments.size:
        batches = Batches(
            arguments.checkpoint, arguments.dtype, arguments.attention, arguments.size
        )
        note = f"{arguments.attention}, batches of {arguments.size}"
    else:
        batches, note = fastest(arguments.checkpoint, arguments.dtype)
    pipe.serve(batches, note, answers)


if __name__ == "__main__":
    main()
