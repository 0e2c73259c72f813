"""--trust-remote-code end to end: the worker runs what is trusted to the letter, and no other."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager

import numpy as np
import pytest

from assay import scratch
from assay.cards import code
from assay.errors import CheckpointError, SettingsError
from assay.items import Conversation
from assay.scoring import inspection
from assay.scoring.scorer import Scorer
from assay.settings import Settings, load
from assay.telemetry.metrics import Metrics
from tests.engine import own_code
from tests.http import checkpoints

ITEM = Conversation(
    ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."})
)


OTHER = "0123456789abcdef" * 4


@pytest.fixture
def brought(tmp_path):
    """A tiny checkpoint with code of its own, and the file that running it makes."""
    return own_code.bring(checkpoints.build(tmp_path / "mine"))


@asynccontextmanager
async def serving(*models, trusted=()):
    """Load models in a worker process, and serve them."""
    settings = Settings(
        models=tuple(map(str, models)), trust_remote_code=trusted, compile="off", batch_tokens=256
    )
    async with Scorer(settings, Metrics()) as scorer:
        await scorer.served.ready()
        yield scorer


def copies():
    """Return the private folders that code is run from."""
    return [one for one in scratch.folder().iterdir() if one.name.startswith("code-")]


async def score(scorer, name):
    """Return the item's reward."""
    found = await scorer.score(scorer.target(name), [ITEM])
    return float(found.items[0].numbers[0][0, 0])


async def test_trusted_code_is_served_and_what_replaces_it_is_never_run(brought, tmp_path):
    """With the code's numbers; once the worker has died, its successor refuses other code."""
    folder, marker = brought
    plain = checkpoints.build(tmp_path / "plain")
    async with serving(folder, plain, trusted=(f"mine@{code.digest(folder)}",)) as scorer:
        mine, known = await score(scorer, "mine"), await score(scorer, "plain")

        assert marker.exists()
        assert mine == pytest.approx(2 * known + 1, abs=1e-5)
        assert np.isfinite(known)
        assert len(copies()) == 1

        marker.unlink()
        with (folder / "modeling_doubled.py").open("a") as file:
            file.write("\n# another line\n")
        (worker,) = scorer.served.backends[0].dispatchers
        os.kill(worker.worker_pid, signal.SIGKILL)
        async with asyncio.timeout(120):
            while not worker.refusal:  # noqa: ASYNC110  a plain attribute
                await asyncio.sleep(0.05)

        assert f"here is {code.digest(folder)}" in worker.refusal
        assert not marker.exists()


async def test_what_code_was_run_from_is_gone_once_it_is_not_served(brought):
    """A server that is reloaded again and again has one private copy, not one for each."""
    folder, _ = brought
    async with serving(folder, trusted=(f"mine@{code.digest(folder)}",)):
        assert len(copies()) == 1

    assert copies() == []


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        ((), "isn't run. Once you have read it"),
        ((f"other@{OTHER}",), "isn't run. Once you have read it"),
        ((f"mine@{OTHER}",), f"trusted at {OTHER}, and here is"),
        (("mine@0123456789ab",), "that is no pin"),
    ],
    ids=["nobody", "another model", "another digest", "its beginning"],
)
async def test_what_is_not_trusted_is_not_run(brought, trusted, message):
    """The start is refused with the reason, and with what to give once the code is read."""
    folder, marker = brought

    with pytest.raises(CheckpointError, match=message) as refused:
        async with serving(folder, trusted=trusted):
            pass

    assert f"@{code.digest(folder)}" in refused.value.message
    assert not marker.exists()


async def test_inspecting_says_how_to_trust_and_whether_that_would_do(brought):
    """The note has the option; a pin of something else is the problem that a start would have."""
    folder, marker = brought
    digest = code.digest(folder)

    for entry, problem in ((f"mine@{digest}", None), (f"mine@{OTHER}", "and here is")):
        found = await inspection.find(str(folder), Settings(trust_remote_code=(entry,)))

        assert f"--trust-remote-code mine@{digest}" in found.notes[-1]
        assert problem in found.problem.message if problem else found.problem is None

    assert not marker.exists()


@pytest.mark.parametrize("entry", ["mine", "mine@main", "mine@0123", "@0123456789ab"])
def test_trust_without_a_digest_is_refused(entry):
    """A branch moves, and a few digits are a slip of the hand."""
    with pytest.raises(SettingsError, match="trust_remote_code"):
        load({"trust_remote_code": entry})
