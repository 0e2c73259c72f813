"""Text Embeddings Inference: `/predict`, `/rerank` told by `texts`, `GET /info`.

Both also at `/` and `/invocations`, where TEI has the one that its model is for, and, many of them
in one body, at `/vertex`.

A text of `/predict` went through a template already, and gets what the tokenizer adds; two in a
list of their own are a prompt and a response. A model with attributes has one label for each of
them, any other has its reward as LABEL_0. Without `raw_scores` a score is σ(reward), those of
several labels a softmax. huggingface_hub's `text_classification` says which in `parameters`, as
`function_to_apply`, and how many labels, as `top_k`. What is over the limit is cut, the longer of
prompt and response first, at the end that `truncation_direction` names, else where the model isn't
read; `truncate: false` refuses it. Statuses are TEI's, except that overload is 503.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from assay import __version__
from assay.api import problems
from assay.api.contracts import labels, unread
from assay.api.contracts.contract import Ask, Body, Contract
from assay.api.contracts.rerank import ranked
from assay.api.contracts.shapes import message_with_field
from assay.api.request_context import context_of
from assay.errors import (
    AssayError,
    EmptyItem,
    ForwardFailed,
    InvalidField,
    ItemTooLong,
    NonFiniteScore,
    Overloaded,
    RequestError,
    shown,
)
from assay.items import Cutting, Text
from assay.reward.transform import sigmoid
from assay.scoring import items
from assay.scoring.driver import sized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import Side, Source
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.driver import Handler
    from assay.scoring.results import RequestResult
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

_KINDS: tuple[tuple[tuple[type[AssayError], ...], int, str], ...] = (
    ((EmptyItem,), 400, "Empty"),
    ((Overloaded,), 503, "Overloaded"),
    ((ForwardFailed, NonFiniteScore), 424, "Backend"),
)

router = APIRouter()

_UNCOUNTED = 2**31 - 1  # what is limited are the tokens of requests, not their number


def _no_batch_of_texts(value: object) -> object:
    if _form(value) == "as-pair" and isinstance(value, list) and len(value) > 2:
        raise ValueError("a flat list is one pair; send a batch as a list of lists")
    return value


def _form(value: object) -> str | None:
    if isinstance(value, str):
        return "as-text"
    if not isinstance(value, list):
        return None
    return "as-pair" if value and all(isinstance(element, str) for element in value) else "as-batch"


Parts = Annotated[list[str], Field(min_length=1, max_length=2)]
Inputs = Annotated[
    Annotated[str, Tag("as-text")]
    | Annotated[Parts, Tag("as-pair")]
    | Annotated[list[Parts], Tag("as-batch")],
    Discriminator(
        _form,
        custom_error_type="form",
        custom_error_message="send a text, a pair in a list, or a list of such lists",
    ),
    BeforeValidator(_no_batch_of_texts),
]


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class _Asked(Body):
    truncate: bool | None = None
    truncation_direction: Annotated[Literal["left", "right"] | None, BeforeValidator(_lowered)] = (
        None
    )
    raw_scores: bool = False
    model: str | None = None

    @property
    def cutting(self) -> Cutting:
        """What may be cut of an item."""
        sides: dict[str | None, Side] = {"left": "start", "right": "end"}
        return Cutting("longest_first", sides.get(self.truncation_direction))


class Parameters(Body):
    """What huggingface_hub's client asks for beside `inputs`."""

    function_to_apply: labels.Applied | None = None
    top_k: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is not None:
                raise ValueError(f"unknown parameter '{shown(name)}'; leave it out")
        return self


