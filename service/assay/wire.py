"""Native requests and answers as JSON sees them; shared by the API and the client.

Not here: foreign contracts, and anything that computes. Over 400 lines, because the whole contract
should be readable in one place.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pydantic import GetCoreSchemaHandler
    from pydantic_core import core_schema

MOST_ITEMS = 65_536  # of a request
MOST_COMPARED = 1_024  # responses of a comparison, which is answered for each with each
Activation = Literal["none", "sigmoid"]
Priority = Literal["interactive", "batch"]
OnError = Literal["fail", "item"]
Truncation = Literal["prompt_start", "response_end", "longest_first"]
SpecialTokens = Literal["parse", "refuse", "split"]
Include = Literal["members", "attributes", "steps", "tokens"]
Aggregate = Literal["last", "min", "prod", "mean"]
# Roles whose turns are never scored. A template may call the assistant otherwise ("document").
NO_ANSWERS = frozenset({"user", "system", "developer", "tool", "function"})
Rule = Literal["mean", "median", "min", "lower_bound", "variance_penalty", "vote"]


def _fail_fast(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _fail_fast(part)


class Bounded(BaseModel):
    """Base of what is read from callers: of a list, the first wrong element ends the reading."""

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Let lists fail fast: a million errors would take seconds to tell."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


class Request(Bounded):
    """Base of what callers send: an unknown field is an error, not a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Answer(BaseModel):
    """Base of what Assay sends. Clients ignore fields they don't know, so answers may grow."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _absent(value: object) -> bool:
    return value is None


def _unset(default: object) -> BeforeValidator:
    """Return what takes null for an option that isn't set, as many languages' clients write it."""
    return BeforeValidator(lambda value: default if value is None else value)


def _nothing(value: object) -> None:
    if value not in (None, [], ""):
        raise ValueError("a chat template has no place for it; leave it out")


def _number(value: object) -> object:
    """Refuse what would be taken for a number: true, and "5000"."""
    if isinstance(value, bool | str):
        raise ValueError("send a number")  # noqa: TRY004  pydantic's own way
    return value


def _whole(value: object) -> object:
    """Refuse a number too large to be whole, before it is taken for a text."""
    if isinstance(value, float) and 2**53 < abs(value) < float("inf"):
        raise ValueError("send a whole number")
    return _number(value)


# What the openai package writes of a turn that has none of it.
Nothing = Annotated[Any, AfterValidator(_nothing)]
Integer = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Switch = Annotated[bool, Field(strict=True)]


# --- requests -------------------------------------------------------------------------------


PartType = Literal["text", "input_text", "output_text"]
Json = dict[str, Any]


class TextPart(Request):
    """A part of a turn's content; nothing but text can be scored."""

    type: PartType = "text"
    text: str


def _content_form(value: object) -> str | None:
    if isinstance(value, str):
        return "as-text"
    return "as-parts" if isinstance(value, list) else None


def _is_text(value: object) -> object:
    if isinstance(value, dict) and value.get("type", "text") not in get_args(PartType):
        raise ValueError("a reward model reads text only; leave out what isn't a part of text")
    return value


Content = Annotated[
    Annotated[str, Tag("as-text")]
    | Annotated[
        list[Annotated[TextPart, BeforeValidator(_is_text)]],
        Field(min_length=1),
        Tag("as-parts"),
    ],
    Discriminator(
        _content_form,
        custom_error_type="content_form",
        custom_error_message="send text, or parts of text: [{'type': 'text', 'text': ...}]",
    ),
]


def _called(call: Json) -> Json:
    """Return a call of a tool whose arguments, if they came as a JSON string, are parsed.

    As vLLM and SGLang do: chat templates go through them.
    """
    function = call.get("function", call)
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        raise ValueError("send {'type': 'function', 'function': {'name', 'arguments'}}")
    if not isinstance(function.get("name"), str):
        raise ValueError("a call has the 'name' of its function")  # noqa: TRY004  pydantic's way
    read = {**function, "arguments": _arguments(function.get("arguments"))}
    return {**call, "function": read} if "function" in call else read


