"""slime's `--rm-type remote_rm`: one sample, one bare number (slime/rollout/rm_hub).

With `?reward_key=NAME` the answer is an object with that key, for `--reward-key NAME`. With
`?verbatim=true` a prompt that is a string is a templated text (`--apply-chat-template`), and is
scored as one text with its response.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.api import problems
from assay.api.dialects.contract import Ask, Body, Contract, only
from assay.api.dialects.turns import Prompt, Turn
from assay.engine.template import Conversation, Text
from assay.reward import ensemble

if TYPE_CHECKING:
    from assay.engine.template import Source


class Sample(Body):
    """`label` is sent along, and not needed."""

    prompt: Prompt
    response: str
    model: str | None = None


async def _reward(ask: Ask, wanted: Sample) -> float | dict[str, float]:
    source = _source(wanted, is_templated=ask.query.get("verbatim") == "true")
    _, _, judged = await ask.read([source], only("response"), model=wanted.model)
    reward = ensemble.mean(judged[0].rewards)
    key = ask.query.get("reward_key")
    return reward if key is None else {key: reward}


def _source(wanted: Sample, *, is_templated: bool) -> Source:
    if is_templated and isinstance(wanted.prompt, str):
        return Text(wanted.prompt + wanted.response)
    prompt = wanted.prompt
    asked = [Turn(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    turns = [*asked, Turn(role="assistant", content=wanted.response)]
    return Conversation(tuple(one.message() for one in turns))


CONTRACTS = (Contract("slime.reward", ("/reward",), Sample, _reward, problems.native),)
