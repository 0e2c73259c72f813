"""The contract that `README.md` shows is one, and its handler runs without a loop."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from assay.api.contracts.contract import Contract
from assay.items import Text
from assay.scoring.call import ScoredItem
from assay.scoring.interpretation import TargetScore

if TYPE_CHECKING:
    from collections.abc import Callable

    from assay.items import Source
    from assay.scoring.driver import Handler

PAGE = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
REWARDS = {"good": 1.5, "bad": -2.0}


class Reader:
    """An `Ask` whose target knows some texts."""

    def read(
        self, sources: list[Source], path: Callable[[int], str], *, model: str | None
    ) -> Handler[tuple[Any, Any, list[ScoredItem]]]:
        """Return each text's reward."""
        assert [path(place) for place in range(len(sources))] == ["texts[0]", "texts[1]"]
        texts = [one.text for one in sources if isinstance(one, Text)]
        judged = [ScoredItem(None, TargetScore((REWARDS[text],))) for text in texts]
        return SimpleNamespace(target=model), None, judged
        yield


@pytest.fixture(scope="module")
def example() -> Contract:
    """The contract of the page."""
    (written,) = re.findall(r"```python\n(\"\"\"Example.*?)```", PAGE, flags=re.DOTALL)
    module: dict[str, Any] = {"__name__": "example"}
    exec(compile(written, "README.md", "exec"), module)
    (contract,) = module["CONTRACTS"]
    assert isinstance(contract, Contract)
    return contract


def test_the_example_knows_its_bodies(example: Contract) -> None:
    """By the fields that every one of them has."""
    assert example.needs == {"texts"}
    assert example.takes({"texts": ["good"]})
    assert not example.takes({"texts": "good"})


def test_the_examples_handler_is_run_without_a_loop(example: Contract) -> None:
    """Nothing of it is awaited but what it asks for."""
    body = example.request.model_validate({"texts": ["good", "bad"]})
    with pytest.raises(StopIteration) as end:
        next(example.answer(Reader(), body))  # type: ignore[arg-type]  it reads, as an Ask does
    assert end.value.value == {"grades": [1.5, -2.0]}
