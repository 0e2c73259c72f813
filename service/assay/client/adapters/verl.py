"""verl: `custom_reward_function.path` is this file, `name` one of its functions.

`reward_kwargs` are the options, `url` among them; what isn't given comes from the environment.
verl hands over the response alone, so the prompt is taken from `extra_info`: what is under
`prompt_key`, or else under "prompt" (messages or a string) or "question". An unscorable response
has the reward `unscorable`, 0 unless given.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from assay import errors
from assay.client.adapters import environment, items
from assay.client.adapters.function import AsyncFunction, Function
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls

UNSCORABLE = 0.0
_PROMPT_KEYS = ("prompt", "question")
_OWN = ("reward_router_address", "reward_model_tokenizer")  # verl's, for models it serves itself


def reward(
    url: Urls, *, prompt_key: str | None = None, **options: Unpack[Options]
) -> Function[float]:
    """Return a `compute_score` with its options.

    In a file of your own: `compute_score = verl.reward("http://localhost:8000", model="judge")`.
    """
    compute_score = partial(_score, prompt_key=prompt_key)
    return Function(compute_score, Reward.of(url, options, unscorable=UNSCORABLE))


def async_reward(
    url: Urls, *, prompt_key: str | None = None, **options: Unpack[Options]
) -> AsyncFunction[float]:
    """Return the same as an async function."""
    compute_score = partial(_async_score, prompt_key=prompt_key)
    return AsyncFunction(compute_score, Reward.of(url, options, unscorable=UNSCORABLE))


def batch_reward(
    url: Urls, *, prompt_key: str | None = None, **options: Unpack[Options]
) -> Function[list[float]]:
    """Return the same for the reward manager `batch`."""
    compute_score = partial(_scores, prompt_key=prompt_key)
    return Function(compute_score, Reward.of(url, options, unscorable=UNSCORABLE))


def compute_score(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    prompt_key: str | None = None,
    **options: Any,
) -> float:
    """Return the reward of one response."""
    return _score(
        _configured(options), data_source, solution_str, ground_truth, extra_info, prompt_key
    )


async def compute_score_async(
    data_source: Any,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    prompt_key: str | None = None,
    **options: Any,
) -> float:
    """Return the reward of one response; verl has many under way."""
    return await _async_score(
        _configured(options), data_source, solution_str, ground_truth, extra_info, prompt_key
    )


def compute_scores(
    data_sources: Sequence[Any],
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],
    extra_infos: Sequence[Mapping[str, Any]],
    *,
    prompt_key: str | None = None,
    **options: Any,
) -> list[float]:
    """Return the rewards of a batch, for the reward manager `batch`."""
    return _scores(
        _configured(options), data_sources, solution_strs, ground_truths, extra_infos, prompt_key
    )


def _score(
    reward: Reward,
    /,
    data_source: Any,  # noqa: ARG001  verl hands it over by name
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    prompt_key: str | None = None,
    **_: Any,
) -> float:
    item = items.pair(reward, _prompt(extra_info, prompt_key), solution_str)
    return reward.numbers(reward.ask([item]))[0]


async def _async_score(
    reward: Reward,
    /,
    data_source: Any,  # noqa: ARG001
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any] | None = None,
    prompt_key: str | None = None,
    **_: Any,
) -> float:
    item = items.pair(reward, _prompt(extra_info, prompt_key), solution_str)
    return reward.numbers(await reward.aask([item]))[0]


def _scores(
    reward: Reward,
    /,
    data_sources: Sequence[Any],  # noqa: ARG001
    solution_strs: Sequence[str],
    ground_truths: Sequence[Any],  # noqa: ARG001
    extra_infos: Sequence[Mapping[str, Any]],
    prompt_key: str | None = None,
    **_: Any,
) -> list[float]:
    prompts = [_prompt(extra_info, prompt_key) for extra_info in extra_infos]
    return reward.numbers(reward.ask(items.pairs(reward, prompts, solution_strs)))


def _configured(options: Mapping[str, Any]) -> Reward:
    reward_options = {name: value for name, value in options.items() if name not in _OWN}
    return environment.reward(reward_options, unscorable=UNSCORABLE)


def _prompt(extra_info: Mapping[str, Any] | None, key: str | None) -> Any:
    keys = _PROMPT_KEYS if key is None else (key,)
    info = extra_info or {}
    for name in keys:
        if info.get(name) is not None:
            return info[name]
    names = " or ".join(f"'{name}'" for name in keys)
    raise errors.InvalidField(
        f"extra_info has no {names}: the reward model needs the prompt beside the response; add "
        "it to the data's extra_info, or name its key in `prompt_key`",
        param="extra_info",
    )