def _arguments(given: object) -> object:
    if isinstance(given, str) and given.strip():
        try:
            given = from_json(given)
        except ValueError:
            raise ValueError("the 'arguments' are a string that isn't JSON") from None
    return {} if given is None or given == "" else given


ToolCall = Annotated[Json, AfterValidator(_called)]
# What a turn may have beside its role and content, for the chat templates that render it.
CARRIED = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")

_INSTEAD = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # of content


class Message(Request):
    """One turn of a conversation, as `apply_chat_template` takes it.

    What the model's chat template doesn't render is refused by its name, not left out.
    """

    role: str = Field(min_length=1, description="As the model's chat template knows it.")
    name: str | None = None
    tool_calls: list[ToolCall] | None = Field(
        default=None, description="Arguments that are a JSON string are parsed."
    )
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = Field(default=None, description="vLLM's name of `reasoning_content`.")
    thinking: str | None = Field(default=None, description="gpt-oss's name of it.")
    refusal: Nothing = Field(default=None, description="Taken where there is none.")
    annotations: Nothing = Field(default=None, description="Taken where there are none.")
    audio: Nothing = Field(default=None, description="Taken where there is none.")
    function_call: Nothing = Field(default=None, description="Taken where there is none.")

    # The last, so that it knows what it is beside.
    content: Content | None = Field(
        default=None,
        validate_default=True,
        description="Text, or parts of it; null only beside calls or reasoning.",
    )

    @field_validator("content")
    @classmethod
    def _is_there(cls, content: object, info: ValidationInfo) -> object:
        if content is None and not any(info.data.get(name) for name in _INSTEAD):
            raise ValueError("content is required, unless a turn has 'tool_calls' or reasoning")
        return content

    def turn(self) -> Json:
        """Return the turn as chat templates take it: what is null isn't there."""
        turn: Json = {"role": self.role}
        if self.content is not None:
            turn["content"] = as_content(self.content)
        given = ((name, getattr(self, name)) for name in CARRIED)
        return {**turn, **{name: value for name, value in given if value not in (None, [])}}


