"""Paths that several contracts share, some with a native route: whose a body is that comes there.

One table. A body is of the first contract whose sign it bears; of the one without a sign, or the
native route, where it bears none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assay.api.body import read
from assay.api.contracts import tensors, unread
from assay.api.contracts.codec import JSON
from assay.errors import MalformedBody

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from fastapi import Request, Response

    from assay.api.body import Body
    from assay.api.contracts.codec import Form
    from assay.api.contracts.contract import Contract

    Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Sign:
    """Top-level keys of which a body has one, and those of which it has none.

    "list[].key" is a key of the objects in a list.
    """

    any_of: frozenset[str]
    none_of: frozenset[str] = frozenset()

    def is_in(self, keys: set[str]) -> bool:
        """Whether a body with these keys bears it."""
        return bool(self.any_of & keys) and not self.none_of & keys


def _sign(any_of: str, none_of: str = "") -> Sign:
    return Sign(frozenset(any_of.split()), frozenset(none_of.split()))


_VOYAGE = _sign("top_k truncation", none_of="texts top_n")
# Native items may have documents, too.
_VLLM_SCORE = _sign("queries documents text_1 text_2 data_1 data_2", none_of="inputs prompt")

# Contracts by their names in metrics. The last one's errors are those of a body that can't be read.
SHARED: Mapping[str, Sequence[tuple[str, Sign | None]]] = {
    "/": (("tei.rerank", _sign("texts")), ("tei.predict", None)),
    "/classify": (
        ("infinity.classify", _sign("raw_scores")),
        ("sglang.classify", _sign("text input_ids conv")),
        ("vllm.classify", None),
    ),
    "/compare": (
        ("oat.compare", _sign("batch_prompt")),
        ("nemo-gym.compare", _sign("response_objs")),
    ),
    "/invocations": (
        ("tei.rerank", _sign("texts")),
        ("tei.predict", _sign("inputs")),
        ("rerank", _sign("query")),
        ("vllm.score", _VLLM_SCORE),
        ("vllm.invocations", None),
    ),
    "/rerank": (
        ("tei.rerank", _sign("texts")),
        ("infinity.rerank", _sign("raw_scores")),
        ("voyage.rerank", _VOYAGE),
        ("rerank", None),
    ),
    "/score": (("vllm.score", _VLLM_SCORE),),
    "/tokenize": (("vllm.tokenize", _sign("prompt messages", none_of="response steps")),),
    "/v1/decisions": (
        (
            "sglang.decisions",
            _sign("questions[].question prompt_format_version return_prompt_token_ids"),
        ),
        ("decisions", None),
    ),
    "/v1/rerank": (
        ("voyage.rerank", _VOYAGE),
        ("sglang.rerank", _sign("instruct")),
        ("rerank", None),
    ),
    "/v1/score": (
        ("sglang.score", _sign("query label_token_ids")),
        ("vllm.score", _VLLM_SCORE),
        ("sglang.score", _sign("items")),  # a query of vLLM's may have items, too
    ),
}


def endpoint(
    contracts: Sequence[tuple[Contract, Sign | None]],
    native: Endpoint | None,
    others: Sequence[Contract] = (),
) -> Endpoint:
    """Return what answers a path of these contracts, the native route among them.

    `others` are those of other paths, for bodies that came to the wrong one.
    """
    keys = sorted({key for _, sign in contracts if sign for key in sign.any_of})
    signs = re.compile(("|".join(f'"{re.escape(key)}"\\s*:' for key in keys)).encode())
    forms = {form for contract, _ in contracts for form in contract.forms}
    last, _ = contracts[-1]

    async def answer(request: Request) -> Response:
        body = await read(request)
        raw = body.raw or b""
        form = next((candidate for candidate in forms if candidate.has(raw)), JSON)
        if tensors.BINARY in forms and tensors.HEADER in request.headers:
            form = tensors.headed(request.headers[tensors.HEADER])
        # Parsed once, by the native route, where no contract's key is anywhere in it.
        if native is not None and form is JSON and body.raw is not None and not signs.search(raw):
            return await native(request)
        meant = [(contract, sign) for contract, sign in contracts if form in contract.forms]
        contract, content = await _chosen(meant, body, form, has_native=native is not None)
        if contract is None and native is not None:
            return await native(request)
        return await (contract or last).respond(request, content, form, others)

    return answer


async def _chosen(
    meant: Sequence[tuple[Contract, Sign | None]], body: Body, form: Form, *, has_native: bool
) -> tuple[Contract | None, dict[str, Any]]:
    """Return the contract that a body is of, and its content."""
    try:
        content = await body.parsed(form.read, lambda content: content)
    except (MalformedBody, ValueError) as error:
        if has_native:
            return None, {}
        if isinstance(error, MalformedBody):
            raise
        raise MalformedBody(f"the body is not valid {form.name}: {error}") from None
    if not isinstance(content, dict):
        if has_native:
            return None, {}
        raise MalformedBody("the body: send a JSON object")
    keys = _keys(content)
    for contract, sign in meant:
        if sign is None or sign.is_in(keys):
            return contract, content
    return None, content


def _keys(content: Mapping[str, Any]) -> set[str]:
    """Return a body's keys, and as "list[].key" those of the first object in each list.

    A null input beside another isn't there: clients of typed languages write all that they know.
    """
    inputs = unread.INPUTS & content.keys()
    absent = {name for name in inputs if content[name] is None}
    absent = absent if absent < inputs else set()
    firsts = {
        name: values[0] for name, values in content.items() if isinstance(values, list) and values
    }
    inner = ((name, first) for name, first in firsts.items() if isinstance(first, dict))
    return {
        *(content.keys() - absent),
        *(f"{name}[].{key}" for name, first in inner for key in first),
    }
