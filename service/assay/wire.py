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
MOST_TARGETS = 16  # of a request
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


def _over_members(value: object) -> bool:
    return value == "members"


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

    type: PartType = Field(default="text", description="OpenAI's names; all are text.")
    text: str = Field(description="The part's text.")


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


def _arguments(value: object) -> object:
    if isinstance(value, str) and value.strip():
        try:
            value = from_json(value)
        except ValueError:
            raise ValueError("the 'arguments' are a string that isn't JSON") from None
    return {} if value is None or value == "" else value


ToolCall = Annotated[Json, AfterValidator(_called)]
# What a turn may have beside its role and content, for the chat templates that render it.
CARRIED = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")

_INSTEAD = ("tool_calls", "reasoning_content", "reasoning", "thinking")  # of content


class Message(Request):
    """One turn of a conversation, as `apply_chat_template` takes it.

    What the model's chat template doesn't render is refused by its name, not left out.
    """

    role: str = Field(min_length=1, description="As the model's chat template knows it.")
    name: str | None = Field(
        default=None, description="Who speaks, where the template renders names."
    )
    tool_calls: list[ToolCall] | None = Field(
        default=None, description="Arguments that are a JSON string are parsed."
    )
    tool_call_id: str | None = Field(
        default=None, description="The call that a tool's turn answers."
    )
    reasoning_content: str | None = Field(
        default=None, description="The turn's reasoning, where the template renders it."
    )
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
        carried = ((name, getattr(self, name)) for name in CARRIED)
        return {**turn, **{name: value for name, value in carried if value not in (None, [])}}


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
    prompt: Prompt | None = Field(
        default=None,
        description="What is answered: a text, which is one user turn, or the turns so far.",
    )
    response: str | None = Field(
        default=None, description="The answer to score: the assistant's turn behind the prompt."
    )
    steps: list[str] | None = Field(
        default=None, min_length=1, description="The answer in steps, for process reward models."
    )
    messages: list[Message] | None = Field(
        default=None, description="A whole conversation; its last turn is the one to score."
    )
    text: str | None = Field(
        default=None,
        description="A text that went through a template already; it gets one BOS, where the model "
        "has one.",
    )
    input_ids: TokenIds | None = Field(
        default=None, description="Token ids of the model's own vocabulary, scored as they are."
    )
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
    priority: Annotated[Priority, _unset("interactive")] = Field(
        default="interactive",
        description="'batch' starts 65,536 tokens behind 'interactive' in the queue, and ages.",
    )
    deadline_ms: Integer | None = Field(
        default=None,
        gt=0,
        le=86_400_000,
        description="Milliseconds until an item that hasn't begun is given up with "
        "`deadline_exceeded`, at most a day; default `max_wait_s`.",
    )
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
    length_control: Annotated[Switch, _unset(False)] = Field(
        default=False,
        description="Scores are controlled for the response's length (or what else the target's "
        "calibration is by): less what is expected of such a length. All else is of the controlled "
        "score; the raw one stands beside it.",
    )
    attributes: dict[str, Weight] | None = Field(
        default=None,
        min_length=1,
        description="The score is the sum of these attributes (or of a composite's parts, or what "
        "its rule makes of them), each times its weight; those left out weigh 0.",
    )
    rule: Rule | None = Field(
        default=None,
        description="What `score` is over an ensemble's members' scores s_1 to s_m, and what "
        "/best-of-n ranks by. 'mean': their mean; 'median': their median; 'min': the lowest; "
        "'lower_bound': mean − penalty · std; 'variance_penalty': mean − penalty · std²; 'vote' "
        "(of /best-of-n): the share of members whose own first choice it is. std is the "
        "population's (divided by m). All but 'mean' need an ensemble, those with a penalty "
        "`uncertainty`. Default the target's, else 'mean'.",
    )
    penalty: Number | None = Field(
        default=None,
        ge=0,
        le=1e6,
        description="Lambda of 'lower_bound' (default 1) and 'variance_penalty' (default 0.5), "
        "at least 0; default the target's for its own rule.",
    )