def as_content(content: str | Iterable[TextPart]) -> str | list[Json]:
    """Return a content as chat templates take it: every part of the type 'text'."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": part.text} for part in content]


class TemplateInputs(Request):
    """What a chat template gets beside the turns; null is as if it weren't there.

    What the model's chat template doesn't read is refused by its name.
    """

    tools: list[Json] | None = Field(
        default=None, description="JSON schemas of the tools that the conversation knows."
    )
    documents: list[Json] | None = Field(
        default=None, description="Documents that the conversation knows, often `title`, `text`."
    )
    chat_template_kwargs: Json | None = Field(
        default=None, description="Other variables of the chat template, such as enable_thinking."
    )


def _refuse_beside(inputs: TemplateInputs, form: str) -> None:
    """Refuse what only a chat template reads where none is applied."""
    for name in TemplateInputs.model_fields:
        if getattr(inputs, name) is not None:
            raise ValueError(
                f"'{name}' is for the chat template, which '{form}' doesn't go through; leave it "
                "out, or send 'messages'"
            )


def _prompt_form(value: object) -> str | None:
    if isinstance(value, str):
        return "as-text"
    return "as-messages" if isinstance(value, list) else None


Prompt = Annotated[
    Annotated[str, Tag("as-text")]
    | Annotated[list[Message], Field(min_length=1), Tag("as-messages")],
    Discriminator(
        _prompt_form,
        custom_error_type="prompt_form",
        custom_error_message="send a string, or a list of messages with 'role' and 'content'",
    ),
]
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1, strict=True)]


def _token_ids(value: object, check: Callable[[object], list[int]]) -> Sequence[int]:
    """Take ids that came packed as they are: a list of them needs nine times that.

    Arrays and tensors are what trainers have.
    """
    if hasattr(value, "tolist") and not isinstance(value, array):
        value = value.tolist()
    is_packed = isinstance(value, array) and (not value or min(value) >= 0)
    return cast("Sequence[int]", value) if is_packed else check(value)


TokenIds = Annotated[list[TokenId], WrapValidator(_token_ids)]


class Item(TemplateInputs):
    """One thing to score, in exactly one of its forms.

    `prompt` + `response`, `prompt` + `steps` (process reward models), `messages` ending with an
    assistant turn, `text` (already templated), or `input_ids` (scored verbatim). Its `tools`,
    `documents` and `chat_template_kwargs` are instead of the request's.
    """

    id: str | None = Field(default=None, description="Echoed in the answer.")
    prompt: Prompt | None = None
    response: str | None = None
    steps: list[str] | None = Field(default=None, min_length=1)
    messages: list[Message] | None = None
    text: str | None = None
    input_ids: TokenIds | None = None
    token_type_ids: TokenIds | None = Field(
        default=None,
        description="Of `input_ids`, for encoders that tell segments apart; default: all 0.",
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if self.response is not None and self.steps is not None:
            raise ValueError("send either 'response' or 'steps'")
        has_answer = self.response is not None or self.steps is not None
        if (self.prompt is not None) != has_answer:
            missing = "prompt" if has_answer else "response"
            raise ValueError(f"'{missing}' is missing: send 'prompt' together with 'response'")
        forms = (self.prompt, self.messages, self.text, self.input_ids)
        if sum(form is not None for form in forms) != 1:
            raise ValueError(
                "send exactly one of 'prompt' with 'response', 'messages', 'text' or 'input_ids'"
            )
        if self.token_type_ids is not None and (
            self.input_ids is None or len(self.token_type_ids) != len(self.input_ids)
        ):
            raise ValueError("'token_type_ids' goes with 'input_ids': send one for each id")
        if self.messages is not None and (
            not self.messages or self.messages[-1].role in NO_ANSWERS
        ):
            raise ValueError("'messages' must end with the assistant turn to score")
        if (form := self.untemplated) is not None:
            _refuse_beside(self, form)
        return self

    @property
    def untemplated(self) -> str | None:
        """The form of an item that goes through no chat template."""
        return next(
            (name for name in ("text", "input_ids") if getattr(self, name) is not None), None
        )


def _listed(value: object) -> object:
    if not isinstance(value, dict | Item | list | tuple):
        raise ValueError("send an item, or a list of items")  # noqa: TRY004  pydantic's own way
    return [value] if isinstance(value, dict | Item) else value


Items = Annotated[list[Item], BeforeValidator(_listed, json_schema_input_type=Item | list[Item])]


CacheSalt = Annotated[str, Field(min_length=1, max_length=1_024)]
Weight = Annotated[Number, Field(ge=-1e6, le=1e6)]


_SPECIAL_TOKENS_IN_TEXTS = (
    "How special tokens in the texts of a prompt, response or message are taken. 'parse': as "
    "transformers does, as if the chat template had written them; 'refuse': such an item is; "
    "'split': they are text. Default the card's, else 'parse'."
)


class Options(TemplateInputs):
    """What every scoring route understands."""

    model: str | None = Field(default=None, description="A served model or ensemble.")
    activation: Annotated[Activation, _unset("none")] = Field(
        default="none",
        description="Applied to the answer's `score`, `scores` and `members` only: spread, "
        "margins, probabilities, selection scores, `min_score` and `expected_best` are of the raw "
        "reward.",
    )
    normalize: Annotated[Switch, _unset(False)] = Field(
        default=False, description="Apply the card's stored mean and std, before all else."
    )
    on_error: Annotated[OnError, _unset("fail")] = Field(
        default="fail",
        description="An item that can't be scored fails the request, or only itself. A body that "
        "isn't of this form is refused as a whole.",
    )
    priority: Annotated[Priority, _unset("interactive")] = "interactive"
    deadline_ms: Integer | None = Field(default=None, gt=0, le=86_400_000)
    cache_salt: CacheSalt | None = Field(
        default=None,
        description="Prefixes are shared with requests of the same caller and salt alone; as "
        "vLLM's: for who asks on behalf of several that aren't to learn of each other.",
    )
    truncation: Truncation | None = Field(
        default=None, description="What may be cut from an item over the limit; default the card's."
    )
    special_tokens: SpecialTokens | None = Field(default=None, description=_SPECIAL_TOKENS_IN_TEXTS)
    include: Annotated[list[Include], _unset([])] = Field(
        default_factory=list,
        description="What else to answer of each response. `/score` has attributes and steps of "
        "every model that gives them, the other routes where they are asked for.",
    )
    aggregate: Aggregate | None = Field(
        default=None, description="From steps' scores to one; default the card's."
    )
    threshold: Number | None = Field(
        default=None,
        description="A step whose score is below is an error; default the card's.",
    )
    attributes: dict[str, Weight] | None = Field(
        default=None,
        min_length=1,
        description="The score is the sum of these attributes (or of a composite's parts), each "
        "times its weight; those left out weigh 0.",
    )


def _check_templated(request: TemplateInputs, items: Iterable[Item]) -> None:
    """Refuse what is said for every item of a request where one can't have it."""
    if all(getattr(request, name) is None for name in TemplateInputs.model_fields):
        return
    for item in items:
        if (form := item.untemplated) is not None:
            _refuse_beside(request, form)


