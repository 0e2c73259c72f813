"""NVIDIA's reward NIM: `/v1/chat/completions` with the assistant turn to score as the last.

`content` is "helpfulness:1.6,..." of a model with attributes, "reward:<float>" of any other, and
`logprobs.content` has the same numbers as {token, logprob}. ms-swift's InferClient asks in the same
words and wants a bare number: it has paths of its own (`ms_swift`). What it looks for in errors,
`object` and `message`, is here, too. A conversation that ends with another
turn, as clients of generative judges send it, and a stream are refused in words that say so.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from assay import wire
from assay.api.contracts import shapes
from assay.api.contracts.contract import Ask, Contract, created, only, unheeded
from assay.api.contracts.turns import ROLES, Templated, Turn, conversation, inputs_of
from assay.api.contracts.vllm import Whole, refuse_limit, specials
from assay.errors import InvalidField

if TYPE_CHECKING:
    from collections.abc import Mapping

    from assay.errors import AssayError
    from assay.scoring.call import Call, ScoredItem
    from assay.scoring.driver import Handler


def _no_form(value: object) -> object:
    if isinstance(value, dict) and value.get("type", "text") != "text":
        raise ValueError("the answer is a reward, in this contract's own form; leave it out")
    return value


def _no_logprobs(value: object) -> object:
    if value is not None and value is not False:
        raise ValueError("a reward model gives no probabilities of the prompt; leave it out")
    return value


class ChatCompletion(Whole, Templated):
    """`model` and `messages`; what governs sampling is not needed."""

    messages: list[Turn] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None  # choices
    response_format: Annotated[Any, AfterValidator(_no_form)] = None
    functions: list[Any] | None = None  # of old
    chat_template: Annotated[
        Any, unheeded("the model's own chat template, or its card's, is used")
    ] = None
    add_special_tokens: bool | None = None
    truncate_prompt_tokens: int | None = Field(default=None, ge=-1)
    truncation_side: Literal["left"] | None = None
    cache_salt: wire.CacheSalt | None = None
    prompt_logprobs: Annotated[Any, AfterValidator(_no_logprobs)] = None


def _complete(ask: Ask, body: ChatCompletion) -> Handler[dict[str, Any]]:
    call, judged = yield from read(ask, body)
    numbers = _numbers(call, judged)
    listed: list[dict[str, Any]] = [
        {"token": name, "logprob": number, "bytes": None, "top_logprobs": []}
        for name, number in numbers.items()
    ]
    content = ",".join(f"{name}:{number!r}" for name, number in numbers.items())
    return completion(ask, call, judged, content, {"logprobs": {"content": listed}})


def read(ask: Ask, body: ChatCompletion) -> Handler[tuple[Call, ScoredItem]]:
    """Let a target read the conversation.

    Raises:
        InvalidField: It asks for text to be generated, or for what would be another's reward.
    """
    refuse_limit(ask, body.model, body.truncate_prompt_tokens, "truncate_prompt_tokens")
    _check_asks_for_a_reward(ask, body)
    if body.functions:
        raise InvalidField("send 'tools' instead of 'functions'", param="functions")
    turns = [
        turn.model_copy(update={"role": ROLES.get(turn.role, turn.role)}) for turn in body.messages
    ]
    talk = conversation(turns, "messages", inputs_of(body))
    source = replace(talk, specials=specials(body.add_special_tokens, "card"))
    call, _, (judged,) = yield from ask.read(
        [source], only("messages"), model=body.model, cache_salt=body.cache_salt
    )
    return call, judged


def completion(
    ask: Ask, call: Call, judged: ScoredItem, content: object, beside: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the completion whose message has the content; `beside` is what its choice has, too."""
    tokens = judged.n_tokens
    return {
        "id": f"chatcmpl-{ask.request_id}",
        "object": "chat.completion",
        "created": created(),
        "model": call.target.name,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                **beside,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


def _check_asks_for_a_reward(ask: Ask, body: ChatCompletion) -> None:
    """Refuse what clients of generative judges send: there is no text to generate.

    Raises:
        InvalidField: The last turn isn't the assistant's, or the answer is to be streamed.
    """
    asks_for_text = body.messages[-1].role in wire.NO_ANSWERS
    if not asks_for_text and not body.stream:
        return
    name = ask.target(body.model).name
    mend = (
        "end 'messages' with the assistant turn to score"
        if asks_for_text
        else "a reward comes at once, so leave 'stream' out"
    )
    raise InvalidField(
        f"'{name}' is a scalar reward model: it scores the assistant turn that ends a conversation "
        f"and writes no text; {mend}. To have text judged in words, set 'model' or the client's "
        "base URL to a generative judge; none is served here",
        param="messages" if asks_for_text else "stream",
    )


def _numbers(call: Call, judged: ScoredItem) -> Mapping[str, float]:
    attributes = judged.verdict.attributes if call.target.kind == "model" else None
    return attributes or {"reward": judged.reward}


def problem(error: AssayError, _: str) -> tuple[int, dict[str, Any]]:
    """Return an error as OpenAI has it, and beside it as ms-swift does."""
    detail = shapes.fields(error, shapes.openai_type(error), error.code)
    return error.status, {"error": detail, "object": "error", "message": error.message}


CONTRACTS = (
    Contract("nvidia.chat", ("/v1/chat/completions",), ChatCompletion, _complete, problem),
)
