"""Voyage's rerank: Cohere's path, told by `top_k` and `truncation`, which its client always sends.

The answer's list is `data`, sorted, the best first; a `relevance_score` is a probability there:
σ(reward). `truncation: false` refuses what is over the model's limit, else it is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from assay.api.contracts import shapes
from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.rerank import rank
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from assay.scoring.driver import Handler


class Rerank(Body):
    """`query` is a prompt, `documents` are responses to it."""

    query: str
    documents: list[str]
    model: str | None = None
    top_k: int | None = Field(default=None, ge=0)
    return_documents: bool = False
    truncation: bool = True


def _rerank(ask: Ask, body: Rerank) -> Handler[dict[str, Any]]:
    call, ranking, tokens = yield from rank(
        ask,
        body.query,
        body.documents,
        "documents",
        model=body.model,
        top_n=body.top_k,
        refuses_long=None if body.truncation else 'send "truncation": true',
    )
    return {
        "object": "list",
        "data": [
            {
                "index": index,
                "relevance_score": sigmoid(reward),
                **({"document": body.documents[index]} if body.return_documents else {}),
            }
            for index, reward in ranking
        ],
        "model": call.target.name,
        "usage": {"total_tokens": sum(tokens)},
    }


CONTRACTS = (
    Contract(
        "voyage.rerank",
        ("/rerank", "/v1/rerank"),
        Rerank,
        _rerank,
        shapes.sentence,
    ),
)
