"""What every foreign contract has: its paths, its request, its answer, its errors.

A contract never scores: its handler says what the items are (`assay.items` sources) and spells the
answer; `scoring.driver` runs it. Unknown optional fields are taken, but for what `unread` refuses.
Where two contracts share a path, or one shares it with a native route, the body's top-level keys
tell which is meant.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Self

from fastapi import Response
from pydantic import AfterValidator, ConfigDict, ValidationError, model_validator

from assay import validation, wire
from assay.api import problems
from assay.api.contracts import unread
from assay.api.contracts.codec import JSON
from assay.api.contracts.step_parsing import in_steps
from assay.api.disconnect import cancel_on_disconnect
from assay.api.request_context import context_of
from assay.errors import BodyTooLarge, InvalidField, shown
from assay.items import Ids, Text
from assay.scoring import garbage, items
from assay.scoring.call import Call
from assay.scoring.driver import drive

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fastapi import Request

    from assay.api.contracts.codec import Form
    from assay.api.request_context import RequestContext, Shape
    from assay.items import Cutting, Source, Specials
    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler
    from assay.scoring.results import RequestResult
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

    Endpoint = Callable[[Request], Awaitable[Response]]
    Path = Callable[[int], str]  # an item's place to its path in the request

_LAST_ID = 2**31 - 1
_MOST_JOINED = 128 * 1024**2  # characters


def check_joined(size: int, times: int, field: str) -> None:
    """Refuse what would be written again into each of many items and take all memory.

    Raises:
        BodyTooLarge: It would.
    """
    if size * times > _MOST_JOINED:
        raise BodyTooLarge(
            f"'{field}' with each of {times} makes more than {_MOST_JOINED} characters; send fewer "
            "at a time"
        )


def unheeded(reason: str) -> AfterValidator:
    """Return what refuses an option that would change the answer and can't, where it is set."""

    def check(value: object) -> object:
        if value:
            raise ValueError(f"{reason}; leave it out")
        return value

    return AfterValidator(check)


class Body(wire.Bounded):
    """Base of foreign requests, and of the objects in them.

    `alternatives` are fields that may each be what is scored, of which a body has one.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    alternatives: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if self.model_extra:
            unread.check_spelling(self.model_extra, type(self).model_fields)
        if self.alternatives:
            unread.check_one({name: getattr(self, name) for name in self.alternatives})
        return self


@dataclass(frozen=True, slots=True)
class Ask:
    """A parsed request on its way: whom to ask, and under which id."""

    context: RequestContext
    query: Mapping[str, str]  # of the URL
    path: Mapping[str, str]  # what stands in a templated path

    @property
    def scorer(self) -> Scorer:
        """Who answers."""
        return self.context.scorer

    @property
    def caller(self) -> str:
        """The name of the key that was sent; "" of none."""
        return self.context.caller or ""

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.context.request_id

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the answer; a contract may add some."""
        return self.context.headers

    def target(self, model: str | None) -> Target:
        """Return the named target; the default one of no name, or an empty one.

        Raises:
            UnknownTarget: Nothing of that name is served.
        """
        return self.scorer.target(model or None)

    def call(
        self, model: str | None = None, *, cutting: Cutting | None = None, **options: Any
    ) -> Call:
        """Name the target and what is asked of it; `options` are those of a native request.

        `cutting` is what may be cut, by default as the target's card has it.

        Raises:
            UnknownTarget: Nothing of that name is served.
            InvalidField: An option means nothing to the target.
        """
        call_options = wire.Options(model=model or None, **options)
        context = self.context
        return Call(
            *(context.scorer, context.target(call_options.model), call_options, context.route),
            caller=self.caller,
            cutting=cutting,
            is_native=False,
        )

    def read(
        self,
        sources: Sequence[Source],
        path: Path,
        *,
        model: str | None = None,
        cutting: Cutting | None = None,
        turns: Path | None = None,
        **options: Any,
    ) -> Handler[tuple[Call, RequestResult, list[ScoredItem]]]:
        """Let a target that scores read items; one bad item fails the request."""
        call = self.call(model, cutting=cutting, **options)
        if call.only_compares:
            raise InvalidField(
                f"'{call.target.name}' compares responses and has no score for one alone; use "
                "/compare or /best-of-n",
                param="model",
            )
        outcome, judged = yield from self.run(call, sources, path, turns)
        return call, outcome, judged

    def run(
        self, call: Call, sources: Sequence[Source], path: Path, turns: Path | None = None
    ) -> Handler[tuple[RequestResult, list[ScoredItem]]]:
        """Let a call's target read items, those that are spelt in its steps as steps.

        `turns` is where an item's turns are, if that isn't the item's own path. How many were cut
        is in the answer's headers: most contracts have no field for it.
        """
        steps = call.target.card.steps
        outcome, judged = yield from call.run(
            [in_steps(source, steps) for source in sources],
            lambda place, param: _located(path, turns or path, place, param),
        )
        if cut := sum(item.truncated for item in judged):
            self.headers["x-assay-truncated"] = str(cut)
        return outcome, judged