class ScoreRequest(Options):
    """`POST /score`. `prompt` with `response` at the top level stands for one item."""

    inputs: Items | None = None
    prompt: Prompt | None = None
    response: str | None = None
    steps: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_inputs(self) -> Self:
        _check_templated(self, self.items())
        return self

    def items(self) -> list[Item]:
        """Return the items in the caller's order."""
        return _items_of(self)


def _items_of(request: ScoreRequest | TokenizeRequest) -> list[Item]:
    """Return the items of a request: those in `inputs`, or the one at the top level."""
    short = any(one is not None for one in (request.prompt, request.response, request.steps))
    if short == (request.inputs is not None):
        raise ValueError("send either 'inputs', or 'prompt' with 'response'")
    if request.inputs is not None:
        return request.inputs
    return [Item(prompt=request.prompt, response=request.response, steps=request.steps)]


Compared = Annotated[list[str], Field(min_length=2, max_length=MOST_COMPARED)]


class Comparison(TemplateInputs):
    """Two or more responses to one prompt."""

    id: str | None = None
    prompt: Prompt
    responses: Compared | None = None
    chosen: str | None = None
    rejected: str | None = None

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        pair = self.chosen is not None and self.rejected is not None
        half = (self.chosen is None) != (self.rejected is None)
        if half or pair == (self.responses is not None):
            raise ValueError("send either 'responses', or 'chosen' with 'rejected'")
        return self

    def candidates(self) -> list[str]:
        """Return the responses; `chosen` is index 0."""
        if self.responses is not None:
            return self.responses
        return [text for text in (self.chosen, self.rejected) if text is not None]


class CompareRequest(Options):
    """`POST /compare`: one comparison at the top level, or several in `comparisons`."""

    comparisons: list[Comparison] | None = None
    prompt: Prompt | None = None
    responses: Compared | None = None
    chosen: str | None = None
    rejected: str | None = None
    temperature: Annotated[Number, _unset(1.0)] = Field(default=1.0, gt=0)
    tie_margin: Annotated[Number, _unset(0.0)] = Field(
        default=0.0,
        ge=0,
        description="A margin up to this is a tie; of a model that only compares, |P − 0.5|.",
    )

    @model_validator(mode="after")
    def _has_comparisons(self) -> Self:
        short = (self.prompt, self.responses, self.chosen, self.rejected)
        if (self.comparisons is None) == all(part is None for part in short):
            raise ValueError("send either 'comparisons', or 'prompt' with 'responses'")
        if self.comparisons is None:
            self.all()
        return self

    def all(self) -> list[Comparison]:
        """Return the comparisons in the caller's order."""
        if self.comparisons is not None:
            return self.comparisons
        if self.prompt is None:
            raise ValueError("'prompt' is missing")
        return [
            Comparison(
                prompt=self.prompt,
                responses=self.responses,
                chosen=self.chosen,
                rejected=self.rejected,
            )
        ]


Chain = Annotated[list[str], Field(min_length=1)]


