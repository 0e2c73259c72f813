"""reward_hub: what its outcome and process reward models are, answered by a server.

`max_input_tokens` and the like are taken and not used: the server's limits hold. An unscorable
conversation has the score `unscorable`: unless given, 0 from a process reward model, else lower
than any other.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.client.adapters import items
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay import wire
    from assay.client.adapters.reward import Item, Options, Urls

UNSCORABLE = 0.0
_OF_FULL_RESULTS = frozenset({"last", "min", "model", "prod"})  # reward_hub's AggregationMethod
_LEFT_OUT = "but steps are cut from its text alone and would be without it; leave it out"


def reward(url: Urls, **options: Unpack[Options]) -> OutcomeRewardModel:
    """Return an outcome reward model."""
    return OutcomeRewardModel(Reward.of(url, options, unscorable=-math.inf))


def process_reward(url: Urls, **options: Unpack[Options]) -> ProcessRewardModel:
    """Return a process reward model; `aggregate` is what a call without a method uses."""
    return ProcessRewardModel(Reward.of(url, options, unscorable=UNSCORABLE))


@dataclass(frozen=True)
class OutcomeRewardModel:
    """As `reward_hub.base.AbstractOutcomeRewardModel`."""

    reward: Reward

    def score(self, messages: Sequence[Any], **_: Any) -> float | list[float]:
        """Return a conversation's score, or those of several."""
        conversations = _conversations(messages)
        scores = self.reward.numbers(self.reward.ask(_whole(conversations)))
        return scores if conversations is messages else scores[0]

    async def ascore(self, messages: Sequence[Any], **_: Any) -> float | list[float]:
        """Return what `score` does."""
        conversations = _conversations(messages)
        scores = self.reward.numbers(await self.reward.aask(_whole(conversations)))
        return scores if conversations is messages else scores[0]


@dataclass(frozen=True)
class ProcessRewardModel:
    """As `reward_hub.base.AbstractProcessRewardModel`, and as its implementations.

    `score(question, responses)` and `score(messages)` with one conversation or several. Methods
    are `last` (the default), `prod`, `min`, and `model`, for which a response is one step. The
    server knows `mean`, too; a full result doesn't.
    """

    reward: Reward

    def score(
        self,
        messages: Any = None,
        responses: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return a score for each response, or all of its steps' with `return_full_prm_result`.

        Raises:
            ValueError: A full result is wanted, by a method that reward_hub doesn't have; or a
                conversation's last turn has more than text, such as `tool_calls`.
        """
        inputs, how = _in_steps(messages, responses, options)
        method = self._method(how, options)
        return self._read(inputs, self._by(method).ask(inputs), method, options)

    async def ascore(
        self,
        messages: Any = None,
        responses: Sequence[str] | None = None,
        **options: Any,
    ) -> list[Any]:
        """Return what `score` does."""
        inputs, how = _in_steps(messages, responses, options)
        method = self._method(how, options)
        return self._read(inputs, await self._by(method).aask(inputs), method, options)

    def _method(self, how: str | None, options: dict[str, Any]) -> str:
        method = how or self.reward.aggregate or "last"
        if options.get("return_full_prm_result") and method not in _OF_FULL_RESULTS:
            methods = ", ".join(sorted(_OF_FULL_RESULTS))
            raise ValueError(f"a full result has no method '{method}'; reward_hub knows {methods}")
        return method

    def _by(self, method: str) -> Reward:
        one_step = method == "model"
        return self.reward.model_copy(update={"aggregate": "last" if one_step else method})

    def _read(
        self,
        inputs: list[Item],
        entries: list[wire.ScoreEntry],
        method: str,
        options: dict[str, Any],
    ) -> list[Any]:
        if not options.get("return_full_prm_result", False):
            return self.reward.numbers(entries)
        home = importlib.import_module("reward_hub.base")
        return [
            home.PRMResult(scores=scores, aggregation_method=method)
            for scores in self.reward.steps(inputs, entries)
        ]


def _in_steps(
    messages: Any, responses: Sequence[str] | None, options: dict[str, Any]
) -> tuple[list[Item], str | None]:
    """Return what is asked about, and the aggregation method if one is named."""
    method = options.get("aggregation_method")
    how: str | None = getattr(method, "value", method)
    separator = None if how == "model" else options.get("step_sep", "\n\n")
    question = options.get("question") if messages is None else messages
    if responses is not None:
        return [items.solution(question, response, separator) for response in responses], how
    conversations = _conversations(question)
    return [
        items.solution(conversation[:-1], _said(conversation[-1]), separator)
        for conversation in conversations
    ], how


def _said(message: Any) -> str:
    """Return the text of the turn that steps are cut from.

    Raises:
        ValueError: The turn has something else, which steps would be without.
    """
    (turn,) = items.turns([message])
    if turn["role"] == "tool":
        raise ValueError("the last turn's role is 'tool'; steps are cut from what a model says")
    for name in turn:
        if name not in ("role", "content"):
            raise ValueError(f"the last turn has '{name}', {_LEFT_OUT}")
    return _text(turn["content"])


def _text(content: str | list[Any]) -> str:
    if isinstance(content, str):
        return content
    for place, part in enumerate(content):
        if not (isinstance(part, dict) and part.get("type") == "text" and "text" in part):
            raise ValueError(f"the last turn's content[{place}] isn't text, {_LEFT_OUT}")
    return "\n".join(part["text"] for part in content)  # as the server joins them


def _conversations(messages: Any) -> Any:
    """Return several conversations: those given, or the one given."""
    is_one = bool(messages) and not isinstance(messages[0], list | tuple)
    return [messages] if is_one else messages


def _whole(conversations: Sequence[Any]) -> list[Item]:
    return [{"messages": items.turns(conversation)} for conversation in conversations]