@dataclass(frozen=True, slots=True)
class Contract:
    """One foreign contract at its paths, which may have parts like {model}: see `fit`.

    `answer` is its handler, which returns what is sent, in the form that the body had. `query` are
    the parameters of the URL that it knows. `problem` is how its errors look, always in JSON.
    """

    route: str  # its name in metrics
    paths: tuple[str, ...]
    request: type[Body]
    answer: Callable[[Ask, Any], Handler[Any]]
    problem: Shape
    forms: tuple[Form, ...] = (JSON,)
    id_header: str | None = None  # where its clients look for the request's id, too
    query: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """The fields that every body of it has."""
        fields = self.request.model_fields.items()
        return frozenset(name for name, info in fields if info.is_required())

    def takes(self, content: Mapping[str, Any]) -> bool:
        """Tell whether a body is plainly of this contract."""
        if not self.needs or not self.needs <= content.keys():
            return False
        try:
            self.request.model_validate(content)
        except ValidationError:
            return False
        return True

    async def respond(
        self,
        request: Request,
        content: Mapping[str, Any],
        form: Form = JSON,
        others: Sequence[Contract] = (),
    ) -> Response:
        """Answer a body that is of this contract.

        Raises:
            AssayError: It can't be answered.
        """
        context = context_of(request)
        context.route, context.shape = self.route, self.problem
        ask = Ask(context, request.query_params, request.path_params)
        self._check_query(request)
        handler = self._written(ask, content, form, others)
        body = await cancel_on_disconnect(request, drive(handler, _size(content)))
        context.outcome = "ok"
        return Response(body, media_type=form.media_type, headers=context.headers)

    def _written(
        self, ask: Ask, content: Mapping[str, Any], form: Form, others: Sequence[Contract]
    ) -> Handler[bytes]:
        """Return the answer to a body as it is sent."""
        try:
            body = self.request.model_validate(content)
            garbage.note(vars(body).values())
            unread.check_meaning(body.model_extra or {}, vars(body))
            answer = yield from self.answer(ask, body)
        except ValidationError as error:
            raise _invalid(error, self._right_path(error, content, others)) from None
        garbage.note(answer.values() if isinstance(answer, dict) else [answer])
        return answer if isinstance(answer, bytes) else form.write(answer)

    def _right_path(
        self, error: ValidationError, content: Mapping[str, Any], others: Sequence[Contract]
    ) -> str:
        """Return which path a body is for that lacks a field here and is whole elsewhere."""
        if error.errors(include_url=False, include_input=False)[0]["type"] != "missing":
            return ""
        likely = sorted(others, key=lambda contract: -len(contract.needs))
        other = next((contract for contract in likely if contract.takes(content)), None)
        return f"; a body with these fields is for {other.paths[0]}" if other else ""

    def _check_query(self, request: Request) -> None:
        """Refuse a field of the body that stands in the URL, and what is near to a parameter.

        Anything else there is a gateway's.

        Raises:
            InvalidField: There is one.
        """
        for name in request.query_params.keys() - self.query:
            if name in self.request.model_fields:
                message = f"'{name}' is a field of the body, not of the URL"
            elif near := get_close_matches(name, self.query, n=1):
                message = f"unknown query parameter '{shown(name)}'; did you mean '{near[0]}'?"
            else:
                continue
            raise InvalidField(message, param=shown(name))


def _size(content: Mapping[str, Any]) -> int:
    """Return the length of a body's longest list."""
    return max((len(value) for value in content.values() if isinstance(value, list)), default=0)


def _invalid(error: ValidationError, hint: str = "") -> InvalidField:
    if error.error_count() > problems.MOST_ERRORS:
        return problems.too_many(error)
    first = error.errors(include_url=False, include_input=False)[0]
    path = problems.path_of(first["loc"])
    message = validation.sentence(first)
    located = f"field '{path}': {message}" if path else message
    return InvalidField(located + hint, param=path or None)


def _located(path: Path, turns: Path, place: int, param: str | None) -> str:
    """Return where in a request an item's error is."""
    if param is None:
        return path(place)
    if param.startswith("messages[") and not param.endswith(("].content", "].role")):
        return items.within(turns(place), param)
    return param if items.is_shared(None, param) else path(place)


def each(field: str) -> Path:
    """Return the paths of the items of a list."""
    return lambda place: f"{field}[{place}]"


def only(field: str) -> Path:
    """Return the path of an item that stands alone."""
    return lambda _: field


@dataclass(frozen=True, slots=True)
class FieldItems:
    """The items of a field, their paths, and whether the field has but one, not in a list."""

    sources: list[Source]
    path: Path
    is_one: bool


def text_or_ids(value: object, field: str, specials: Specials = "tokenizer") -> FieldItems:
    """Return the items of a field that has a text or token ids, or many of these.

    A text gets the special tokens that the tokenizer adds, unless `specials` says otherwise.

    Raises:
        InvalidField: It has neither.
    """
    if not isinstance(value, list) or (value and set(map(type, value)) == {int}):
        return FieldItems([_one_of(value, field, specials)], only(field), is_one=True)
    sources = [
        _one_of(element, f"{field}[{place}]", specials) for place, element in enumerate(value)
    ]
    return FieldItems(sources, each(field), is_one=False)


def _one_of(value: object, where: str, specials: Specials) -> Source:
    if isinstance(value, str):
        return Text(value, specials)
    if isinstance(value, array):
        return Ids(in_range(value, where))
    if not isinstance(value, list) or not set(map(type, value)) <= {int}:
        raise InvalidField(f"field '{where}': send text, or a list of token ids", param=where)
    return Ids(in_range(value, where))


def in_range(ids: Sequence[int], where: str) -> Sequence[int]:
    """Return token ids.

    Raises:
        InvalidField: One can be no token's, of whatever model.
    """
    if ids and not 0 <= min(ids) <= max(ids) <= _LAST_ID:
        raise InvalidField(f"field '{where}': token ids are from 0 to {_LAST_ID}", param=where)
    return ids


def created() -> int:
    """Return the time that answers state."""
    return int(time.time())
