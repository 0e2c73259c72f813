"""vLLM's routes for reward models (vllm/entrypoints/pooling, vllm/entrypoints/serve/tokenize).

Numbers are raw unless activation is asked for, by any of the names it has had; vLLM itself squashes
by default. Text gets what the tokenizer adds, each once, and nothing where `add_special_tokens` is
false; a conversation what the model's template says, unless it brings that field. What may be cut
from an item is the card's, and the limit the model's: no lower one is heeded, nor ignored. Of a
process reward model `/pooling` answers each step: [1 − p, p] where the card's rule is a softmax
over two labels, else [score]; with activation refused, the head's numbers. Of one whose steps are
tokenized each alone it answers token ids with the head's numbers at every token, unless activation
is asked for. Of models of InternLM2's kind vLLM's `/pooling` has a row for each token, of which
clients (xtuner's of POLAR) read the last: it is [[reward]].
"""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field, model_validator

from assay import __version__, wire
from assay.api.contracts import shapes, step_rows
from assay.api.contracts.contract import (
    Ask,
    Body,
    Contract,
    FieldItems,
    created,
    each,
    only,
    text_or_ids,
    unheeded,
)
from assay.api.contracts.labels import LABEL
from assay.api.contracts.step_parsing import in_steps
from assay.api.contracts.turns import (
    Templated,
    Turn,
    check_untemplated,
    conversation,
    inputs_of,
)
from assay.api.request_context import context_of
from assay.errors import InvalidField
from assay.items import Cutting, Text
from assay.reward.transform import sigmoid
from assay.scoring import inspection, items
from assay.scoring.driver import awaited

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from assay.items import Source, Specials
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.driver import Handler
    from assay.scoring.targets import Target

_PAIRS = (
    ("queries", "documents"),
    ("queries", "items"),
    ("text_1", "text_2"),
    ("data_1", "data_2"),
)

ENDS_WITH_THE_TURN = unheeded("a conversation is rendered to the end of the turn that is scored")

router = APIRouter(include_in_schema=False)


class Whole(Body):
    """What would end a conversation otherwise than behind the turn that is scored."""

    add_generation_prompt: Annotated[bool | None, ENDS_WITH_THE_TURN] = None
    continue_final_message: Annotated[bool | None, ENDS_WITH_THE_TURN] = None
    echo: Annotated[bool | None, ENDS_WITH_THE_TURN] = None


class Asked(Whole):
    """What the routes that score have in common."""

    model: str | None = None
    use_activation: bool | None = None
    activation: bool | None = None  # until 0.11
    softmax: bool | None = None
    normalize: bool | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    truncation_side: Literal["left"] | None = None
    cache_salt: wire.CacheSalt | None = None

    @property
    def cutting(self) -> Cutting:
        """What may be cut of an item: with a limit both parts, as the tokenizer cuts."""
        return Cutting("longest_first" if self.truncate_prompt_tokens is not None else None)

    @property
    def _said(self) -> dict[str, bool]:
        names = ("use_activation", "activation", "softmax", "normalize")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _activates_or_not(self) -> Self:
        if len({*self._said.values()}) > 1:
            raise ValueError(f"{' and '.join(map(repr, self._said))} contradict: send one of them")
        return self

    @property
    def activates(self) -> bool | None:
        """What was said of activation, if anything."""
        return next(iter(self._said.values()), None)

    def shown(self, judged: ScoredItem) -> float:
        """Return an item's reward as it was asked for."""
        reward = judged.reward
        return sigmoid(reward) if self.activates else reward


class Inputs(Asked, Templated):
    """`input` or a conversation."""

    alternatives: ClassVar = ("input", "messages")
    input: Any = None
    messages: list[Turn] | None = None
    chat_template: Any = None
    add_special_tokens: bool | None = None
    task: Literal["classify", "token_classify", "reward", "encode", "score"] | None = None
    dimensions: Annotated[int | None, unheeded("a reward has no dimensions to cut")] = None


class Pooling(Inputs):
    """`POST /pooling`."""

    encoding_format: Literal["float", "base64"] = "float"
    embed_dtype: str = "float32"  # of base64
    endianness: Literal["native", "big", "little"] = "native"


class Score(Asked):
    """`POST /score`: one query with many documents, or as many of each."""

    queries: Any = None
    documents: Any = None
    items: Any = None
    text_1: Any = None
    text_2: Any = None
    data_1: Any = None
    data_2: Any = None
    chat_template_kwargs: dict[str, Any] | None = None


class Tokenize(Templated):
    """`POST /tokenize`."""

    alternatives: ClassVar = ("prompt", "messages")
    model: str | None = None
    prompt: str | None = None
    messages: list[Turn] | None = None
    chat_template: Any = None
    add_generation_prompt: Annotated[bool | None, ENDS_WITH_THE_TURN] = None
    continue_final_message: Annotated[bool | None, ENDS_WITH_THE_TURN] = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False


