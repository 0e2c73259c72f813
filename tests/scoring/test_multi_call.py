"""Several targets in one request, around a backend that needs no device."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from assay.backends.fake import FakeBackend, FakeSession
from assay.errors import ForwardFailed, NotReady
from assay.items import Ids
from assay.scoring.scorer import Scorer
from assay.scoring.target_union import TargetUnion
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests.http import checkpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from assay.backends.backend import State
    from assay.items import TokenizedItem
    from assay.jobs import Job
    from assay.prompts.models import Model

FIVE, SIX = Ids((5, 1)), Ids((6, 1))


class Judges(FakeBackend):
    """Notes whom it was asked for; one of its models may be away, another fails on what is 5."""

    def __init__(self, models: Sequence[Model], **options: Any) -> None:
        super().__init__(models, lambda item: float(item.ids.sum()), **options)
        self.prepared: list[list[str]] = []
        self.ran: list[str] = []
        self.away = ""

    def state(self, model: Model) -> State:
        """Return whether that model is there."""
        return "restarting" if model.name == self.away else super().state(model)

    def open(self, job: Job) -> JudgesSession:
        """Return the session of a request."""
        return JudgesSession(job, self)


class JudgesSession(FakeSession):
    """One request; "frail" fails on an item that begins with 5."""

    def __init__(self, job: Job, judges: Judges) -> None:
        super().__init__(job, lambda item: float(item.ids.sum()))
        self._judges = judges

    async def prepare(self, models: Sequence[Model], sources: Sequence[Any]) -> Any:
        """Note the models."""
        self._judges.prepared.append([model.name for model in models])
        return await super().prepare(models, sources)

    def submit(self, model: Model, item: TokenizedItem, place: int) -> None:
        """Note the model."""
        self._judges.ran.append(model.name)
        if model.name == "frail" and item.ids[0] == 5:
            asyncio.get_running_loop().call_soon(self._job.settle, place, ForwardFailed("five"))
        else:
            super().submit(model, item, place)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two checkpoints of which the tokenizer alone is read."""
    sound = checkpoints.build(tmp_path_factory.mktemp("targets") / "sound")
    return sound, checkpoints.copy(sound, sound.with_name("frail"))


@pytest.fixture
async def scorer(folders: tuple[Path, Path]) -> AsyncIterator[Scorer]:
    """A scorer of "sound", "frail" and the two together."""
    settings = Settings(
        models=tuple(map(str, folders)),
        ensembles={"both": ("sound", "frail")},
        hold_while_loading_s=0,
    )
    async with Scorer(
        settings,
        Metrics(),
        make_backend=lambda models, on_change: Judges(models, on_change=on_change),
    ) as scorer:
        await scorer.served.ready()
        yield scorer


def union(scorer: Scorer, *names: str, required: Sequence[bool] = ()) -> TargetUnion:
    return TargetUnion.of([scorer.target(name) for name in names], required)


async def test_each_model_is_prepared_for_and_runs_once(scorer: Scorer) -> None:
    """Whatever targets have it; one request is rendered, admitted and answered."""
    outcome = await scorer.score(union(scorer, "both", "sound", "frail"), [SIX, SIX])

    (judges,) = scorer.served.backends
    assert isinstance(judges, Judges)
    assert judges.prepared == [["sound", "frail"]]
    assert sorted(judges.ran) == ["frail", "frail", "sound", "sound"]
    assert [len(items) for items in outcome.by_target] == [2, 2, 2]
    assert (outcome.tokens, outcome.target_tokens) == (8, [8, 4, 4])
    assert scorer.admission.tokens == 0


async def test_an_optional_target_fails_alone(scorer: Scorer) -> None:
    """Also where the first bad item ends the request: only a required target's does."""
    outcome = await scorer.score(
        union(scorer, "sound", "frail", required=(True, False)), [FIVE, SIX], stop_at_error=True
    )

    sound, frail = outcome.by_target
    assert [item.error for item in sound] == [None, None]
    assert [type(item.error) for item in frail] == [ForwardFailed, type(None)]


async def test_a_target_that_is_away_is_waited_for_only_if_it_is_required(scorer: Scorer) -> None:
    """Without it an optional one's items say so; where none is needed, one that is there is."""
    (judges,) = scorer.served.backends
    assert isinstance(judges, Judges)
    judges.away = "frail"

    for required in ((True, False), (False, False)):
        outcome = await scorer.score(union(scorer, "sound", "frail", required=required), [SIX])
        (sound,), (frail,) = outcome.by_target
        assert (sound.error, type(frail.error)) == (None, NotReady)
    with pytest.raises(NotReady, match="'frail' is restarting"):
        await scorer.score(union(scorer, "sound", "frail"), [SIX])
    with pytest.raises(NotReady, match="'frail' is restarting"):
        await scorer.score(union(scorer, "frail", "both", required=(False, False)), [SIX])
