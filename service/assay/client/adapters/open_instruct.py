"""open-instruct: a verifier, found as a subclass of `VerifierFunction` under the reward's name.

In a module that is imported before training:

    Helpful = open_instruct.reward("http://localhost:8000", name="helpful", activation="sigmoid")

The query is no templated text: it has the prompt's turns as lines of "role: content", which are
taken apart again for the model's own template. What tools answer (`tool`, `environment` and the
like) is a turn where it follows the assistant's or another answer. open-instruct expects scores
from 0 to 1 and multiplies them; raw scores are not, hence the sigmoid. An unscorable prediction
has the score `unscorable`, 0 unless given.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, ClassVar

from assay.client.adapters import items
from assay.client.adapters.reward import Reward

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Unpack

    from assay.client.adapters.reward import Item, Options, Urls

_ANSWERS = ("tool", "environment", "function", "ipython")  # roles of what a tool answers
_ROLES = ("system", "developer", "user", "assistant", *_ANSWERS)
_BEFORE_ANSWERS = ("assistant", *_ANSWERS)
_TURN = re.compile(rf"^({'|'.join(_ROLES)}): ", re.MULTILINE)


def reward(url: Urls, *, weight: float = 1.0, **options: Unpack[Options]) -> type[Any]:
    """Return a class of verifiers; keep it, as open-instruct looks among the living."""
    home = importlib.import_module("open_instruct.ground_truth_utils")
    members = {
        "__module__": __name__,
        "reward": Reward.of(url, options, unscorable=0.0),
        "own_weight": weight,
        "result": home.VerificationResult,
    }
    return type("Assay", (_Verifier, home.VerifierFunction), members)


class _Verifier:
    """What stands before `VerifierFunction`."""

    reward: ClassVar[Reward]
    own_weight: ClassVar[float]
    result: ClassVar[type[Any]]

    def __init__(self, verifier_config: Any = None) -> None:
        begin: Any = super().__init__  # VerifierFunction's
        begin(self.reward.label, weight=self.own_weight, verifier_config=verifier_config)

    def __call__(
        self,
        tokenized_prediction: Sequence[int],  # noqa: ARG002  open-instruct's signature
        prediction: str,
        label: Any,  # noqa: ARG002
        query: str | None = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        inputs = [_item(self.reward, query or "", prediction)]
        return self.result(score=self.reward.numbers(self.reward.ask(inputs))[0])

    async def async_call(
        self,
        tokenized_prediction: Sequence[int],  # noqa: ARG002
        prediction: str,
        label: Any,  # noqa: ARG002
        query: str | None = None,
        *_: Any,
        **__: Any,
    ) -> Any:
        inputs = [_item(self.reward, query or "", prediction)]
        return self.result(score=self.reward.numbers(await self.reward.aask(inputs))[0])


def _item(reward: Reward, query: str, prediction: str) -> Item:
    turns = [] if reward.verbatim else _turns(query)
    return items.pair(reward, turns or query, prediction)


def _turns(query: str) -> list[dict[str, Any]]:
    """Return a query's turns; a query that doesn't begin with one has none."""
    begins = _begins(query)
    if not begins or begins[0].start():
        return []
    ends = [*(match.start() for match in begins[1:]), len(query)]
    return [
        items.spoken(match[1], query[match.end() : end].removesuffix("\n"))
        for match, end in zip(begins, ends, strict=True)
    ]


def _begins(query: str) -> list[re.Match[str]]:
    """Return where turns begin.

    Code and lists of settings have lines such as "function: f", so an answer of a tool is one only
    where one may stand.
    """
    begins: list[re.Match[str]] = []
    for match in _TURN.finditer(query):
        before = begins[-1][1] if begins else None
        if match[1] not in _ANSWERS or before in _BEFORE_ANSWERS:
            begins.append(match)
    return begins