@router.get("/version")
async def version() -> dict[str, str]:
    """Return Assay's version, where vLLM's clients look for one."""
    return {"version": __version__}


@router.get("/load")
async def load(request: Request) -> dict[str, int]:
    """Return how many requests are being answered."""
    return {"server_load": context_of(request).scorer.admission.requests}


@router.head("/ping")
@router.get("/ping")
@router.post("/ping")
async def ping(request: Request) -> Response:
    """Answer as `/health` does, without a body."""
    return Response(status_code=503 if context_of(request).scorer.served.reasons() else 200)


def check_limit(ask: Ask, body: Asked) -> None:
    """Refuse a limit below the model's own; -1 is that.

    Raises:
        InvalidField: Fewer tokens are asked for.
    """
    refuse_limit(ask, body.model, body.truncate_prompt_tokens, "truncate_prompt_tokens")


def refuse_limit(ask: Ask, model: str | None, limit: int | None, field: str) -> None:
    """Refuse a field's limit where it is below the target's own.

    Raises:
        InvalidField: It is.
    """
    own_limit = _limit(ask.target(model))
    if limit is not None and 0 <= limit < own_limit:
        raise InvalidField(
            f"items are cut to the model's own limit of {own_limit} tokens, and to no other: leave "
            f"'{field}' out, or send -1",
            param=field,
        )


def _limit(target: Target) -> int:
    return min(member.facts.max_tokens for member in target.members)


def classify(ask: Ask, body: Inputs) -> Handler[dict[str, Any]]:
    """Answer each item's reward, as the one label of a classifier."""

    def entry(index: int, judged: ScoredItem) -> dict[str, Any]:
        probs = [body.shown(judged)]
        return {"index": index, "label": LABEL, "probs": probs, "num_classes": 1}

    check_limit(ask, body)
    _check_one_number(body)
    inputs = _inputs(body)
    call, _, judged = yield from ask.read(
        inputs.sources, inputs.path, model=body.model, cache_salt=body.cache_salt
    )
    return _answer(ask, call, "classify", judged, entry)


def _check_one_number(body: Inputs) -> None:
    """Refuse to answer a row a token where an item has one number.

    Raises:
        InvalidField: It is asked for.
    """
    if body.task == "token_classify":
        raise InvalidField(
            "each item is answered by its one reward, not by a row for each token; leave 'task' "
            "out, or send 'classify'",
            param="task",
        )


def _pool(ask: Ask, body: Pooling) -> Handler[dict[str, Any]]:
    check_limit(ask, body)
    if body.encoding_format == "base64" and body.embed_dtype != "float32":
        raise InvalidField("numbers in base64 are of type 'float32' only", param="embed_dtype")
    card = ask.target(body.model).card
    is_row_a_token = card.trunk.layout == "internlm2"
    if card.steps is None and not is_row_a_token:
        _check_one_number(body)
    inputs = step_rows.at_every_token(_inputs(body), ask.target(body.model))
    call, _, judged = yield from ask.read(
        inputs.sources, inputs.path, model=body.model, cache_salt=body.cache_salt
    )
    outputs = list(ask.scorer.served.sizes(call.target)[0].items())

    def entry(index: int, judged: ScoredItem) -> dict[str, Any]:
        data: Any
        if judged.verdict.steps is None:
            data = [body.shown(judged)]
            data = [data] if is_row_a_token else data
        elif body.activates or (body.activates is None and judged.rewards):
            data = step_rows.shown(call, judged, outputs)
        else:
            data = step_rows.raw(call, judged, outputs)
        if body.encoding_format == "base64":
            order = {"native": "=", "big": ">", "little": "<"}[body.endianness]
            data = base64.b64encode(np.asarray(data, f"{order}f4").tobytes()).decode()
        return {"index": index, "object": "pooling", "data": data}

    return _answer(ask, call, "pool", judged, entry)


def _invoke(ask: Ask, body: Pooling) -> Handler[dict[str, Any]]:
    """Answer as vLLM's own order of routes has it: models of steps pool, others classify."""
    steps = ask.target(body.model).card.steps
    return (classify if steps is None else _pool)(ask, body)


def _score(ask: Ask, body: Score) -> Handler[dict[str, Any]]:
    def entry(index: int, judged: ScoredItem) -> dict[str, Any]:
        return {"index": index, "object": "score", "score": body.shown(judged)}

    check_limit(ask, body)
    pairs = _pairs(body)
    variables = wire.TemplateInputs(chat_template_kwargs=body.chat_template_kwargs)
    groups = [(query, [document]) for query, document in pairs.texts]
    beside = [items.inputs(variables)] * len(groups)
    call, _, judged = yield from ask.read(
        items.sources(groups, beside),
        each(pairs.field),
        model=body.model,
        cutting=body.cutting,
        cache_salt=body.cache_salt,
    )
    return _answer(ask, call, "score", judged, entry)