def _check_templated(request: TemplateInputs, items: Iterable[Item]) -> None:
    """Refuse what is said for every item of a request where one can't have it."""
    if all(getattr(request, name) is None for name in TemplateInputs.model_fields):
        return
    for item in items:
        if (form := item.untemplated) is not None:
            _refuse_beside(request, form)


class NamedTarget(Request):
    """One of several targets that a request asks; its name alone stands for it."""

    target: str = Field(
        min_length=1, max_length=256, description="A served model, ensemble or composite."
    )
    required: Annotated[Switch, _unset(True)] = Field(
        default=True,
        description="Whether an item fails that this target can't score; else its reward is null, "
        "with its error.",
    )
    normalize: Switch | None = Field(
        default=None, description="As in the request, for this target; default the request's."
    )
    attributes: dict[str, Weight] | None = Field(
        default=None, min_length=1, description="As in a request to this target alone."
    )


def _named(value: object) -> object:
    if not isinstance(value, str | dict | NamedTarget):
        raise ValueError("send a target's name, or {'target': its name}")  # noqa: TRY004
    return {"target": value} if isinstance(value, str) else value


AskedTarget = Annotated[
    NamedTarget, BeforeValidator(_named, json_schema_input_type=str | NamedTarget)
]


class ScoreRequest(Options):
    """`POST /score`. `prompt` with `response` at the top level stands for one item."""

    calibrated: Annotated[Switch, _unset(False)] = Field(
        default=False,
        description="Also answer each response's `probability` of being acceptable, and `absolute` "
        "reward: what the target's calibration has of the two.",
    )
    inputs: Items | None = Field(default=None, description="One item, or a list of items.")
    prompt: Prompt | None = Field(default=None, description="The prompt of the one item.")
    response: str | None = Field(default=None, description="The response of the one item.")
    steps: list[str] | None = Field(
        default=None, min_length=1, description="The steps of the one item, in place of `response`."
    )
    targets: list[AskedTarget] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_TARGETS,
        description="Several targets, by name, that each score every item: `rewards` has what they "
        "make of it. `score` and what stands beside it are those of `model` then, which is asked, "
        "too, and required; without `model` there are none.",
    )

    @model_validator(mode="after")
    def _has_inputs(self) -> Self:
        _check_templated(self, self.items())
        if self.length_control:
            for item in self.items():
                if (form := item.untemplated) is not None:
                    raise ValueError(
                        f"'length_control' needs to know the response, which '{form}' doesn't "
                        "tell apart; leave it out, or send 'prompt' with 'response'"
                    )
        return self

    @field_validator("targets")
    @classmethod
    def _names_each_once(
        cls, targets: list[NamedTarget] | None, info: ValidationInfo
    ) -> list[NamedTarget] | None:
        names = [entry.target for entry in targets or ()]
        if len(set(names)) < len(names):
            raise ValueError("a target is named twice; name each once")
        if targets and info.data.get("attributes") is not None:
            raise ValueError("the request has 'attributes'; send them in the entry of a target")
        return targets

    def items(self) -> list[Item]:
        """Return the items in the caller's order."""
        return _items_of(self)


def _items_of(request: ScoreRequest | TokenizeRequest) -> list[Item]:
    """Return the items of a request: those in `inputs`, or the one at the top level."""
    short = any(value is not None for value in (request.prompt, request.response, request.steps))
    if short == (request.inputs is not None):
        raise ValueError("send either 'inputs', or 'prompt' with 'response'")
    if request.inputs is not None:
        return request.inputs
    return [Item(prompt=request.prompt, response=request.response, steps=request.steps)]


Compared = Annotated[list[str], Field(min_length=2, max_length=MOST_COMPARED)]