class Predict(_Asked):
    """`inputs` is a text, one pair, or a list of lists, each of a text or a pair."""

    field: ClassVar = "inputs"
    inputs: Inputs
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _applies_one_thing(self) -> Self:
        said = self.parameters and self.parameters.function_to_apply
        if self.raw_scores and said not in (None, "none"):
            raise ValueError(
                f"'raw_scores' and 'function_to_apply' of '{said}' contradict: send one of them"
            )
        return self

    @property
    def is_one(self) -> bool:
        """Whether it is one input: TEI reads a flat list of one or two texts so."""
        return isinstance(self.inputs, str) or (
            len(self.inputs) in (1, 2) and all(isinstance(part, str) for part in self.inputs)
        )

    @property
    def listed(self) -> list[Any]:
        """The inputs, however many."""
        return [self.inputs] if self.is_one else list(self.inputs)

    @property
    def characters(self) -> int:
        """The characters of what is read."""
        return sum(map(_length, self.listed))

    def sources(self) -> list[Source]:
        """Return the items."""
        return [_source(entry) for entry in self.listed]

    def path(self, place: int) -> str:
        """Return where an item is."""
        return self.field if self.is_one else f"{self.field}[{place}]"

    def shown(self, call: Call, judged: Sequence[ScoredItem]) -> list[Any]:
        """Return the answer."""
        parameters = self.parameters or Parameters()
        applied = "none" if self.raw_scores else parameters.function_to_apply
        if applied == "softmax" and len(labels.names(call.target)) == 1:
            raise InvalidField(
                "the softmax of one label is always 1; send 'none' or 'sigmoid'",
                param="parameters.function_to_apply",
            )
        answer = [labels.of(call, item, applied)[: parameters.top_k] for item in judged]
        return answer[0] if self.is_one else answer


class Rerank(_Asked):
    """`query` is a prompt, `texts` are responses to it."""

    field: ClassVar = "texts"
    query: str
    texts: list[str]
    return_text: bool = False

    @property
    def characters(self) -> int:
        """The characters of what is read."""
        return len(self.texts) * len(self.query) + _length(self.texts)

    def sources(self) -> list[Source]:
        """Return the items."""
        return items.sources([(self.query, self.texts)])

    def path(self, place: int) -> str:
        """Return where an item is."""
        return f"{self.field}[{place}]"

    def shown(self, call: Call, judged: Sequence[ScoredItem]) -> list[Any]:
        """Return the answer, the best first."""
        del call
        return [
            {
                "index": index,
                **({"text": self.texts[index]} if self.return_text else {}),
                "score": reward if self.raw_scores else sigmoid(reward),
            }
            for index, reward in ranked(judged, None)
        ]


def _kind(instance: object) -> str:
    return "as-rerank" if isinstance(instance, dict) and "texts" in instance else "as-predict"


Instance = Annotated[
    Annotated[Predict, Tag("as-predict")] | Annotated[Rerank, Tag("as-rerank")],
    Discriminator(_kind),
]


class Vertex(Body):
    """`instances` are bodies of `/predict` and `/rerank`."""

    instances: list[Instance]
    model: str | None = None  # of instances that name none


def _answer(ask: Ask, body: Predict | Rerank) -> Handler[list[Any]]:
    """Answer, and state the times in the answer's headers."""
    call, outcome, tokens, (answer,) = yield from _read(ask, [body], [""], body.model)
    device = _device(ask.scorer, call.target)
    ask.headers.update(_times(outcome), **{"x-compute-type": device})
    ask.headers["x-compute-characters"] = str(body.characters)
    ask.headers["x-compute-tokens"] = str(tokens)
    return answer


def _vertex(ask: Ask, body: Vertex) -> Handler[dict[str, list[Any]]]:
    """Answer every instance; those that ask alike are read together."""
    alike: dict[tuple[str | None, bool | None, Cutting], list[int]] = {}
    for place, instance in enumerate(body.instances):
        unread.check_meaning(instance.model_extra or {}, vars(instance))
        key = (instance.model or body.model, instance.truncate, instance.cutting)
        alike.setdefault(key, []).append(place)
    answers_by_place: dict[int, list[Any]] = {}
    for (model, *_), places in alike.items():
        prefixes = [f"instances[{place}]." for place in places]
        some = [body.instances[place] for place in places]
        _, _, _, answers = yield from _read(ask, some, prefixes, model)
        answers_by_place.update(zip(places, answers, strict=True))
    return {"predictions": [answers_by_place[place] for place in range(len(body.instances))]}


