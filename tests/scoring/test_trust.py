"""--trust-remote-code end to end: the worker runs what is trusted at its revision, and no other."""

import numpy as np
import pytest

from assay.engine.template import Conversation
from assay.errors import CheckpointError, SettingsError
from assay.scoring.scorer import Scorer
from assay.settings import Settings, load
from assay.telemetry.metrics import Metrics
from tests import resolving
from tests.engine import own_code
from tests.http import checkpoints

ITEM = Conversation(
    ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."})
)


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """A tiny checkpoint with code of its own, and the file that running it makes."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return own_code.bring(checkpoints.build(tmp_path / "mine"))


async def score(*models, trusted=()):
    """Return the item's reward by each model, from worker processes."""
    settings = Settings(
        models=tuple(map(str, models)), trust_remote_code=trusted, compile="off", batch_tokens=256
    )
    async with Scorer(settings, Metrics()) as scorer:
        await scorer.ready()
        found = [await scorer.score(scorer.target(one.name), [ITEM]) for one in models]
    return [float(one.items[0].numbers[0][0, 0]) for one in found]


def revision(folder):
    """Return the revision that Assay reports."""
    return resolving.load(Settings(models=(str(folder),))).default.revision


async def test_a_trusted_model_is_served_by_its_own_code(brought, tmp_path):
    """At the right revision, with the code's numbers, beside a model that has none."""
    folder, marker = brought
    plain = checkpoints.build(tmp_path / "plain")

    mine, known = await score(folder, plain, trusted=(f"mine@{revision(folder)}",))

    assert marker.exists()
    assert mine == pytest.approx(2 * known + 1, abs=1e-5)
    assert np.isfinite(known)


@pytest.mark.parametrize(
    ("trusted", "message"),
    [
        ((), "isn't run; --trust-remote-code"),
        (("other@0123456789ab",), "isn't run; --trust-remote-code"),
        (("mine@0123456789ab",), "trusted at revision 0123456789ab, and here is"),
    ],
    ids=["nobody", "another model", "another revision"],
)
async def test_what_is_not_trusted_is_not_run(brought, trusted, message):
    """The start is refused with the reason."""
    folder, marker = brought

    with pytest.raises(CheckpointError, match=message):
        await score(folder, trusted=trusted)

    assert not marker.exists()


@pytest.mark.parametrize("entry", ["mine", "mine@main", "mine@0123", "@0123456789ab"])
def test_trust_without_a_revision_is_refused(entry):
    """A branch moves, and a few digits don't pin anything."""
    with pytest.raises(SettingsError, match="trust_remote_code"):
        load({"trust_remote_code": entry})