class Comparison(TemplateInputs):
    """Two or more responses to one prompt."""

    id: str | None = Field(default=None, description="Echoed in the answer.")
    prompt: Prompt = Field(description="What all responses answer.")
    responses: Compared | None = Field(
        default=None, description="The responses, each compared with each."
    )
    chosen: str | None = Field(default=None, description="The first of two responses, index 0.")
    rejected: str | None = Field(default=None, description="The second of two, index 1.")

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

    comparisons: list[Comparison] | None = Field(default=None, description="Several comparisons.")
    prompt: Prompt | None = Field(default=None, description="The prompt of the one comparison.")
    responses: Compared | None = Field(default=None, description="Its responses.")
    chosen: str | None = Field(default=None, description="The first of its two responses, index 0.")
    rejected: str | None = Field(default=None, description="The second of its two, index 1.")
    temperature: Number | None = Field(
        default=None,
        gt=0,
        description="Divides margins before the sigmoid of `probability`, in place of the target's "
        "calibration; without either 1.",
    )
    tie_margin: Annotated[Number, _unset(0.0)] = Field(
        default=0.0,
        ge=0,
        description="A margin up to this is a tie; of a model that only compares, |P − 0.5|.",
    )
    abstain_at: Number | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Abstain so that at most this share of all comparisons is decided wrongly: "
        "`undecided` is then |margin| ≤ the calibration's threshold for that error rate. `winner` "
        "stays.",
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

    id: str | None = Field(default=None, description="Echoed in the answer.")
    prompt: Prompt = Field(description="What all responses answer.")
    responses: list[str] | None = Field(default=None, min_length=1, description="The candidates.")
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

    groups: list[Group] | None = Field(default=None, description="Several groups.")
    prompt: Prompt | None = Field(default=None, description="The prompt of the one group.")
    responses: list[str] | None = Field(default=None, min_length=1, description="Its candidates.")
    chains: list[Chain] | None = Field(
        default=None,
        min_length=1,
        description="Its candidates in steps, for process reward models.",
    )
    top_k: Annotated[Integer, _unset(1)] = Field(
        default=1, ge=1, description="How many candidates `top` has at most."
    )
    min_score: Number | None = Field(
        default=None, description="A candidate whose mean raw score is below isn't in `top`."
    )
    abstain_at: Number | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Also answer `undecided`: whether the best is not reliably better than the "
        "next, at this error rate of the target's calibration.",
    )

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

    model: str | None = Field(
        default=None,
        description="A served model or ensemble, of which the first member's tokenizer is shown.",
    )
    prompt: Prompt | None = Field(default=None, description="The prompt of the one item.")
    response: str | None = Field(default=None, description="The response of the one item.")
    steps: list[str] | None = Field(
        default=None, min_length=1, description="The steps of the one item, in place of `response`."
    )
    inputs: Items | None = Field(
        default=None, validate_default=True, description="One item, or a list of items."
    )
    truncation: Truncation | None = Field(
        default=None, description="What may be cut from an item over the limit; default the card's."
    )
    special_tokens: SpecialTokens | None = Field(default=None, description=_SPECIAL_TOKENS_IN_TEXTS)

    @field_validator("inputs")
    @classmethod
    def _is_there(cls, inputs: list[Item] | None, info: ValidationInfo) -> list[Item] | None:
        short = (info.data.get(name, True) for name in ("prompt", "response", "steps"))
        if inputs is None and not any(value is not None for value in short):
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

    code: str = Field(description="The error's code, as in the list of errors.")
    message: str = Field(description="What to do.")
    target: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of several targets, the one that couldn't score the item.",
    )


class Uncertainty(Answer):
    """How sure the reward is: spread over members' scores, or what one model says of itself.

    Over members it is the population variance, as in Coste et al. 2310.02743.
    """

    std: float = Field(description="√variance.")
    variance: float = Field(
        description="Σ (s_i − mean)² / m over the m members' raw scores, or that of one model's "
        "own distribution of the raw score."
    )
    members: int | None = Field(
        default=None, exclude_if=_absent, description="m; absent of one model."
    )
    kind: Literal["members", "quantiles", "bins", "gaussian", "laplace"] = Field(
        default="members",
        exclude_if=_over_members,
        description="What it is made of; absent over members. One model's own: the quantiles, the "
        "distribution over values or the normal distributions that its head gives, or a Laplace "
        "approximation of its last layer.",
    )


