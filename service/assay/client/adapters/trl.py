"""TRL: `GRPOTrainer`, `RLOOTrainer` and their async kin, as `reward_funcs`.

Conversations go to the model's own template, as TRL's model rewards do, with their calls of tools
and, if the data has such columns, `tools` and `documents`. Prompts that are strings
are joined with their completions into one text, as TRL does; `verbatim=False` makes turns of them.
What can't be scored is None, which TRL leaves out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.client.adapters import items
from assay.client.adapters.function import AsyncFunction, Function
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls


def reward(url: Urls, **options: Unpack[Options]) -> Function[list[float | None]]:
    """Return a reward function: `GRPOTrainer(reward_funcs=reward(url, model="judge"), ...)`."""
    return Function(_rewards, Reward.of(url, options, verbatim=True))


def async_reward(url: Urls, **options: Unpack[Options]) -> AsyncFunction[list[float | None]]:
    """Return the same as an async function, which TRL runs beside others."""
    return AsyncFunction(_async_rewards, Reward.of(url, options, verbatim=True))


def _rewards(
    reward: Reward,
    /,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    tools: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    inputs = items.pairs(reward, prompts, completions, tools=tools, documents=documents)
    return reward.rewards(reward.ask(inputs))


async def _async_rewards(
    reward: Reward,
    /,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    tools: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
    **_: Any,
) -> list[float | None]:
    inputs = items.pairs(reward, prompts, completions, tools=tools, documents=documents)
    return reward.rewards(await reward.aask(inputs))