def _read(
    ask: Ask, bodies: Sequence[Predict | Rerank], prefixes: Sequence[str], model: str | None
) -> Handler[tuple[Call, RequestResult, int, list[list[Any]]]]:
    """Read the items of bodies that ask for the same model and `truncate`.

    Return their answers, and how many tokens an ensemble's first member reads of them.
    """
    yield from sized(
        sum(len(body.texts if isinstance(body, Rerank) else body.listed) for body in bodies)
    )
    groups = [body.sources() for body in bodies]
    for body, group, prefix in zip(bodies, groups, prefixes, strict=True):
        if not group:
            param = prefix + body.field
            raise EmptyItem(f"'{param}' is empty; send at least one", param=param)
    ends = list(accumulate(map(len, groups)))

    def path(place: int) -> str:
        group = bisect_right(ends, place)
        return prefixes[group] + bodies[group].path(place - (ends[group] - len(groups[group])))

    first = bodies[0]
    sources = [source for group in groups for source in group]
    call, outcome, judged = yield from ask.read(sources, path, model=model, cutting=first.cutting)
    cut = next((place for place, item in enumerate(judged) if item.truncated), None)
    if first.truncate is False and cut is not None:
        raise ItemTooLong(
            "it has more tokens than the model takes; send 'truncate': true", param=path(cut)
        )
    each = iter(judged)
    answers = [
        body.shown(call, list(islice(each, len(group))))
        for body, group in zip(bodies, groups, strict=True)
    ]
    return call, outcome, sum(item.n_tokens for item in judged), answers


def _device(scorer: Scorer, target: Target) -> str:
    """Return what TEI calls the kind of a target's device; its own answer is always a GPU."""
    loaded = scorer.served.loaded(target.members[0])
    return "gpu" if loaded is not None and not loaded.device.startswith("cpu") else "cpu"


def _times(outcome: RequestResult) -> dict[str, str]:
    """Return the headers of the milliseconds that it took."""
    seconds = {
        "x-compute-time": outcome.timings.total_s,
        "x-total-time": outcome.timings.total_s,
        "x-tokenization-time": outcome.timings.tokenize_s,
        "x-queue-time": outcome.timings.queue_s,
        "x-inference-time": outcome.timings.compute_s,
    }
    return {name: str(round(1e3 * time)) for name, time in seconds.items()}


def _source(entry: str | list[str]) -> Source:
    if isinstance(entry, str):
        return Text(entry, "tokenizer")
    if len(entry) == 1:
        return Text(entry[0], "tokenizer")
    prompt, response = entry
    return items.sources([(prompt, [response])])[0]


def _length(entry: str | list[str]) -> int:
    return len(entry) if isinstance(entry, str) else sum(map(len, entry))


def _problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    matches = ((status, kind) for kinds, status, kind in _KINDS if isinstance(error, kinds))
    validation = "Validation" if isinstance(error, RequestError) else "Backend"
    other = (error.status, "Unhealthy" if error.status == 503 else validation)
    status, kind = next(matches, other)
    return status, {"error": message_with_field(error), "error_type": kind}


@router.get(
    "/info",
    responses={404: {"description": "No such target."}, 503: {"description": "Not ready."}},
)
async def info(request: Request, model: str | None = None) -> Any:
    """Say what a target is, as Text Embeddings Inference does."""
    scorer = context_of(request).scorer
    try:
        return _info(scorer, scorer.target(model or None))
    except AssayError as error:
        status, body = _problem(error, context_of(request).request_id)
        return JSONResponse(body, status_code=status, headers=problems.headers(error))


def _info(scorer: Scorer, target: Target) -> dict[str, Any]:
    loaded = scorer.served.loaded(target.members[0])
    names = labels.names(target)
    kind = {
        "id2label": {str(place): name for place, name in enumerate(names)},
        "label2id": {name: place for place, name in enumerate(names)},
    }
    return {
        "model_id": target.name,
        "model_sha": target.revision,
        "model_dtype": loaded.dtype if loaded else None,
        "served_model_name": target.name,
        "model_type": {"classifier" if len(names) > 1 else "reranker": kind},
        "max_concurrent_requests": _UNCOUNTED,
        "max_input_length": min(member.facts.max_tokens for member in target.members),
        "max_batch_tokens": loaded.budget_tokens if loaded else None,
        "max_batch_requests": None,
        "max_client_batch_size": _UNCOUNTED,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


CONTRACTS = (
    Contract("tei.rerank", ("/rerank", "/", "/invocations"), Rerank, _answer, _problem),
    Contract("tei.vertex", ("/vertex",), Vertex, _vertex, _problem),
    Contract("tei.predict", ("/predict", "/", "/invocations"), Predict, _answer, _problem),
)