class Usage(Answer):
    """Tokens of the items that ran, over all members of the target.

    `computed_tokens` is what the device ran; the difference to `tokens` was shared.
    """

    tokens: int = Field(
        description="Tokens of all items, each counted once for each member that reads it."
    )
    computed_tokens: int = Field(description="Tokens that the device ran for them.")
    shared_tokens: int = Field(
        description="tokens − computed_tokens: prefixes that were computed once for several items, "
        "or "
        "kept from an earlier batch."
    )


class Timing(Answer):
    """Milliseconds; `total` is from the parsed request to the finished answer."""

    tokenize: float = Field(description="Rendering and tokenizing.")
    queue: float = Field(description="Waiting for a batch.")
    compute: float = Field(description="In batches on the device.")
    total: float = Field(description="From the parsed request to the finished answer.")


class Entry(Answer):
    """What each element of `data` has."""

    index: int = Field(description="The place in the request, from 0.")
    id: str | None = Field(default=None, exclude_if=_absent, description="The `id` that was sent.")
    error: ItemError | None = Field(
        default=None,
        exclude_if=_absent,
        description="Why there is no score; with `on_error` 'item' only.",
    )


class Envelope(Answer):
    """What every scoring answer has around its `data`."""

    id: str = Field(
        description="The route and the request's id, which logs and `X-Request-Id` have."
    )
    object: str = Field(description="What kind of answer this is.")
    created: int = Field(description="Unix time in seconds.")
    model: str = Field(
        description="The target that answered, by its name; of several without `model`, their "
        "names with '+' between them."
    )
    revision: str = Field(
        description="A digest of all that decides its scores: weights, card, limits; of a "
        "combination also its parts. Of several targets, of all of them."
    )
    calibration: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="The id of the calibration that probabilities, `undecided` or controlled "
        "scores are by, where one was used.",
    )
    calibrations: dict[str, str] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a composite: the ids of the calibrations that its gate or tolerances are "
        "by, by part.",
    )
    usage: Usage = Field(description="Tokens.")
    timing_ms: Timing = Field(description="Milliseconds.")


class Reward(Answer):
    """What one target makes of one item; `score` is null only beside an `error`."""

    score: float | None = Field(
        description="The reward: the members' raw scores combined, by default their mean, after "
        "`normalize` and `activation` if these were asked for."
    )
    raw_score: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `length_control`, what `score` is without it.",
    )
    probability: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `calibrated`: that the response is acceptable.",
    )
    probability_interval: tuple[float, float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Beside `probability`: what it is if the response isn't acceptable, and if it "
        "is (Venn-Abers). It is wide where few labels are near.",
    )
    absolute: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `calibrated`, where the target's calibration has it: the reward on one "
        "scale for all prompts, the expected e of Thurstone's P(a ≻ b) = ½ (1 + erf(e_a − e_b)). 0 "
        "is the mean response to a prompt, or the mean reference answer.",
    )
    uncertainty: Uncertainty | None = Field(
        default=None,
        description="Of an ensemble, and of one model that says itself how sure it is; else null.",
    )
    members: dict[str, float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Each member's reward by its name, if `include` has 'members'.",
    )
    attributes: dict[str, float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Each attribute's raw number by name, or each part of a composite.",
    )
    steps: list[float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Each step's score, of a process reward model.",
    )
    first_error: int | None = Field(
        default=None,
        exclude_if=_absent,
        description="The first step whose score is below the threshold, from 0.",
    )
    steps_std: list[float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="The population's standard deviation of the members' scores of each step, of "
        "a process reward model with several.",
    )
    gated: bool | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a composite with a gate: whether the gate's part was too low, so that the "
        "score is the gate's `otherwise`.",
    )
    tokens: list[int] | None = Field(
        default=None,
        exclude_if=_absent,
        description="The token ids that the first member read, if `include` has 'tokens'.",
    )
    n_tokens: int = Field(
        description="Tokens of the item as the first member reads it, template included."
    )
    truncated: bool = Field(description="Whether something of it was cut.")
    error: ItemError | None = Field(
        default=None, exclude_if=_absent, description="Why there is no score."
    )


