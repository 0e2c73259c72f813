"""LLaMA-Factory's reward server: `reward_model` as a URL (src/llamafactory/api/protocol.py).

`messages` are whole templated texts. The client names no model that is served here: whatever it
sends is echoed, and the default target answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.api.contracts import shapes
from assay.api.contracts.contract import Ask, Body, Contract, each
from assay.api.contracts.vllm import refuse_limit
from assay.items import Text

if TYPE_CHECKING:
    from assay.scoring.driver import Handler


class ScoreEvaluation(Body):
    """`max_length` may not be below the model's own limit."""

    model: str | None = ""
    messages: list[str]
    max_length: int | None = None


def _evaluate(ask: Ask, body: ScoreEvaluation) -> Handler[dict[str, Any]]:
    refuse_limit(ask, None, body.max_length, "max_length")
    scores: list[float] = []
    if body.messages:
        sources = [Text(text) for text in body.messages]
        _, _, judged = yield from ask.read(sources, each("messages"))
        scores = [item.reward for item in judged]
    return {
        "id": f"scoreeval-{ask.request_id}",
        "object": "score.evaluation",
        "model": body.model or "",
        "scores": scores,
    }


CONTRACTS = (
    Contract(
        "llama-factory.score",
        ("/v1/score/evaluation",),
        ScoreEvaluation,
        _evaluate,
        shapes.sentence,
    ),
)
