"""NVIDIA's reranking NIM: `/v1/ranking`, and under the paths of its hosted models.

`query` and `passages` are objects with a `text`; the answer's `rankings` are sorted, the best
first, and a `logit` is the raw reward. With `truncate: "END"` what is over the model's limit is cut
at its end, with "NONE", as by default, refused. `top_n` is what some of its clients send, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from assay.api.contracts.contract import Ask, Body, Contract, unheeded
from assay.api.contracts.rerank import rank
from assay.api.contracts.shapes import message_with_field
from assay.items import Cutting

if TYPE_CHECKING:
    from assay.errors import AssayError
    from assay.scoring.driver import Handler

_PATHS = ("/v1/ranking", "/ranking", "/reranking", "/v1/retrieval/{model}/reranking")


class Passage(Body):
    """What has a text."""

    text: str
    image: Annotated[Any, unheeded("the model reads text")] = None


class Ranking(Body):
    """`query` is a prompt, `passages` are responses to it; the path may name the model, too."""

    query: Passage
    passages: list[Passage]
    model: str | None = None
    truncate: Literal["NONE", "END"] | None = None
    top_n: int | None = Field(default=None, ge=0)


def _rank(ask: Ask, body: Ranking) -> Handler[dict[str, Any]]:
    _, ranking, tokens = yield from rank(
        ask,
        body.query.text,
        [passage.text for passage in body.passages],
        "passages",
        model=body.model or ask.path.get("model"),
        top_n=body.top_n,
        cutting=Cutting("longest_first", side="end"),
        refuses_long='send "truncate": "END"' if body.truncate != "END" else None,
    )
    return {
        "rankings": [{"index": index, "logit": reward} for index, reward in ranking],
        "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
    }


def _problem(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    """A NIM's; LangChain's client shows `error` and `detail`."""
    return error.status, {
        "object": "error",
        "error": error.code,
        "message": message_with_field(error),
        "detail": message_with_field(error),
        "type": error.code,
        "requestId": request_id,
    }


CONTRACTS = (Contract("nvidia.ranking", _PATHS, Ranking, _rank, _problem),)
