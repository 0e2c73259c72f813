"""AReaL: `RLVRWorkflow(reward_fn="assay.client.adapters.areal.reward_fn")`, or what `reward` gives.

AReaL hands over the policy's templated text, so prompt and completion are scored as one text.
`verbatim=False` takes the column `messages` instead, for the model's own template; then `turn_end`
should say what the policy's turns end with. AReaL takes a silence of 15 s for a reward of 0; here
it is an error after 14 s, which begin when one of AReaL's processes is free. An unscorable
completion has the reward `unscorable`, 0 unless given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.client.adapters import environment, items
from assay.client.adapters.function import Function
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls

_DEFAULTS: dict[str, Any] = {"verbatim": True, "unscorable": 0.0, "deadline_s": 14.0}


def reward(url: Urls, **options: Unpack[Options]) -> Function[float]:
    """Return a reward function that AReaL can send to its worker processes."""
    return Function(_reward, Reward.of(url, options, **_DEFAULTS))


def reward_fn(
    prompt: str,
    completions: str,
    prompt_ids: Sequence[int] | None = None,
    completion_ids: Sequence[int] | None = None,
    **data: Any,
) -> float:
    """Return the reward of one completion; options come from the environment."""
    configured = environment.reward(**_DEFAULTS)
    return _reward(configured, prompt, completions, prompt_ids, completion_ids, **data)


def _reward(
    reward: Reward,
    /,
    prompt: str,
    completions: str,
    prompt_ids: Sequence[int] | None = None,  # noqa: ARG001  handed over by place
    completion_ids: Sequence[int] | None = None,  # noqa: ARG001
    **data: Any,
) -> float:
    question = prompt if reward.verbatim else data.get("messages") or prompt
    return reward.numbers(reward.ask([items.pair(reward, question, completions)]))[0]
