"""Rerank as Cohere (v1, v2), Jina and vLLM have it: responses to a prompt, best first.

One answer has the fields of Cohere, Jina and vLLM. `relevance_score` is a probability in all three:
σ(reward). vLLM's `use_activation: false`, under any of its names, asks for raw rewards. Documents
come back on all paths but Cohere's `/v2/rerank`, unless `return_documents` says otherwise.
A document over the model's limit is cut, as these servers cut, and so is one of more tokens than
`max_tokens_per_doc`; how many were is in the header `x-assay-truncated`. Instructions are refused,
priorities of these contracts change nothing.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo

from assay import wire
from assay.api.contracts import shapes
from assay.api.contracts.contract import Ask, Contract, each
from assay.api.contracts.turns import text_of
from assay.api.contracts.vllm import Asked, check_limit
from assay.errors import ItemTooLong
from assay.items import NO_INPUTS, Cutting
from assay.reward.transform import sigmoid
from assay.scoring import items

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.errors import AssayError
    from assay.items import TemplateInputs
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.driver import Handler

CUT = Cutting("longest_first")  # as these servers cut
_UNPROCESSABLE = 422
_OURS = "InternalServerError"


def _text(value: object) -> object:
    """Return the text of a string, of Jina's {"text"} and of vLLM's {"content": [parts]}."""
    if not isinstance(value, dict):
        return value
    return text_of(value["content"]) if "content" in value else value.get("text", value)


def fields(value: object, info: ValidationInfo) -> object:
    """Return the fields of Cohere's object that `rank_fields` names, in its order, a line each."""
    names = info.data.get("rank_fields")
    if not names or not isinstance(value, dict):
        return value
    texts = [value[name] for name in names if name in value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("none of the 'rank_fields' is here, or one of them isn't text")
    return "\n".join(texts)


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


Words = Annotated[str, BeforeValidator(_text)]


class Rerank(Asked):
    """`query` is a prompt, `documents` are responses to it; `top_n` of 0 means all."""

    rank_fields: list[str] | None = None  # ahead of the documents, whose texts it decides
    query: Words
    documents: Annotated[list[Annotated[Words, BeforeValidator(fields)]], BeforeValidator(_listed)]
    top_n: int | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(default=None, ge=0)  # Cohere's; vLLM's 0 is none
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's

    @property
    def cutting(self) -> Cutting:
        """What may be cut of an item."""
        return Cutting("longest_first", response_tokens=self.max_tokens_per_doc or None)


def _answering(version: int) -> Callable[[Ask, Rerank], Handler[dict[str, Any]]]:
    """Return what answers with Cohere's fields of that version."""

    def answer(ask: Ask, body: Rerank) -> Handler[dict[str, Any]]:
        call, ranking, tokens = yield from read(ask, body)
        is_raw = body.activates is False
        shows = version == 1 if body.return_documents is None else body.return_documents
        results = [
            {
                "index": index,
                **({"document": _document(body.documents[index])} if shows else {}),
                "relevance_score": reward if is_raw else sigmoid(reward),
            }
            for index, reward in ranking
        ]
        return {
            "id": f"rerank-{ask.request_id}",
            "model": call.target.name,
            "usage": {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens)},
            "results": results,
            "meta": {
                "api_version": {"version": str(version), "is_experimental": False},
                "billed_units": {"search_units": 1},
                "tokens": {"input_tokens": sum(tokens), "output_tokens": 0},
            },
        }

    return answer


def _document(text: str) -> dict[str, Any]:
    return {"text": text, "multi_modal": None}


def read(ask: Ask, body: Rerank) -> Handler[tuple[Call, list[tuple[int, float]], list[int]]]:
    """Return the call, the ranking, and how many tokens each document's item has."""
    check_limit(ask, body)
    variables = wire.TemplateInputs(chat_template_kwargs=body.chat_template_kwargs)
    return rank(
        ask,
        body.query,
        body.documents,
        "documents",
        model=body.model,
        top_n=body.top_n,
        cutting=body.cutting,
        inputs=items.inputs(variables),
        cache_salt=body.cache_salt,
    )


def rank(
    ask: Ask,
    query: str,
    documents: list[str],
    field: str,
    *,
    model: str | None,
    top_n: int | None,
    cutting: Cutting = CUT,
    refuses_long: str | None = None,
    inputs: TemplateInputs = NO_INPUTS,
    cache_salt: str | None = None,
) -> Handler[tuple[Call, list[tuple[int, float]], list[int]]]:
    """Return the call, the ranking of a field's documents, and how many tokens each item has.

    The query is the prompt, a document the response. `refuses_long` says what to do where an item
    over the limit is refused instead of cut.

    Raises:
        ItemTooLong: One is.
    """
    sources = items.sources([(query, documents)], [inputs])
    call, _, judged = yield from ask.read(
        sources, each(field), model=model, cutting=cutting, cache_salt=cache_salt
    )
    cut = next((place for place, item in enumerate(judged) if item.truncated), None)
    if refuses_long is not None and cut is not None:
        raise ItemTooLong(
            f"it has more tokens than the model takes; {refuses_long}", param=f"{field}[{cut}]"
        )
    return call, ranked(judged, top_n), [item.n_tokens for item in judged]


def ranked(judged: Sequence[ScoredItem], top_n: int | None) -> list[tuple[int, float]]:
    """Return each item's place and reward, the highest first, of all or of the best."""
    rewards = [item.reward for item in judged]
    ranking = sorted(enumerate(rewards), key=lambda entry: -entry[1])
    return ranking[:top_n] if top_n and top_n > 0 else ranking


def _problem(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    """Cohere reads `message`, vLLM's clients `error`."""
    kind = shapes.named(error)[1] if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else _OURS
    kind = "UnprocessableEntityError" if error.status == _UNPROCESSABLE else kind
    detail = shapes.fields(error, kind, error.status)
    return error.status, {"id": request_id, "message": error.message, "error": detail}


CONTRACTS = (
    Contract("rerank", ("/rerank", "/v1/rerank", "/invocations"), Rerank, _answering(1), _problem),
    Contract("rerank", ("/v2/rerank",), Rerank, _answering(2), _problem),
)