class Group(TemplateInputs):
    """The responses to one prompt among which the best is sought."""

    id: str | None = None
    prompt: Prompt
    responses: list[str] | None = Field(default=None, min_length=1)
    chains: list[Chain] | None = Field(
        default=None, min_length=1, description="Responses in steps, for process reward models."
    )

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if (self.responses is None) == (self.chains is None):
            raise ValueError("send either 'responses' or 'chains'")
        return self

    def candidates(self) -> list[str] | list[list[str]]:
        """Return the responses, or the chains of steps."""
        return self.responses if self.responses is not None else self.chains or []


class BestOfNRequest(Options):
    """`POST /best-of-n`: one group at the top level, or several in `groups`."""

    groups: list[Group] | None = None
    prompt: Prompt | None = None
    responses: list[str] | None = Field(default=None, min_length=1)
    chains: list[Chain] | None = Field(default=None, min_length=1)
    rule: Annotated[Rule, _unset("mean")] = "mean"
    penalty: Number | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Lambda of 'lower_bound' (default 1) and 'variance_penalty' (default 0.5).",
    )
    top_k: Annotated[Integer, _unset(1)] = Field(default=1, ge=1)
    min_score: Number | None = None

    @model_validator(mode="after")
    def _has_groups(self) -> Self:
        short = any(part is not None for part in (self.prompt, self.responses, self.chains))
        if short == (self.groups is not None):
            raise ValueError("send either 'groups', or 'prompt' with 'responses'")
        if short and (self.prompt is None or (self.responses is None and self.chains is None)):
            missing = "responses" if self.prompt is not None else "prompt"
            raise ValueError(f"'{missing}' is missing: send 'prompt' together with 'responses'")
        if short:
            self.all()
        return self

    def all(self) -> list[Group]:
        """Return the groups in the caller's order."""
        if self.groups is not None:
            return self.groups
        if self.prompt is None:
            raise ValueError("'prompt' is missing")
        return [Group(prompt=self.prompt, responses=self.responses, chains=self.chains)]


class TokenizeRequest(TemplateInputs):
    """`POST /tokenize`: what the model would see. `prompt` with `response` stands for one item."""

    model: str | None = None
    prompt: Prompt | None = None
    response: str | None = None
    steps: list[str] | None = Field(default=None, min_length=1)
    inputs: Items | None = Field(default=None, validate_default=True)
    truncation: Truncation | None = None
    special_tokens: SpecialTokens | None = Field(default=None, description=_SPECIAL_TOKENS_IN_TEXTS)

    @field_validator("inputs")
    @classmethod
    def _is_there(cls, inputs: list[Item] | None, info: ValidationInfo) -> list[Item] | None:
        short = (info.data.get(name, True) for name in ("prompt", "response", "steps"))
        if inputs is None and not any(one is not None for one in short):
            raise ValueError("required, or 'prompt' with 'response'")
        return inputs

    @model_validator(mode="after")
    def _has_inputs(self) -> Self:
        _check_templated(self, self.items())
        return self

    def items(self) -> list[Item]:
        """Return the items in the caller's order."""
        return _items_of(self)


# --- answers --------------------------------------------------------------------------------


class ItemError(Answer):
    """Why one item has no score."""

    code: str
    message: str


class Uncertainty(Answer):
    """Spread over the members' scores: population variance, as in Coste et al. 2310.02743."""

    std: float
    variance: float
    members: int


class Usage(Answer):
    """Tokens of the items that ran, over all members of the target.

    `computed_tokens` is what the device ran; the difference to `tokens` was shared.
    """

    tokens: int
    computed_tokens: int
    shared_tokens: int


class Timing(Answer):
    """Milliseconds; `total` is from the parsed request to the finished answer."""

    tokenize: float
    queue: float
    compute: float
    total: float


class Entry(Answer):
    """What each element of `data` has."""

    index: int
    id: str | None = Field(default=None, exclude_if=_absent)
    error: ItemError | None = Field(default=None, exclude_if=_absent)


class Envelope(Answer):
    """What every scoring answer has around its `data`."""

    id: str
    object: str
    created: int
    model: str
    revision: str
    usage: Usage
    timing_ms: Timing