class ScoreEntry(Reward, Entry):
    """One item's reward, or its rewards by `targets`.

    Without `model` these have no `score` beside them: `n_tokens` is the first target's, and
    `truncated` says whether any of them read less than the whole item.
    """

    rewards: dict[str, Reward] | None = Field(
        default=None,
        exclude_if=_absent,
        description="What each of the request's `targets` makes of the item, by the name that it "
        "was asked by. An item with an `error` has none.",
    )


class TargetRevision(Answer):
    """Which target answered to a name."""

    model: str = Field(description="The target, by its own name.")
    revision: str = Field(description="A digest of all that decides its scores.")
    calibration: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="The id of its calibration, where one was used.",
    )
    calibrations: dict[str, str] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a composite: those of its parts that its gate is by.",
    )


class ScoreAnswer(Envelope):
    """Answer of `POST /score`."""

    object: Literal["score.list"] = Field(default="score.list", description="Always this.")
    targets: dict[str, TargetRevision] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of the request's `targets`: who answered, by the name that was asked.",
    )
    data: list[ScoreEntry] = Field(description="An entry an item, in the request's order.")


class CompareEntry(Entry):
    """One comparison; what `include` adds is a list with an element for each response.

    For two responses `margin` is r_0 − r_1 and `probability` P(0 ≻ 1); for more, both compare the
    first of `ranking` with the second. A model that only compares gives no margin, and as scores
    the mean probabilities of winning; its preferences may go in circles, which is `undecided`. A
    lexicographic composite does the same with probabilities of 1, 0 and, for a tie, 0.5.
    """

    scores: list[float] = Field(
        default=[], description="Each response's score, as `/score` would answer it."
    )
    raw_scores: list[float] | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `length_control`, what `scores` are without it.",
    )
    margin: float | None = Field(
        default=None,
        description="r_0 − r_1, the mean over members of the difference of raw rewards; by "
        "another `rule` the difference of the raw rewards that this makes.",
    )
    margin_std: float | None = Field(
        default=None,
        description="The population's standard deviation of the members' margins; of one model "
        "with an `uncertainty` √(variance_0 + variance_1), as of independent scores; else null.",
    )
    probability: float | None = Field(
        default=None,
        description="P(0 ≻ 1): by the target's calibration, of `margin`; without one, or with a "
        "`temperature`, the mean over members of sigmoid((r_0 − r_1) / temperature).",
    )
    agreement: float | None = Field(
        default=None,
        description="The share of members whose own margin is on the winner's side; null for one "
        "model, or without a winner.",
    )
    winner: int | None = Field(
        default=None,
        description="The index of the highest reward; null where |margin| ≤ tie_margin.",
    )
    undecided: bool | None = Field(
        default=None,
        description="Without a winner, or |margin| ≤ margin_std: the members differ by as much as "
        "they see. With `abstain_at`: |margin| ≤ that error rate's threshold.",
    )
    ranking: list[int] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of more than two responses: their indices, best first.",
    )
    probabilities: list[list[float]] | None = Field(
        default=None, exclude_if=_absent, description="Of more than two: P(i ≻ j) at [i][j]."
    )
    members: list[dict[str, float]] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    attributes: list[dict[str, float]] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    steps: list[list[float]] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    first_error: list[int | None] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    tokens: list[list[int]] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    gated: list[bool] | None = Field(
        default=None, exclude_if=_absent, description="As in /score, by response."
    )
    n_tokens: list[int] = Field(default=[], description="Tokens of each response with its prompt.")
    truncated: list[bool] = Field(default=[], description="Whether something was cut, by response.")


