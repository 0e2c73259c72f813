"""OpenRLHF: `--reward.remote_url` (before v0.10.2 `--remote_rm_url`) is this file.

Options come from the environment. A query is the whole templated text, and is scored as it stands.
`rewards` have all options applied; `scores`, which feed the filter over (0, 1), are the sigmoid of
the score. An unscorable query has the reward `unscorable`, 0 unless given.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from assay.client.adapters import environment
from assay.client.adapters.function import Function
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Options, Urls

UNSCORABLE = 0.0


def reward(url: Urls, **options: Unpack[Options]) -> Function[dict[str, Any]]:
    """Return a `reward_func` with its options.

    In a file of your own: `reward_func = openrlhf.reward("http://localhost:8000")`.
    """
    return Function(_rewards, Reward.of(url, options, unscorable=UNSCORABLE))


def reward_func(
    queries: Sequence[str],
    prompts: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    **_: Any,
) -> dict[str, Any]:
    """Return `rewards`, `scores` and `extra_logs` of queries."""
    return _rewards(environment.reward(unscorable=UNSCORABLE), queries, prompts, labels)


def _rewards(
    reward: Reward,
    /,
    queries: Sequence[str],
    prompts: Sequence[str] | None = None,  # noqa: ARG001  contained in the queries
    labels: Sequence[Any] | None = None,  # noqa: ARG001
    **_: Any,
) -> dict[str, Any]:
    torch = importlib.import_module("torch")
    entries = reward.ask([{"text": query} for query in queries])
    probable = reward.model_copy(
        update={"activation": "sigmoid", "clip": None, "length_penalty": 0.0}
    )
    return {
        "rewards": torch.tensor(reward.numbers(entries), dtype=torch.float32),
        "scores": torch.tensor(probable.numbers(entries), dtype=torch.float32),
        "extra_logs": {},
    }
