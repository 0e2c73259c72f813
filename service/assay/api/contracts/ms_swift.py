"""ms-swift's InferClient: a completion whose message's content is the reward, a bare number.

Its requests don't differ from those of NVIDIA's clients, which want "reward:<float>" (`nvidia`), so
it has paths of its own, for `base_url="http://HOST:8000/swift/v1"`. Of a process reward model the
content is a list of the steps' scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from assay.api.contracts.contract import Ask, Contract, created
from assay.api.contracts.nvidia import ChatCompletion, completion, problem, read
from assay.api.request_context import context_of

if TYPE_CHECKING:
    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler

router = APIRouter(include_in_schema=False)


@router.get("/swift/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """List what is served: the client asks before its first completion."""
    names = context_of(request).scorer.served.targets.by_name
    entry = {"object": "model", "created": created(), "owned_by": "assay"}
    return {"object": "list", "data": [{"id": name, **entry} for name in names]}


def _complete(ask: Ask, body: ChatCompletion) -> Handler[dict[str, Any]]:
    call, judged = yield from read(ask, body)
    return completion(ask, call, judged, _content(judged), {})


def _content(judged: ScoredItem) -> float | list[float]:
    steps = judged.verdict.steps
    return judged.reward if steps is None else list(steps)


CONTRACTS = (
    Contract("ms-swift.chat", ("/swift/v1/chat/completions",), ChatCompletion, _complete, problem),
)
