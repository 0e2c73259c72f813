"""SGLang's routes for reward models (sglang/srt/entrypoints, docs/basic_usage/native_api).

Numbers are raw: one an item, or one a step from a process reward model; SGLang's own `/v1/classify`
answers the softmax of one number, 1. Text gets what the tokenizer adds, once. `/v1/embeddings`
answers floats, whatever `encoding_format` says, as SGLang does; of a model whose steps are
tokenized each alone, token ids are embedded as the head's number at every token. `/v1/score` of a
reward model is its score, whatever `label_token_ids` say, as SGLang answers of a sequence
classifier; 501 where there is no score of one item, either. It is told by `query`, or by `items`
alone. Its first clients sent `conv`, conversations, to `/judge`, later `/classify`. `/v1/rerank` is
told by `instruct`, and answers a bare list.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from fastapi import APIRouter, Request
from pydantic import TypeAdapter, ValidationError

from assay.api.contracts import rerank, shapes, step_rows
from assay.api.contracts.contract import (
    Ask,
    Body,
    Contract,
    FieldItems,
    check_joined,
    each,
    only,
    text_or_ids,
    unheeded,
)
from assay.api.contracts.questions import unanswerable
from assay.api.contracts.turns import Turn, conversation
from assay.api.contracts.vllm import Inputs, classify, ping, usage
from assay.api.problems import path_of
from assay.api.request_context import context_of
from assay.errors import InvalidField
from assay.items import Ids, Text
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from assay.errors import AssayError
    from assay.items import Source
    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler


router = APIRouter(include_in_schema=False)
router.add_api_route("/health_generate", ping, methods=["GET", "HEAD"])
_TALKS = TypeAdapter(list[list[Turn]])
_NOT_TEXT = unheeded("the models served here read text only")
_ADAPTER = unheeded("an adapter is served under a name of its own, which 'model' takes")


class Classify(Body):
    """`POST /classify`: texts that already went through a template, token ids, or conversations."""

    alternatives: ClassVar = ("text", "input_ids", "conv")
    model: str | None = None
    text: Any = None
    input_ids: Any = None
    conv: Any = None
    image_data: Annotated[Any, _NOT_TEXT] = None
    video_data: Annotated[Any, _NOT_TEXT] = None
    audio_data: Annotated[Any, _NOT_TEXT] = None
    lora_path: Annotated[Any, _ADAPTER] = None


class Embeddings(Body):
    """`POST /v1/embeddings`."""

    model: str | None = None
    input: Any
    dimensions: Annotated[int | None, unheeded("a reward has no dimensions to cut")] = None
    lora_path: Annotated[Any, _ADAPTER] = None


class Score(Body):
    """`POST /v1/score`: each item behind (or before) the query, as one text or sequence."""

    model: str | None = None
    query: Any = ""
    items: Any
    label_token_ids: Any = None
    apply_softmax: bool = False
    item_first: bool = False


@router.get("/get_model_info")
async def model_info(request: Request) -> dict[str, Any]:
    """Say what the default target is, in SGLang's words."""
    target = context_of(request).scorer.target(None)
    return {
        "model_path": target.name,
        "tokenizer_path": target.name,
        "is_generation": False,
        "weight_version": target.revision,
    }


def _classify(ask: Ask, body: Classify) -> Handler[Any]:
    if body.conv is not None:
        inputs = _conversations(body.conv)
    else:
        field = "text" if body.text is not None else "input_ids"
        inputs = text_or_ids(getattr(body, field), field)
    _, outcome, judged = yield from ask.read(inputs.sources, inputs.path, model=body.model)

    def entry(index: int, item: ScoredItem) -> dict[str, Any]:
        return {
            "embedding": _numbers(item),
            "meta_info": {
                "id": ask.request_id if inputs.is_one else f"{ask.request_id}-{index}",
                "prompt_tokens": item.n_tokens,
                "e2e_latency": outcome.timings.total_s,
            },
        }

    data = [entry(*numbered) for numbered in enumerate(judged)]
    return data[0] if inputs.is_one else data


def _conversations(conv: Any) -> FieldItems:
    """Return the items of `conv`, which is a conversation, or a list of them.

    Raises:
        InvalidField: It is neither, or one doesn't end with the assistant's turn.
    """
    is_one = isinstance(conv, list) and bool(conv) and isinstance(conv[0], dict)
    path = only("conv") if is_one else each("conv")
    try:
        talks = _TALKS.validate_python([conv] if is_one else conv)
    except ValidationError as error:
        place, *inside = error.errors(include_url=False, include_input=False)[0]["loc"] or [0]
        where = path_of(("conv", *inside) if is_one else ("conv", place, *inside))
        raise InvalidField(
            f"field '{where}': send conversations, each a list of turns with 'role' and 'content', "
            "which is text or parts of text",
            param=where if inside else "conv",
        ) from None
    return FieldItems(
        [conversation(turns, path(place)) for place, turns in enumerate(talks)], path, is_one
    )


