"""The golden answers against what the contracts' own servers and clients say of theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import GOLDEN, KINDS, exchanges, golden, replay
from tests.contract.stated import STATED, fits

if TYPE_CHECKING:
    from tests.http.processes import Server


def test_every_golden_answer_has_a_form() -> None:
    """And every form an answer."""
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == sorted(STATED)


@pytest.mark.parametrize("name", STATED)
def test_a_golden_answer_has_the_fields_that_its_contract_states(name: str) -> None:
    """Their types and order, from the contract rather than from what was answered once."""
    fits(STATED[name], golden(name)["answer"], KINDS)


@pytest.mark.parametrize("name", exchanges("openai"))
def test_answers_are_like_the_golden(served: Server, name: str) -> None:
    """What OpenAI's clients list."""
    replay(served, name)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vllm-classify", lambda answer: answer["data"][0].update(num_classes="1")),
        ("vllm-classify", lambda answer: answer["data"][0].pop("label")),
        ("vllm-classify", lambda answer: answer.update(more=1)),
        ("vllm-classify", lambda answer: answer.update(id=answer.pop("id"))),
        ("vllm-pooling", lambda answer: answer["data"][0].update(data="<score>")),
        ("tei-rerank", lambda answer: answer[1].update(score="<tokens>")),
        ("rerank-cohere-v1", lambda answer: answer.update(id=answer.pop("id"))),
        ("systemone-questions", lambda answer: answer["answers"].pop("tone")),
        ("openai-models", lambda answer: answer["data"][3].pop("owned_by")),
        ("openrlhf-empty", lambda answer: answer["scores"].append("<score>")),
        ("systemone-questions", lambda answer: answer["answers"]["tone"]["legend"].clear()),
        ("tei-rerank", lambda answer: answer.clear()),
    ],
)
def test_a_wrong_golden_answer_is_found(name: str, change: Any) -> None:
    """A type, a field, or the order of two is another, or nothing is there."""
    answer = golden(name)["answer"]
    change(answer)

    with pytest.raises(AssertionError):
        fits(STATED[name], answer, KINDS)
