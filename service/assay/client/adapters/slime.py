"""slime: `--custom-rm-path assay.client.adapters.slime.custom_rm`, with or without `--group-rm`.

Options come from the environment; `--rm-url`, if given, is the URL. With `--reward-key` or
`--eval-reward-key` a reward is an object with that key, as slime wants it. The tools in a
sample's metadata, where `--tool-key` puts them, go along; with `verbatim` the prompt has them. An
unscorable sample has the reward `unscorable`, 0 unless given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from assay.client.adapters import environment, items
from assay.client.adapters.function import AsyncFunction
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls

Given: TypeAlias = "float | dict[str, float]"
UNSCORABLE = 0.0


def reward(url: Urls, **options: Unpack[Options]) -> AsyncFunction[Given | list[Given]]:
    """Return a `custom_rm` with its options.

    In a module of your own: `custom_rm = slime.reward("http://localhost:8000")`.
    """
    return AsyncFunction(_judged, Reward.of(url, options, unscorable=UNSCORABLE))


async def custom_rm(args: Any, sample: Any, **_: Any) -> Given | list[Given]:
    """Return a sample's reward, or those of a list of samples."""
    return await _judged(_configured(args), args, sample)


async def group_rm(args: Any, samples: Sequence[Any], **_: Any) -> list[Given]:
    """Return the rewards of a group."""
    return await _all_judged(_configured(args), args, samples)


async def _judged(reward: Reward, /, args: Any, sample: Any, **_: Any) -> Given | list[Given]:
    if isinstance(sample, list):
        return await _all_judged(reward, args, sample)
    return (await _all_judged(reward, args, [sample]))[0]


async def _all_judged(reward: Reward, /, args: Any, samples: Sequence[Any]) -> list[Given]:
    inputs = [
        items.pair(reward, sample.prompt, sample.response, tools=_tools(sample))
        for sample in samples
    ]
    rewards = reward.numbers(await reward.aask(inputs))
    candidates = (getattr(args, name, None) for name in ("reward_key", "eval_reward_key"))
    keys = [key for key in candidates if key]
    return [dict.fromkeys(keys, number) if keys else number for number in rewards]


def _tools(sample: Any) -> Any:
    """Return the tools that the data has for a sample, where slime itself looks for them."""
    return (getattr(sample, "metadata", None) or {}).get("tools")


def _configured(args: Any) -> Reward:
    url = getattr(args, "rm_url", None)
    return environment.reward({"url": url} if url else {}, unscorable=UNSCORABLE)
