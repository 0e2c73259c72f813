"""OAT's remote oracle: P(first wins) of pairs of candidates, and scores (oat/oracles/remote).

`/get_feedback` is where its client posts; `/compare`, shared with the native route, is told by
`batch_prompt`. The client sends MessagePack without saying so, and is answered in it; JSON is taken
as well, and what errors are spelt in. P is that of the native `/compare`, σ(r1 − r2) of a model and
the mean of it over an ensemble.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from assay.api import problems
from assay.api.contracts.codec import JSON, MESSAGE_PACK
from assay.api.contracts.contract import Ask, Body, Contract, each
from assay.errors import InvalidField
from assay.reward import preference
from assay.scoring import items

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler

Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class Feedback(Body):
    """Candidates for a preference, or, without any, responses for scores; one for each prompt."""

    alternatives: ClassVar = ("batch_candidates", "batch_response")
    batch_prompt: list[str]
    batch_candidates: list[Pair] = Field(default=[])
    batch_response: list[str] = Field(default=[])
    model: str | None = None


def _compare(ask: Ask, body: Feedback) -> Handler[dict[str, list[float]]]:
    return {"batch_first_win_prob": (yield from _first_wins(ask, body))}


def _feedback(ask: Ask, body: Feedback) -> Handler[dict[str, list[float]]]:
    if body.batch_candidates or not body.batch_response:
        return {"batch_score": [], "batch_first_win_prob": (yield from _first_wins(ask, body))}
    _check(body, body.batch_response, "batch_response")
    pairs = zip(body.batch_prompt, body.batch_response, strict=True)
    sources = items.sources([(prompt, [response]) for prompt, response in pairs])
    _, _, judged = yield from ask.read(sources, each("batch_response"), model=body.model)
    scores = [item.reward for item in judged]
    return {"batch_score": scores, "batch_first_win_prob": []}


def _first_wins(ask: Ask, body: Feedback) -> Handler[list[float]]:
    _check(body, body.batch_candidates, "batch_candidates")
    groups: list[tuple[str, list[str]]] = list(
        zip(body.batch_prompt, body.batch_candidates, strict=True)
    )
    call = ask.call(body.model)
    if call.only_compares:
        _, matrices = yield from call.contest(groups, "batch_candidates")
        return [matrix[0][1] for matrix in matrices if isinstance(matrix, list)]
    _, judged = yield from ask.run(
        call, items.sources(groups), lambda place: f"batch_candidates[{place // 2}][{place % 2}]"
    )
    return [_probability(*pair) for pair in zip(judged[::2], judged[1::2], strict=True)]


def _probability(first: ScoredItem, second: ScoredItem) -> float:
    rows = [list(pair) for pair in zip(first.rewards, second.rewards, strict=True)]
    return preference.compare(rows).probability


def _check(body: Feedback, entries: Sequence[object], name: str) -> None:
    if len(entries) != len(body.batch_prompt):
        raise InvalidField(
            f"'{name}' has {len(entries)} entries for {len(body.batch_prompt)} prompts", param=name
        )


_FORMS = (JSON, MESSAGE_PACK)
CONTRACTS = (
    Contract(
        "oat.feedback", ("/get_feedback",), Feedback, _feedback, problems.native, forms=_FORMS
    ),
    Contract(
        "oat.compare",
        ("/compare",),
        Feedback,
        _compare,
        problems.native,
        _FORMS,
    ),
)