class ScoreEntry(Entry):
    """One item's reward; `score` is null only beside an `error`."""

    score: float | None
    uncertainty: Uncertainty | None = None
    members: dict[str, float] | None = Field(default=None, exclude_if=_absent)
    attributes: dict[str, float] | None = Field(default=None, exclude_if=_absent)
    steps: list[float] | None = Field(default=None, exclude_if=_absent)
    first_error: int | None = Field(
        default=None,
        exclude_if=_absent,
        description="The first step whose score is below the threshold, from 0.",
    )
    gated: bool | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a composite with a gate: whether the gate's part was too low, so that the "
        "score is the gate's `otherwise`.",
    )
    tokens: list[int] | None = Field(default=None, exclude_if=_absent)
    n_tokens: int
    truncated: bool


class ScoreAnswer(Envelope):
    """Answer of `POST /score`."""

    object: Literal["score.list"] = "score.list"
    data: list[ScoreEntry]


class CompareEntry(Entry):
    """One comparison; what `include` adds is a list with an element for each response.

    For two responses `margin` is r_0 − r_1 and `probability` P(0 ≻ 1); for more, both compare the
    first of `ranking` with the second. A model that only compares gives no margin, and as scores
    the mean probabilities of winning; its preferences may go in circles, which is `undecided`.
    """

    scores: list[float] = []
    margin: float | None = None
    margin_std: float | None = None
    probability: float | None = None
    agreement: float | None = None
    winner: int | None = None
    undecided: bool | None = None
    ranking: list[int] | None = Field(default=None, exclude_if=_absent)
    probabilities: list[list[float]] | None = Field(default=None, exclude_if=_absent)
    members: list[dict[str, float]] | None = Field(default=None, exclude_if=_absent)
    attributes: list[dict[str, float]] | None = Field(default=None, exclude_if=_absent)
    steps: list[list[float]] | None = Field(default=None, exclude_if=_absent)
    first_error: list[int | None] | None = Field(default=None, exclude_if=_absent)
    tokens: list[list[int]] | None = Field(default=None, exclude_if=_absent)
    gated: list[bool] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    n_tokens: list[int] = []
    truncated: list[bool] = []


class CompareAnswer(Envelope):
    """Answer of `POST /compare`."""

    object: Literal["compare.list"] = "compare.list"
    data: list[CompareEntry]


class Candidate(Answer):
    """One response that was picked."""

    index: int
    response: str | None = None
    steps: list[str] | None = Field(default=None, exclude_if=_absent)
    score: float
    selection_score: float


class Ranked(Answer):
    """One response's place, and what `include` adds to it."""

    index: int
    score: float
    std: float | None = None
    selection_score: float
    members: dict[str, float] | None = Field(default=None, exclude_if=_absent)
    attributes: dict[str, float] | None = Field(default=None, exclude_if=_absent)
    steps: list[float] | None = Field(default=None, exclude_if=_absent)
    first_error: int | None = Field(default=None, exclude_if=_absent)
    tokens: list[int] | None = Field(default=None, exclude_if=_absent)
    gated: bool | None = Field(default=None, exclude_if=_absent, description="As in /score.")


class BestOfNEntry(Entry):
    """One group. `best` is null when `min_score` isn't met."""

    best: Candidate | None = None
    top: list[Candidate] = []
    ranking: list[Ranked] = []
    n: int
    kl: float | None = None
    expected_best: dict[int, float] = {}
    confidence: float | None = None
    ties: list[int] = []
    truncated: list[bool] = []


class BestOfNAnswer(Envelope):
    """Answer of `POST /best-of-n`."""

    object: Literal["best_of_n.list"] = "best_of_n.list"
    data: list[BestOfNEntry]


class TokenizeEntry(Entry):
    """What the model sees of one item."""

    input_ids: list[int] = []
    token_type_ids: list[int] | None = Field(
        default=None, description="Segment ids, where there are others than 0."
    )
    tokens: list[str] = []
    read_position: int | None = Field(default=None, description="The last of `read_positions`.")
    read_positions: list[int] = Field(
        default=[], description="Every token that a head reads; empty where it reads their mean."
    )
    read_token: str | None = None
    text: str | None = Field(default=None, description="The rendered text, before tokenization.")
    n_tokens: int = 0
    truncated: bool = False


