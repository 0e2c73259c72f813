"""NeMo Gym's genrm_compare: `/compare`, shared with the native route, told by `response_objs`.

Responses meet in a circle, each the next. `score_1` and `score_2` are raw rewards, of a model that
only compares the mean probabilities of winning; `ranking` is 6 − 5 P(first wins): 1 where the first
surely wins, 3.5 for a tie, 6 where the second does. `rewards` are then what Gym averages from
the scores. `principle` is taken and not needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from assay.api import problems
from assay.api.contracts.contract import Ask, Body, Contract, each, only
from assay.api.contracts.turns import Turn
from assay.reward import ensemble, preference, tournament
from assay.scoring import items

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay import wire
    from assay.scoring.call import Call
    from assay.scoring.driver import Handler

_NOTHING = "None"  # what Gym writes for a response without text


class Part(Body):
    """A piece of a message."""

    type: str = ""
    text: str | None = None


class Output(Body):
    """One of what a response has: reasoning, calls of tools, messages."""

    type: str = ""
    content: list[Part] | str | None = None

    def text(self) -> str:
        """Return what a message says."""
        if self.type != "message" or self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text or "" for part in self.content if part.type == "output_text")


class Response(Body):
    """A response as the Responses API has it."""

    output: list[Output] = Field(default=[])

    def text(self) -> str:
        """Return the final answer, without reasoning."""
        text = "".join(output.text() for output in self.output)
        return text if text.strip() else _NOTHING


class Said(Turn):
    """One turn of the conversation before the responses."""

    role: str = Field(default="user", min_length=1)


class Compare(Body):
    """Responses to one conversation."""

    conversation_history: list[Said] = Field(min_length=1)
    response_objs: list[Response]
    model: str | None = None


def _compare(ask: Ask, body: Compare) -> Handler[dict[str, Any]]:
    texts = [response.text() for response in body.response_objs]
    prompt = [turn.native("conversation_history") for turn in body.conversation_history]
    call = ask.call(body.model)
    if len(texts) < 2 and call.only_compares:
        return {"rewards": [0.5] * len(texts), "comparison_results": None, "metrics": None}
    rewards, wins = yield from _met(ask, call, prompt, texts)
    if len(texts) < 2:
        return {"rewards": rewards, "comparison_results": None, "metrics": None}
    return {
        "rewards": rewards,
        "comparison_results": _circle(rewards, wins),
        "metrics": {
            "mean_individual_score": ensemble.mean(rewards),
            "std_individual_score": ensemble.std(rewards),
            "tiebreak_usage_rate": _ties(rewards),
        },
    }


def _met(
    ask: Ask, call: Call, prompt: list[wire.Message], texts: list[str]
) -> Handler[tuple[list[float], Callable[[int, int], float]]]:
    """Return a reward for each response, and with what probability one beats another."""
    if call.only_compares:
        _, (matrix,) = yield from call.contest([(prompt, texts)], "response_objs")
        if not isinstance(matrix, list):
            raise matrix
        return tournament.scores(matrix), lambda i, j: matrix[i][j]
    sources = items.sources([(prompt, texts)])
    talk = only("conversation_history")
    _, judged = yield from ask.run(call, sources, each("response_objs"), talk)

    def wins(i: int, j: int) -> float:
        rows = [list(pair) for pair in zip(judged[i].rewards, judged[j].rewards, strict=True)]
        return preference.compare(rows).probability

    return [item.reward for item in judged], wins


def _circle(rewards: list[float], wins: Callable[[int, int], float]) -> list[dict[str, Any]]:
    count = len(rewards)
    return [
        {
            "response_i": i,
            "response_j": j,
            "judge_idx": 0,
            "score_1": rewards[i],
            "score_2": rewards[j],
            "ranking": 6 - 5 * wins(i, j),
        }
        for i, j in ((i, (i + 1) % count) for i in range(count))
    ]


def _ties(rewards: list[float]) -> float:
    following = [*rewards[1:], rewards[0]]
    return sum(map(float.__eq__, rewards, following)) / len(rewards)


CONTRACTS = (
    Contract(
        "nemo-gym.compare",
        ("/compare",),
        Compare,
        _compare,
        problems.native,
    ),
)
