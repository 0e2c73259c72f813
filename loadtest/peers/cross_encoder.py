"""sentence-transformers' CrossEncoder, asked over standard input (see `pipe.py`).

    python -m loadtest.peers.cross_encoder --checkpoint DIR [--dtype bfloat16] [--threads N]

It gets conversations, applies the chat template and sorts by length itself, without an activation.
Needs version 6. Not in Assay's extras: `pip install 'sentence-transformers>=6'`.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch

from loadtest.peers import pipe

if TYPE_CHECKING:
    from collections.abc import Sequence


class Encoder:
    """A CrossEncoder over a checkpoint."""

    def __init__(self, checkpoint: str, dtype: str, size: int) -> None:
        try:
            from sentence_transformers import CrossEncoder  # noqa: PLC0415  optional and slow
        except ImportError:
            raise SystemExit(
                "the cross-encoder peer needs sentence-transformers: "
                "pip install 'sentence-transformers>=6'"
            ) from None
        self._size = size
        self._encoder: Any = CrossEncoder(
            checkpoint,
            num_labels=1,
            activation_fn=torch.nn.Identity(),
            model_kwargs={"dtype": getattr(torch, dtype)},
        )

    def score(self, items: Sequence[tuple[str, str, str]]) -> list[float]:
        """Return the scores of the conversations, in order."""
        conversations = [
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            for prompt, response, _ in items
        ]
        scores = self._encoder.predict(
            conversations, batch_size=self._size, show_progress_bar=False
        )
        return [float(score) for score in scores]


def main() -> None:
    """Load and answer."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers.cross_encoder")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--size", type=int, default=32, help="items of a batch; its own default")
    arguments = parser.parse_args()
    answers = pipe.private_output()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    encoder = Encoder(arguments.checkpoint, arguments.dtype, arguments.size)
    pipe.serve(encoder, f"batches of {arguments.size}", answers)


if __name__ == "__main__":
    main()
