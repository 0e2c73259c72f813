"""Items that no list of a body's top level has are counted before anything is made of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from assay.api.contracts import CONTRACTS

TARGET = SimpleNamespace(members=[SimpleNamespace(facts=SimpleNamespace(padding=None))])
ASK: Any = SimpleNamespace(  # as much of one as a handler needs until it says its size
    call=lambda _: SimpleNamespace(only_compares=False),
    target=lambda _: TARGET,
    path={"model": "tiny"},
    headers={},
)
CHOICE = {"type": "choice", "instructions": "Which?", "question": "Which?"}
BODIES: dict[str, dict[str, Any]] = {
    "kserve.infer": {
        "inputs": [{"name": "input_ids", "shape": [40, 5], "datatype": "INT64", "data": b""}]
    },
    "tei.vertex": {"instances": [{"inputs": [["a"]] * 150}, {"query": "q", "texts": ["b"] * 50}]},
    "systemone": {
        "state": "s",
        "questions": {str(place): {**CHOICE, "criteria": {"a": None}} for place in range(200)},
    },
    "decisions": {
        "input": "i",
        "questions": [{**CHOICE, "choices": [{"value": str(one)} for one in range(200)]}],
    },
    "sglang.decisions": {
        "input": "i",
        "questions": [{**CHOICE, "id": "1", "options": [{"name": str(n)} for n in range(200)]}],
    },
}


@pytest.mark.parametrize("route", BODIES)
def test_a_handler_says_how_many_items_are_within(route: str) -> None:
    """Each of these has two hundred."""
    contract = next(one for one in CONTRACTS if one.route == route)
    handler = contract.answer(ASK, contract.request.model_validate(BODIES[route]))
    assert next(handler).items == 200
