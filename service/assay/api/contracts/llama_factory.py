"""LLaMA-Factory's reward server: `reward_model` as a URL (src/llamafactory/api/protocol.py).

`messages` are whole templated texts. The client names no model that is served here: whatever it
sends is echoed, and the default target answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.api.contracts.contract import Ask, Body, Contract, each, told
from assay.api.contracts.vllm import refuse_limit
from assay.items import Text
from assay.reward import ensemble
from assay.scoring.offload import offload

if TYPE_CHECKING:
    from assay.errors import AssayError


class ScoreEvaluation(Body):
    """`max_length` may not be below the model's own limit."""

    model: str | None = ""
    messages: list[str]
    max_length: int | None = None


async def _evaluate(ask: Ask, wanted: ScoreEvaluation) -> dict[str, Any]:
    refuse_limit(ask, None, wanted.max_length, "max_length")
    scores: list[float] = []
    if wanted.messages:
        texts = wanted.messages
        sources = await offload(len(texts), lambda: [Text(text) for text in texts])
        _, _, judged = await ask.read(sources, each("messages"))
        scores = [ensemble.mean(one.rewards) for one in judged]
    return {
        "id": f"scoreeval-{ask.request_id}",
        "object": "score.evaluation",
        "model": wanted.model or "",
        "scores": scores,
    }


def _problem(error: AssayError, request_id: str) -> tuple[int, dict[str, Any]]:
    del request_id
    return error.status, {"detail": told(error)}


CONTRACTS = (
    Contract(
        "llama-factory.score", ("/v1/score/evaluation",), ScoreEvaluation, _evaluate, _problem
    ),
)
