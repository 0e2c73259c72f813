"""OpenRLHF's remote reward model: `--remote_rm_url`, all versions (openrlhf/cli/serve_rm.py).

`query` are whole templated texts. Old clients leave padding in them. `scores` feed a filter over
[0, 1], so they are σ(reward); `rewards` are raw. `extra_logs` must be numeric, and is empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from assay.api import problems
from assay.api.contracts.contract import Ask, Body, Contract, each
from assay.items import Text
from assay.reward.transform import sigmoid

if TYPE_CHECKING:
    from assay.scoring.driver import Handler


class GetReward(Body):
    """`prompts` and `labels` are sent along, and not needed."""

    query: list[str]
    prompts: Any = None
    model: str | None = None

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        sent = self.prompts if isinstance(self.prompts, list) else []
        if sent and len(sent) != len(self.query):
            raise ValueError(f"{len(sent)} 'prompts' don't go with {len(self.query)} in 'query'")
        return self


def _get_reward(ask: Ask, body: GetReward) -> Handler[dict[str, Any]]:
    if not body.query:  # sent where there are more servers than samples
        return {"rewards": [], "scores": [], "extra_logs": {}}
    padding = ask.target(body.model).members[0].facts.padding
    sources = [Text(padding.taken_off_text(text)) for text in body.query]
    _, _, judged = yield from ask.read(sources, each("query"), model=body.model)
    rewards = [item.reward for item in judged]
    return {"rewards": rewards, "scores": [sigmoid(reward) for reward in rewards], "extra_logs": {}}


CONTRACTS = (
    Contract("openrlhf.get_reward", ("/get_reward",), GetReward, _get_reward, problems.native),
)