class CompareAnswer(Envelope):
    """Answer of `POST /compare`."""

    object: Literal["compare.list"] = Field(default="compare.list", description="Always this.")
    data: list[CompareEntry] = Field(description="An entry a comparison, in the request's order.")


class Candidate(Answer):
    """One response that was picked."""

    index: int = Field(description="Its place among the group's candidates.")
    response: str | None = Field(default=None, description="Its text.")
    steps: list[str] | None = Field(
        default=None, exclude_if=_absent, description="Its steps, where it was sent in steps."
    )
    score: float = Field(description="Its mean score, after `activation`.")
    selection_score: float = Field(
        description="What the rule makes of the members' raw scores; candidates are ranked by it."
    )


class Ranked(Answer):
    """One response's place, and what `include` adds to it."""

    index: int = Field(description="Its place among the group's candidates.")
    score: float = Field(description="Its mean score, after `activation`.")
    raw_score: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `length_control`, what `score` is without it.",
    )
    std: float | None = Field(
        default=None,
        description="The population's standard deviation of the members' raw scores; of one model "
        "that of its `uncertainty`, else null.",
    )
    selection_score: float = Field(
        description="What the rule makes of the members' raw scores; candidates are ranked by it."
    )
    members: dict[str, float] | None = Field(
        default=None, exclude_if=_absent, description="As in /score."
    )
    attributes: dict[str, float] | None = Field(
        default=None, exclude_if=_absent, description="As in /score."
    )
    steps: list[float] | None = Field(default=None, exclude_if=_absent, description="As in /score.")
    first_error: int | None = Field(default=None, exclude_if=_absent, description="As in /score.")
    tokens: list[int] | None = Field(default=None, exclude_if=_absent, description="As in /score.")
    gated: bool | None = Field(default=None, exclude_if=_absent, description="As in /score.")


class BestOfNEntry(Entry):
    """One group. `best` is null when `min_score` isn't met."""

    best: Candidate | None = Field(default=None, description="The first of `top`.")
    top: list[Candidate] = Field(
        default=[],
        description="The first `top_k` of the ranking, less those whose mean raw score is below "
        "`min_score`.",
    )
    ranking: list[Ranked] = Field(
        default=[],
        description="Every candidate, best first: by selection_score, then by mean score, then by "
        "index.",
    )
    n: int = Field(description="How many candidates there are.")
    kl: float | None = Field(
        default=None,
        description="ln n − (n − 1) / n, in nats: the bound on KL(best-of-n ‖ policy) where n "
        "samples "
        "of one policy were sent.",
    )
    expected_best: dict[int, float] = Field(
        default={},
        description="The expected raw score of the best of k candidates, for k = 1, 2, 4, … and n: "
        "Σ_i C(n − 1 − i, k − 1) / C(n, k) · s_i over the mean raw scores s_0, s_1, … in "
        "the order of the ranking.",
    )
    confidence: float | None = Field(
        default=None,
        description="The share of members whose own first choice is the best; null for one model.",
    )
    undecided: bool | None = Field(
        default=None,
        exclude_if=_absent,
        description="With `abstain_at`: whether the first of the ranking isn't reliably better "
        "than the second, |margin| ≤ that error rate's threshold.",
    )
    ties: list[int] = Field(
        default=[],
        description="The indices that equal the best in selection score and mean score, where "
        "there are several.",
    )
    truncated: list[bool] = Field(
        default=[], description="Whether something was cut, by candidate."
    )


class BestOfNAnswer(Envelope):
    """Answer of `POST /best-of-n`."""

    object: Literal["best_of_n.list"] = Field(default="best_of_n.list", description="Always this.")
    data: list[BestOfNEntry] = Field(description="An entry a group, in the request's order.")