def _embed(ask: Ask, body: Embeddings) -> Handler[dict[str, Any]]:
    inputs = text_or_ids(body.input, "input")
    inputs = step_rows.at_every_token(inputs, ask.target(body.model))
    call, _, judged = yield from ask.read(inputs.sources, inputs.path, model=body.model)
    outputs = list(ask.scorer.served.sizes(call.target)[0].items())

    def entry(index: int, item: ScoredItem) -> dict[str, Any]:
        is_read = not item.rewards  # at every token
        numbers = (
            [row[-1] for row in step_rows.raw(call, item, outputs)] if is_read else _numbers(item)
        )
        return {"object": "embedding", "index": index, "embedding": numbers}

    data = [entry(*numbered) for numbered in enumerate(judged)]
    return {"object": "list", "data": data, "model": call.target.name, "usage": usage(judged)}


def _score(ask: Ask, body: Score) -> Handler[dict[str, Any]]:
    if body.label_token_ids and ask.call(body.model).only_compares:
        reason = "the model compares responses: it has no probabilities of tokens, and no scores"
        raise unanswerable(ask, reason, "label_token_ids")
    inputs = _joined(body)
    call, _, judged = yield from ask.read(inputs.sources, inputs.path, model=body.model)
    rewards = [item.reward for item in judged]
    # SGLang's softmax of one number would be 1 for every item.
    scores = [[sigmoid(reward) if body.apply_softmax else reward] for reward in rewards]
    return {
        "scores": scores,
        "model": call.target.name,
        "usage": usage(judged),
        "object": "scoring",
    }


def _joined(body: Score) -> FieldItems:
    """Return each item with the query.

    Raises:
        InvalidField: There are several queries, or some are text and others token ids.
    """
    items = text_or_ids(body.items, "items")
    if not body.query:
        return items
    query = text_or_ids(body.query, "query")
    if not query.is_one:
        raise InvalidField("field 'query': send one text, or one list of token ids", param="query")
    (query_source,) = query.sources
    size = len(query_source.ids) if isinstance(query_source, Ids) else len(body.query)
    check_joined(size, len(items.sources), "query")
    joined = [
        _join(query_source, item, items.path(place), item_first=body.item_first)
        for place, item in enumerate(items.sources)
    ]
    return replace(items, sources=joined)


def _join(query: Source, item: Source, where: str, *, item_first: bool) -> Source:
    match (item, query) if item_first else (query, item):
        case Text(first, specials), Text(second):
            return Text(first + second, specials)
        case Ids(first), Ids(second):
            return Ids([*first, *second])
    raise InvalidField(
        f"field '{where}': send query and items both as text, or both as token ids", param=where
    )


class Rerank(rerank.Rerank):
    """`POST /v1/rerank`, as SGLang's clients send it."""

    instruct: str | None = None


def _bare_list(ask: Ask, body: Rerank) -> Handler[list[dict[str, Any]]]:
    """Answer `/v1/rerank`."""
    if body.instruct:
        ask.call(body.model)
        raise InvalidField(
            "a request can't change the instruction, which stands in the model's template; send "
            "null, or write it into 'query'",
            param="instruct",
        )
    _, ranking, tokens = yield from rerank.read(ask, body)
    shows = body.return_documents is not False
    return [
        {
            "score": reward,
            "document": body.documents[index] if shows else None,
            "index": index,
            "meta_info": {"id": ask.request_id, "prompt_tokens": tokens[index]},
        }
        for index, reward in ranking
    ]


def _numbers(judged: ScoredItem) -> list[float]:
    """Return an item's one reward, or each step's score."""
    if judged.verdict.steps is not None:
        return list(judged.verdict.steps)
    return [judged.reward]


def _native_problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    return shapes.named(error)[0], {"error": {"message": shapes.message_with_field(error)}}


CONTRACTS = (
    Contract(
        "sglang.classify",
        ("/classify", "/judge"),
        Classify,
        _classify,
        _native_problem,
    ),
    Contract("sglang.v1-classify", ("/v1/classify",), Inputs, classify, shapes.flat),
    Contract(
        "sglang.rerank",
        ("/v1/rerank",),
        Rerank,
        _bare_list,
        shapes.flat,
    ),
    Contract("sglang.embeddings", ("/v1/embeddings",), Embeddings, _embed, shapes.flat),
    Contract(
        "sglang.score",
        ("/v1/score",),
        Score,
        _score,
        shapes.flat,
    ),
)
