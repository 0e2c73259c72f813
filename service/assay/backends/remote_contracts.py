"""How other servers are asked for raw scores of token ids, and what they answer.

Each contract gives the path, the body for some sequences, and the rows of numbers in an answer, one
row a sequence. `raw=False` asks for the server's own activation: by the difference a start tells
whether what it calls raw is raw.

- vLLM's `/classify` and `/pooling` (vllm/entrypoints/pooling): `use_activation` is on by default, a
  sigmoid of one label, a softmax of several.
- SGLang's `/v1/score` (sglang/srt/entrypoints/openai/serving_score.py): a sequence classifier's own
  number for `query` + item; what all sequences of a request begin with is sent once.
- Text Embeddings Inference's `/predict` (router/src/http/types.rs): takes text alone.
- Assay's `/score`.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Name = Literal["vllm-classify", "vllm-pooling", "sglang", "tei", "assay"]


class RemoteContract(Protocol):
    """One server's way to be asked."""

    path: str
    takes_text: bool  # that its own tokenizer reads, instead of ids

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send for some sequences: lists of ids, or texts."""

    def rows(self, answer: Any) -> list[list[float]]:
        """Return the numbers of each sequence.

        Raises:
            KeyError, TypeError, IndexError, ValueError: The answer isn't of this contract.
        """


def _named(body: dict[str, Any], model: str | None) -> dict[str, Any]:
    return body if model is None else {"model": model, **body}


class VllmClassify:
    """`POST /classify` of vLLM."""

    path, takes_text = "/classify", False

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send."""
        return _named({"input": list(items), "use_activation": not raw}, model)

    def rows(self, answer: Any) -> list[list[float]]:
        """Return each sequence's `probs`, which are logits where no activation was asked for."""
        return [list(map(float, entry["probs"])) for entry in _by_index(answer["data"])]


class VllmPooling:
    """`POST /pooling` of vLLM, for models without a classifier's label table."""

    path, takes_text = "/pooling", False

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send."""
        return _named({"input": list(items), "use_activation": not raw}, model)

    def rows(self, answer: Any) -> list[list[float]]:
        """Return each sequence's numbers, of those with a row a token the last row."""
        rows = [entry["data"] for entry in _by_index(answer["data"])]
        lasts = [row[-1] if isinstance(row[0], list) else row for row in rows]
        return [list(map(float, row)) for row in lasts]


class Sglang:
    """`POST /v1/score` of SGLang."""

    path, takes_text = "/v1/score", False

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send: what all sequences begin with, and the rest of each."""
        most = min(map(len, items)) - 1
        same = takewhile(lambda ids: len(set(ids)) == 1, zip(*items, strict=False))
        shared = min(most, sum(1 for _ in same))
        body = {
            "query": list(items[0][:shared]),
            "items": [list(ids[shared:]) for ids in items],
            "apply_softmax": not raw,
        }
        return _named(body, model)

    def rows(self, answer: Any) -> list[list[float]]:
        """Return each sequence's scores."""
        scores = answer["scores"]
        return [list(map(float, score if isinstance(score, list) else [score])) for score in scores]


class Tei:
    """`POST /predict` of Text Embeddings Inference: its tokenizer reads the rendered text again."""

    path, takes_text = "/predict", True

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send; a server has one model."""
        del model
        return {"inputs": [[item] for item in items], "raw_scores": raw, "truncate": False}

    def rows(self, answer: Any) -> list[list[float]]:
        """Return each sequence's scores in the order of their labels."""
        return [
            [
                float(label["score"])
                for label in sorted(labels, key=lambda label: str(label["label"]))
            ]
            for labels in answer
        ]


class Assay:
    """`POST /score` of another Assay."""

    path, takes_text = "/score", False

    def body(self, items: Sequence[Any], model: str | None, *, raw: bool) -> dict[str, Any]:
        """Return what to send."""
        activation = "none" if raw else "sigmoid"
        inputs = [{"input_ids": list(item)} for item in items]
        return _named({"inputs": inputs, "activation": activation}, model)

    def rows(self, answer: Any) -> list[list[float]]:
        """Return each sequence's score."""
        return [[float(entry["score"])] for entry in _by_index(answer["data"])]


CONTRACTS: dict[Name, RemoteContract] = {
    "vllm-classify": VllmClassify(),
    "vllm-pooling": VllmPooling(),
    "sglang": Sglang(),
    "tei": Tei(),
    "assay": Assay(),
}


def _by_index(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(data, key=lambda entry: int(entry["index"]))