class TokenizeEntry(Entry):
    """What the model sees of one item."""

    input_ids: list[int] = Field(default=[], description="The token ids that the model reads.")
    token_type_ids: list[int] | None = Field(
        default=None, description="Segment ids, where there are others than 0."
    )
    tokens: list[str] = Field(
        default=[], description="The tokens as the vocabulary spells them, one for each id."
    )
    read_position: int | None = Field(default=None, description="The last of `read_positions`.")
    read_positions: list[int] = Field(
        default=[], description="Every token that a head reads; empty where it reads their mean."
    )
    read_token: str | None = Field(default=None, description="The token at `read_position`.")
    text: str | None = Field(default=None, description="The rendered text, before tokenization.")
    n_tokens: int = Field(default=0, description="How many tokens there are.")
    truncated: bool = Field(default=False, description="Whether something of the item was cut.")


class TokenizeAnswer(Answer):
    """Answer of `POST /tokenize`."""

    object: Literal["tokenize.list"] = Field(default="tokenize.list", description="Always this.")
    model: str = Field(description="The target that was asked, by its name.")
    data: list[TokenizeEntry] = Field(description="An entry an item, in the request's order.")


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

    target: str = Field(description="The served model or ensemble.")
    attribute: str | None = Field(
        default=None, exclude_if=_absent, description="The attribute that is taken; else its score."
    )
    weight: float = Field(description="What it is multiplied by.")
    mean: float | None = Field(
        default=None, exclude_if=_absent, description="Subtracted from it first."
    )
    std: float | None = Field(
        default=None, exclude_if=_absent, description="It is divided by this then."
    )
    tolerance: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a 'lexicographic' composite: how far below the best of it is alike.",
    )
    alike_up_to: float | None = Field(
        default=None,
        exclude_if=_absent,
        description="Of a calibrated tolerance: the probability that the better one is better, up "
        "to which two are alike. `tolerance` is the margin that has it.",
    )
    calibration: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="The id of the calibration that its tolerance or the gate is by.",
    )


class GateEntry(Answer):
    """A composite's gate: below `at_least` of a part the score is `otherwise`."""

    part: str = Field(description="The part that is looked at.")
    at_least: float = Field(description="What it has to reach.")
    otherwise: float = Field(description="The score where it doesn't.")
    calibrated: bool | None = Field(
        default=None,
        exclude_if=_absent,
        description="Whether that is the part's probability of being acceptable.",
    )


class CalibrationEntry(Answer):
    """What was fitted for a target, and how well it does on what was held out."""

    id: str = Field(description="What answers name.")
    created: str = Field(description="When it was fitted.")
    source: str = Field(description="The file of labelled pairs.")
    counts: dict[str, int] = Field(description="Prompts, pairs and labels, fitted and held out.")
    method: Literal["none", "temperature", "platt", "isotonic"] | None = Field(
        default=None,
        description="How `probability` of `/compare` comes from a margin; 'none': as without a "
        "calibration, which no method was better than. Null where it has no pairs.",
    )
    calibrated: bool = Field(description="Whether `/score` takes `calibrated`.")
    absolute: Literal["prompt", "reference"] | None = Field(
        default=None,
        description="What is 0 of `absolute`: the mean response to a prompt, or reference answers; "
        "null where there is none.",
    )
    error_rates: list[float] = Field(description="What `abstain_at` may be.")
    covariate: str | None = Field(
        default=None, description="What `length_control` is by; null where there is none."
    )


