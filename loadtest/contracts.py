"""How each kind of server wants its items and gives its scores. JSON only; nothing is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from loadtest.workloads import Request


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer: an entry an item; `tokens` is None where the server doesn't count them."""

    scores: list[float]
    tokens: list[int] | None = None


class Dialect(Protocol):
    """One server's way to ask."""

    name: str
    path: str
    needs_text: bool  # the caller applies the chat template

    def body(self, request: Request) -> bytes:
        """Return the body that asks for a request's scores."""
        ...

    def read(self, body: bytes) -> Scored:
        """Return what an answer says.

        Raises:
            ValueError: It isn't such an answer.
        """
        ...


class Assay:
    """`POST /score` of Assay."""

    name, path, needs_text = "assay", "/score", False

    def body(self, request: Request) -> bytes:
        """Return prompts and responses; the server applies the template."""
        return _pairs(request)

    def read(self, body: bytes) -> Scored:
        """Return scores and counts of tokens."""
        data = _field(body, "data")
        return Scored([entry["score"] for entry in data], [entry["n_tokens"] for entry in data])


class Plain:
    """`POST /score` of `peers/plain.py`."""

    name, path, needs_text = "plain", "/score", False

    def body(self, request: Request) -> bytes:
        """Return prompts and responses; the server applies the template."""
        return _pairs(request)

    def read(self, body: bytes) -> Scored:
        """Return scores."""
        return Scored(_field(body, "scores"))


class Vllm:
    """`POST /classify` of vLLM, with the raw logit as the score."""

    name, path, needs_text = "vllm", "/classify", True

    def body(self, request: Request) -> bytes:
        """Return texts that already went through the checkpoint's template."""
        texts = [item.text for item in request]
        return json.dumps(
            {"model": "peer", "input": texts, "use_activation": False, "add_special_tokens": False}
        ).encode()

    def read(self, body: bytes) -> Scored:
        """Return scores in the order of the input."""
        data = sorted(_field(body, "data"), key=lambda entry: entry["index"])
        return Scored([entry["probs"][0] for entry in data])


_DIALECTS: tuple[Dialect, ...] = (Assay(), Vllm(), Plain())
DIALECTS = {contract.name: contract for contract in _DIALECTS}


def _pairs(request: Request) -> bytes:
    items = [{"prompt": item.prompt, "response": item.response} for item in request]
    return json.dumps({"inputs": items}).encode()


def _field(body: bytes, name: str) -> Any:
    answer = json.loads(body)
    if not isinstance(answer, dict) or name not in answer:
        raise ValueError(f"the answer has no '{name}'")
    return answer[name]
