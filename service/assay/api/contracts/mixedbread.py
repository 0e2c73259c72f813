"""Mixedbread's rerank: `/v1/reranking`, whose documents are the `input`.

The answer's `data` is sorted, the best first; a `score` is a probability: σ(reward). Of objects in
`input`, `rank_fields` names the fields that are read, in its order. What is over the model's limit
is cut; how many items were is in the header `x-assay-truncated`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from assay.api.contracts.contract import Ask, Body, Contract, unheeded
from assay.api.contracts.rerank import Words, fields, rank
from assay.api.contracts.shapes import message_with_field
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from assay.errors import AssayError
    from assay.scoring.driver import Handler


class Reranking(Body):
    """`query` is a prompt, `input` are responses to it."""

    rank_fields: list[str] | None = None  # ahead of the input, whose texts it decides
    query: str
    input: list[Annotated[Words, BeforeValidator(fields)]]
    model: str | None = None
    top_k: int | None = Field(default=None, ge=0)
    return_input: bool = False
    rewrite_query: Annotated[bool | None, unheeded("a query is scored as it is")] = None


def _rerank(ask: Ask, body: Reranking) -> Handler[dict[str, Any]]:
    call, ranking, tokens = yield from rank(
        ask, body.query, body.input, "input", model=body.model, top_n=body.top_k
    )
    return {
        "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
        "model": call.target.name,
        "data": [
            {
                "index": index,
                "score": sigmoid(reward),
                **({"input": body.input[index]} if body.return_input else {}),
                "object": "rank_result",
            }
            for index, reward in ranking
        ],
        "object": "list",
        "top_k": len(ranking),
        "return_input": body.return_input,
    }


def _problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    return error.status, {
        "object": "error",
        "message": message_with_field(error),
        "detail": message_with_field(error),
    }


CONTRACTS = (Contract("mixedbread.rerank", ("/v1/reranking",), Reranking, _rerank, _problem),)