class TokenizeAnswer(Answer):
    """Answer of `POST /tokenize`."""

    object: Literal["tokenize.list"] = "tokenize.list"
    model: str
    data: list[TokenizeEntry]


class Stats(Answer):
    """How busy the server is, under Infinity's names."""

    queue_fraction: float = Field(description="Tokens admitted, of those that may be.")
    queue_absolute: int = Field(description="Items that wait for this target's models.")
    results_pending: int = Field(description="Requests that are being answered, of any target.")
    batch_size: int | None = Field(default=None, description="Tokens of a batch at most.")


class PartEntry(Answer):
    """One part of a composite: the target it is of, and what its score is multiplied by.

    `mean` and `std` are what it is standardized by first, where it is.
    """

    target: str
    attribute: str | None = Field(default=None, exclude_if=_absent)
    weight: float
    mean: float | None = Field(default=None, exclude_if=_absent)
    std: float | None = Field(default=None, exclude_if=_absent)


class GateEntry(Answer):
    """A composite's gate: below `at_least` of a part the score is `otherwise`."""

    part: str
    at_least: float
    otherwise: float


class ModelEntry(Answer):
    """One served target, OpenAI-style; Infinity's client reads `stats` to `capabilities`."""

    id: str
    stats: Stats | None = None
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["assay"] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Under /v1, where OpenAI has it; elsewhere Infinity's client takes its own.",
    )
    backend: Literal["torch"] = "torch"
    capabilities: list[Literal["classify", "rerank"]] = []
    kind: Literal["model", "ensemble", "policy", "composite"]
    state: str
    default: bool
    revision: str | None = None
    members: list[str] = []
    architecture: str | None = None
    device: str | None = None
    dtype: str | None = None
    forward: str | None = Field(default=None, description="'packed' or 'padded'.")
    attention: str | None = Field(
        default=None,
        description="'native' (CPU), 'varlen' (flash attention), 'blocks' (torch's products), or "
        "'eager' (padded).",
    )
    warnings: list[str] = Field(
        default=[], description="Why it runs slower than it could: what it fell back from."
    )
    parameters: int | None = None
    max_tokens: int | None = None
    batch_tokens: int | None = None
    summary: str | None = None
    statistics: dict[str, float] | None = None
    attributes: list[str] = Field(
        default=[], description="What answers have as `attributes`; a composite's are its parts."
    )
    parts: dict[str, PartEntry] | None = Field(
        default=None, exclude_if=_absent, description="A composite's parts, by name."
    )
    gate: GateEntry | None = Field(
        default=None, exclude_if=_absent, description="A composite's gate, if it has one."
    )
    scores_steps: bool = Field(default=False, description="A process reward model.")
    only_compares: bool = Field(
        default=False, description="It has no score for one response: not for /score."
    )


class ModelReference(Request):
    """`POST /admin/unload`."""

    model: str = Field(min_length=1, description="What to load, or the name of what is served.")


class ModelToLoad(ModelReference):
    """`POST /admin/load`."""

    name: str | None = Field(
        default=None, min_length=1, max_length=256, description="Under which name to serve it."
    )


class Reload(Request):
    """`POST /admin/reload`: an empty object, or no body at all; everything is read again."""


class ModelList(Answer):
    """Answer of `GET /models`."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ModelDetail(ModelEntry):
    """Answer of `GET /models/{name}`: the entry with its whole card."""

    card: dict[str, Any]


class ReadyAnswer(Answer):
    """Answer of `GET /health/ready` and `GET /health`."""

    ready: bool
    reasons: list[str] = []
    models: dict[str, str] = {}


class ErrorBody(Answer):
    """The inside of every native error."""

    code: str
    message: str
    param: str | None = Field(default=None, exclude_if=_absent)
    retryable: bool


class ErrorAnswer(Answer):
    """Every native error."""

    error: ErrorBody
    request_id: str
