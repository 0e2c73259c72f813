"""verifiers: rewards for rollouts, groups and traces.

`Rubric(funcs=[reward(url)])` and `Rubric(funcs=[group_reward(url)])` where there are rubrics; in
v1 a task's reward is `trace_reward(url)`, or `trace_fn` by its path, which is set up by the
environment. An unscorable rollout has the reward `unscorable`, 0 unless given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.client.adapters import environment, items
from assay.client.adapters.function import AsyncFunction
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls

UNSCORABLE = 0.0


def reward(url: Urls, **options: Unpack[Options]) -> AsyncFunction[float]:
    """Return a rubric's reward function for one rollout."""
    return AsyncFunction(_reward, Reward.of(url, options, unscorable=UNSCORABLE))


def group_reward(url: Urls, **options: Unpack[Options]) -> AsyncFunction[list[float]]:
    """Return a rubric's reward function for a group, asked for at once."""
    return AsyncFunction(_group_reward, Reward.of(url, options, unscorable=UNSCORABLE))


def trace_reward(url: Urls, **options: Unpack[Options]) -> AsyncFunction[float]:
    """Return a function of a trace, to be awaited in a task's `@vf.reward`."""
    return AsyncFunction(_trace_reward, Reward.of(url, options, unscorable=UNSCORABLE))


async def trace_fn(trace: Any) -> float:
    """Return a trace's reward: `fn = "assay.client.adapters.verifiers.trace_fn"`."""
    return await _trace_reward(environment.reward(unscorable=UNSCORABLE), trace)


async def _reward(reward: Reward, /, prompt: Any, completion: Any) -> float:
    inputs = [items.pair(reward, prompt, completion)]
    return reward.numbers(await reward.aask(inputs))[0]


async def _group_reward(
    reward: Reward, /, prompts: Sequence[Any], completions: Sequence[Any]
) -> list[float]:
    return reward.numbers(await reward.aask(items.pairs(reward, prompts, completions)))


async def _trace_reward(reward: Reward, /, trace: Any) -> float:
    inputs = [{"messages": items.turns(trace.messages)}]
    return reward.numbers(await reward.aask(inputs))[0]