def _tokenize(ask: Ask, body: Tokenize) -> Handler[dict[str, Any]]:
    target = ask.call(body.model).target
    source: Source
    if body.messages is not None:
        source = in_steps(_talk(body), target.card.steps)
    elif body.prompt is not None:
        check_untemplated(body, "prompt")
        source = Text(body.prompt, specials(body.add_special_tokens, "tokenizer"))
    else:
        raise InvalidField("send 'prompt' or 'messages'", param="prompt")
    looked = yield from awaited(lambda: inspection.look(ask.scorer, target, source, ask.caller))
    ids = looked.rendered.ids.tolist()
    return {
        "count": len(ids),
        "max_model_len": _limit(target),
        "tokens": ids,
        "token_strs": looked.tokens if body.return_token_strs else None,
    }


def _inputs(body: Inputs) -> FieldItems:
    """Return the items of a request; a conversation is one.

    Raises:
        InvalidField: There are none, or they aren't of a form that is known.
    """
    if body.messages is not None:
        source = _talk(body)
        return FieldItems([source], only("messages"), is_one=True)
    if body.input is None:
        raise InvalidField("send 'input' or 'messages'", param="input")
    check_untemplated(body, "input")
    return text_or_ids(body.input, "input", specials(body.add_special_tokens, "tokenizer"))


def specials(adds: bool | None, unsaid: Specials) -> Specials:
    """Return which special tokens an item gets: as `add_special_tokens` says, if it is sent."""
    if adds is None:
        return unsaid
    return "tokenizer" if adds else "none"


def _talk(body: Inputs | Tokenize) -> Source:
    if body.chat_template is not None:
        raise InvalidField(
            "a chat template of the request isn't used: the model's own, or its card's, is",
            param="chat_template",
        )
    talk = conversation(body.messages or (), "messages", inputs_of(body))
    return replace(talk, specials=specials(body.add_special_tokens, "card"))


class _Pairs(NamedTuple):
    field: str  # of the documents
    texts: list[tuple[str, str]]


def _pairs(body: Score) -> _Pairs:
    """Return each query with its document.

    Raises:
        InvalidField: One side is missing, or has neither one text nor as many as the other, or
            there is more than a pair of fields.
    """
    names = dict.fromkeys(name for pair in _PAIRS for name in pair)
    present = [name for name in names if getattr(body, name) is not None]
    for query_field, document_field in _PAIRS:
        left, right = getattr(body, query_field), getattr(body, document_field)
        if left is None or right is None:
            continue
        if more := next(
            (name for name in present if name not in (query_field, document_field)), None
        ):
            raise InvalidField(
                f"'{more}' beside '{query_field}' and '{document_field}', which are scored: send "
                "one pair of fields",
                param=more,
            )
        queries, documents = _texts(left, query_field), _texts(right, document_field)
        if len(queries) == 1:
            queries *= len(documents)
        if len(queries) != len(documents):
            raise InvalidField(
                f"{len(queries)} '{query_field}' don't go with {len(documents)} '{document_field}'"
                ": send one, or as many",
                param=query_field,
            )
        return _Pairs(document_field, list(zip(queries, documents, strict=True)))
    raise InvalidField("send 'queries' with 'documents'", param="queries")


def _texts(value: object, field: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list):
        raise InvalidField(f"field '{field}': send a text, or a list of texts", param=field)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            where = f"{field}[{place}]"
            raise InvalidField(f"field '{where}': send a text", param=where)
    return texts


def _answer(
    ask: Ask,
    call: Call,
    kind: str,
    judged: Sequence[ScoredItem],
    entry: Callable[[int, ScoredItem], dict[str, Any]],
) -> dict[str, Any]:
    return {
        "id": f"{kind}-{ask.request_id}",
        "object": "list",
        "created": created(),
        "model": call.target.name,
        "data": [entry(*numbered) for numbered in enumerate(judged)],
        "usage": usage(judged),
    }


def usage(judged: Sequence[ScoredItem]) -> dict[str, Any]:
    """Return the tokens of the items, as an ensemble's first member reads them."""
    tokens = sum(item.n_tokens for item in judged)
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
    }


CONTRACTS = (
    Contract("vllm.classify", ("/classify",), Inputs, classify, shapes.nested),
    Contract("vllm.pooling", ("/pooling",), Pooling, _pool, shapes.nested),
    Contract("vllm.invocations", ("/invocations",), Pooling, _invoke, shapes.nested),
    Contract(
        "vllm.score",
        ("/score", "/v1/score", "/invocations"),
        Score,
        _score,
        shapes.nested,
    ),
    Contract(
        "vllm.tokenize",
        ("/tokenize",),
        Tokenize,
        _tokenize,
        shapes.nested,
    ),
)
