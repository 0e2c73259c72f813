"""its_hub: outcome and process reward models for best-of-n, beam search and particle filtering.

Particle filtering wants scores from 0 to 1. Those of process reward models with a card are; of
another model `activation="sigmoid"` makes them so. An unscorable response has the score
`unscorable`: unless given, 0 from a process reward model, else lower than any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.client.adapters import items
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Item, Options, Urls

UNSCORABLE = 0.0


def reward(url: Urls, **options: Unpack[Options]) -> OutcomeRewardModel:
    """Return an outcome reward model: `BestOfN(reward(url))`."""
    return OutcomeRewardModel(Reward.of(url, options, unscorable=-math.inf))


def process_reward(
    url: Urls, *, separator: str | None = "\n\n", **options: Unpack[Options]
) -> ProcessRewardModel:
    """Return a process reward model; `aggregate` says how steps become one score.

    As `prm` of `BeamSearch`, `ParticleFiltering` and their kin.
    `separator` parts a response's steps; with None a response is one step, as its_hub's
    aggregation method "model".
    """
    return ProcessRewardModel(Reward.of(url, options, unscorable=UNSCORABLE), separator)


@dataclass(frozen=True)
class OutcomeRewardModel:
    """As `AbstractOutcomeRewardModel`, before and since its_hub 1.0.

    `score(prompt, response)` or `score(prompt, responses)` before; `score(messages)` with one
    conversation or several since.
    """

    reward: Reward

    def score(
        self, messages: Any, response: str | Sequence[str] | None = None, **_: Any
    ) -> float | list[float]:
        """Return a score, or one for each of several."""
        inputs, is_one = _outcomes(self.reward, messages, response)
        scores = self.reward.numbers(self.reward.ask(inputs))
        return scores[0] if is_one else scores

    async def ascore(
        self, messages: Any, response: str | Sequence[str] | None = None, **_: Any
    ) -> float | list[float]:
        """Return what `score` does."""
        inputs, is_one = _outcomes(self.reward, messages, response)
        scores = self.reward.numbers(await self.reward.aask(inputs))
        return scores[0] if is_one else scores


@dataclass(frozen=True)
class ProcessRewardModel:
    """As `AbstractProcessRewardModel`: scores for responses so far, one or several."""

    reward: Reward
    separator: str | None

    def score(
        self, prompt_or_messages: Any, response_or_responses: str | Sequence[str]
    ) -> float | list[float]:
        """Return a response's score, or those of several."""
        inputs, is_one = self._asked(prompt_or_messages, response_or_responses)
        scores = self.reward.numbers(self.reward.ask(inputs))
        return scores[0] if is_one else scores

    async def ascore(
        self, prompt_or_messages: Any, response_or_responses: str | Sequence[str]
    ) -> float | list[float]:
        """Return what `score` does."""
        inputs, is_one = self._asked(prompt_or_messages, response_or_responses)
        scores = self.reward.numbers(await self.reward.aask(inputs))
        return scores[0] if is_one else scores

    def _asked(self, prompt: Any, response: str | Sequence[str]) -> tuple[list[Item], bool]:
        is_one = isinstance(response, str)
        responses = [response] if isinstance(response, str) else response
        before = _conversation(prompt)
        return [items.solution(before, response, self.separator) for response in responses], is_one


def _outcomes(
    reward: Reward, messages: Any, response: str | Sequence[str] | None
) -> tuple[list[Item], bool]:
    """Return what is asked about, and whether one score is wanted."""
    if response is None:
        is_one = not isinstance(messages, list | tuple) or not _holds_conversations(messages)
        several = [messages] if is_one else messages
        return [{"messages": items.turns(_conversation(chat))} for chat in several], is_one
    is_one = isinstance(response, str)
    responses = [response] if isinstance(response, str) else response
    before = _conversation(messages)
    return [items.pair(reward, before, response) for response in responses], is_one


def _holds_conversations(messages: Sequence[Any]) -> bool:
    return not messages or isinstance(messages[0], list | tuple) or _is_wrapped(messages[0])


def _conversation(messages: Any) -> Any:
    """Return a prompt or messages out of its_hub's `ChatMessages`."""
    return messages.to_chat_messages() if _is_wrapped(messages) else messages


def _is_wrapped(messages: Any) -> bool:
    return hasattr(messages, "to_chat_messages")
