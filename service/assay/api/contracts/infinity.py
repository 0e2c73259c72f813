"""Infinity: `/classify` and `/rerank` where the body has `raw_scores`, as its own client's has.

`raw_scores` is heeded: without it a score is σ(reward), and of a model with attributes the softmax
over them. Documents are bare strings. An unknown model is 404, not Infinity's 400. LiteLLM sends
none of that key: with `return_documents=False` its provider reads what `rerank` answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.api.contracts import labels, shapes
from assay.api.contracts.contract import Ask, Body, Contract, created, each
from assay.api.contracts.rerank import CUT, rank
from assay.items import Text
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.errors import AssayError
    from assay.scoring.call import Call
    from assay.scoring.driver import Handler

_UNNAMED = "default/not-specified"  # what the client sends for no model


class _Named(Body):
    model: str | None = _UNNAMED
    raw_scores: bool = False

    @property
    def target(self) -> str | None:
        """The target's name, if the caller gave one."""
        return None if self.model == _UNNAMED else self.model


class Classify(_Named):
    """`input` is texts that went through a template already; they get what the tokenizer adds."""

    input: list[str]


class Rerank(_Named):
    """`query` is a prompt, `documents` are responses to it."""

    query: str
    documents: list[str]
    return_documents: bool = False
    top_n: int | None = None


def _classify(ask: Ask, body: Classify) -> Handler[dict[str, Any]]:
    sources = [Text(text, "tokenizer") for text in body.input]
    call, _, judged = yield from ask.read(sources, each("input"), model=body.target, cutting=CUT)
    data = [labels.of(call, item, "none" if body.raw_scores else None) for item in judged]
    tokens = [item.n_tokens for item in judged]
    return {"object": "classify", "data": data, **_envelope(ask, call, tokens)}


def _rerank(ask: Ask, body: Rerank) -> Handler[dict[str, Any]]:
    call, ranking, tokens = yield from rank(
        ask, body.query, body.documents, "documents", model=body.target, top_n=body.top_n
    )
    results = [
        {
            "relevance_score": reward if body.raw_scores else sigmoid(reward),
            "index": index,
            "document": body.documents[index] if body.return_documents else None,
        }
        for index, reward in ranking
    ]
    return {"object": "rerank", "results": results, **_envelope(ask, call, tokens)}


def _envelope(ask: Ask, call: Call, tokens: Sequence[int]) -> dict[str, Any]:
    return {
        "model": call.target.name,
        "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
        "id": f"infinity-{ask.request_id}",
        "created": created(),
    }


def _problem(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    """A bad request is told as FastAPI tells it, anything else as OpenAI does."""
    if error.status == 422:
        return shapes.located(error, request_id)
    return error.status, {"error": shapes.fields(error, error.code, error.status)}


CONTRACTS = (
    Contract("infinity.classify", ("/classify",), Classify, _classify, _problem),
    Contract("infinity.rerank", ("/rerank",), Rerank, _rerank, _problem),
)
