"""What is around a backend, with one that needs no device."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from assay.backends.fake import FakeBackend
from assay.errors import ForwardFailed, NotReady
from assay.items import Ids
from assay.scoring.scorer import Scorer
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests.http import checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from assay.errors import AssayError
    from assay.items import TokenizedItem
    from assay.prompts.models import Model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of which the tokenizer alone is read."""
    return checkpoints.build(tmp_path_factory.mktemp("fake") / "tiny")


def score(item: TokenizedItem) -> float | AssayError:
    """Return the sum of an item's ids, or the error of those that begin with 5."""
    return ForwardFailed("five") if item.ids[0] == 5 else float(item.ids.sum())


def serving(folder: Path, made: list[FakeBackend], **settings: Any) -> Scorer:
    """Return a scorer whose backend a test can reach."""

    def make(models: Sequence[Model], on_change: Callable[[], None]) -> FakeBackend:
        made.append(FakeBackend(models, score, on_change=on_change))
        return made[-1]

    return Scorer(Settings(models=(str(folder),), **settings), Metrics(), make_backend=make)


async def test_results_of_any_backend_are_gathered_in_order(folder: Path) -> None:
    """With the errors among them, what they cost, and no device process at all."""
    items = [Ids((place, 1)) for place in range(200)]
    async with serving(folder, []) as scorer:
        await scorer.served.ready()
        outcome = await scorer.score(scorer.target(None), items)

    for place, one in enumerate(outcome.items):
        if place == 5:
            assert isinstance(one.error, ForwardFailed)
        else:
            assert one.numbers is not None
            assert one.numbers[0].tolist() == [[place + 1.0]]
    assert (outcome.tokens, outcome.computed_tokens) == (400, 400)
    assert scorer.admission.tokens == 0


async def test_a_backend_that_comes_back_is_waited_for_as_long_as_requests_are_held(
    folder: Path,
) -> None:
    """Its reason is the service's; beyond that time the answer is 503 with its state."""
    made: list[FakeBackend] = []
    async with serving(folder, made, hold_while_loading_s=0.2) as scorer:
        await scorer.served.ready()
        target = scorer.target(None)
        made[0].be("restarting")
        reasons = scorer.served.reasons()
        with pytest.raises(NotReady, match="'tiny' is restarting"):
            await scorer.score(target, [Ids((1, 2))])
        waiting = asyncio.create_task(scorer.score(target, [Ids((1, 2))]))
        await asyncio.sleep(0)
        made[0].be("ready")
        outcome = await waiting

    assert reasons == ["the fake backend is restarting"]
    assert outcome.items[0].error is None