class ModelEntry(Answer):
    """One served target, OpenAI-style; Infinity's client reads `stats` to `capabilities`."""

    id: str = Field(description="The name that requests use.")
    stats: Stats | None = Field(default=None, description="How busy it is.")
    object: Literal["model"] = Field(default="model", description="Always this.")
    created: int = Field(description="Unix time at which the server started.")
    owned_by: Literal["assay"] | None = Field(
        default=None,
        exclude_if=_absent,
        description="Under /v1, where OpenAI has it; elsewhere Infinity's client takes its own.",
    )
    backend: Literal["torch"] = Field(default="torch", description="Always this.")
    capabilities: list[Literal["classify", "rerank"]] = Field(
        default=[], description="What Infinity's client may ask of it."
    )
    kind: Literal["model", "ensemble", "policy", "composite"] = Field(
        description="One model, several members combined, a language model's likelihoods, or parts "
        "combined by a rule."
    )
    state: str = Field(description="'ready', or why it isn't.")
    default: bool = Field(description="Whether it answers requests that name no model.")
    revision: str | None = Field(
        default=None, description="A digest of all that decides its scores."
    )
    members: list[str] = Field(default=[], description="Its models, by name, where it has several.")
    architecture: str | None = Field(default=None, description="transformers' class of the trunk.")
    device: str | None = Field(
        default=None, description="Where it runs, such as 'cpu' or 'cuda:0'."
    )
    dtype: str | None = Field(default=None, description="What it is computed in.")
    quantized: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="'int8' or 'fp8', where its linear layers are rounded to it.",
    )
    forward: str | None = Field(default=None, description="'packed' or 'padded'.")
    attention: str | None = Field(
        default=None,
        description="'native' (CPU), 'varlen' (flash attention), 'tree' (a kernel in Triton), "
        "'blocks' (torch's products), or 'eager' (padded).",
    )
    warnings: list[str] = Field(
        default=[],
        description="Why it runs slower than it could; by how much quantizing moves its scores.",
    )
    parameters: int | None = Field(default=None, description="How many it has, over all members.")
    shared_base: list[str] | None = Field(
        default=None,
        exclude_if=_absent,
        description="The models whose adapters lie on one copy of a base with its own, itself "
        "among them: `parameters` of the base are in memory once for all.",
    )
    max_tokens: int | None = Field(default=None, description="The limit of an item in tokens.")
    batch_tokens: int | None = Field(
        default=None, description="How many tokens a batch has at most, as it is now."
    )
    summary: str | None = Field(default=None, description="The card's own words.")
    statistics: dict[str, float] | None = Field(
        default=None, description="The stored `mean` and `std`, which `normalize` uses."
    )
    calibration: CalibrationEntry | None = Field(
        default=None, exclude_if=_absent, description="What `assay calibrate` fitted for it."
    )
    attributes: list[str] = Field(
        default=[], description="What answers have as `attributes`; a composite's are its parts."
    )
    parts: dict[str, PartEntry] | None = Field(
        default=None, exclude_if=_absent, description="A composite's parts, by name."
    )
    gate: GateEntry | None = Field(
        default=None, exclude_if=_absent, description="A composite's gate, if it has one."
    )
    rule: Literal["min", "lexicographic"] | None = Field(
        default=None,
        exclude_if=_absent,
        description="A composite's rule, where it isn't the weighted sum of its parts.",
    )
    scores_steps: bool = Field(default=False, description="A process reward model.")
    only_compares: bool = Field(
        default=False,
        description="It has no score for one response, but compares: not for /score.",
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

    object: Literal["list"] = Field(default="list", description="Always this.")
    data: list[ModelEntry] = Field(description="Every served target.")


class ModelDetail(ModelEntry):
    """Answer of `GET /models/{name}`: the entry with its whole card."""

    card: dict[str, Any] = Field(description="What the card says, as in card.toml.")


class ReadyAnswer(Answer):
    """Answer of `GET /health/ready` and `GET /health`."""

    ready: bool = Field(description="Whether every model can score.")
    reasons: list[str] = Field(default=[], description="Why not.")
    models: dict[str, str] = Field(default={}, description="The state of each target by its name.")


class ErrorBody(Answer):
    """The inside of every native error."""

    code: str = Field(description="One of the list of errors; it stays.")
    message: str = Field(description="What to do.")
    param: str | None = Field(
        default=None,
        exclude_if=_absent,
        description="The path of the field that is at fault, such as inputs[0].response.",
    )
    retryable: bool = Field(
        description="Whether the same request may be answered later; `Retry-After` says when."
    )


class ErrorAnswer(Answer):
    """Every native error."""

    error: ErrorBody = Field(description="What went wrong.")
    request_id: str = Field(description="As in the log and in `X-Request-Id`.")
