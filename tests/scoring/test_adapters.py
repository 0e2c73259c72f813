"""An adapter's folder is served as it lies; what it lacks of config and tokenizer is its base's."""

import shutil

import pytest

from assay.cards.catalogue import embedded
from assay.items import Conversation
from assay.scoring.scorer import Scorer
from assay.settings import Settings
from assay.telemetry.metrics import Metrics
from tests import resolving
from tests.engine import test_adapter as adapters
from tests.fidelity import texts

ITEM = Conversation(
    ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."})
)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.fixture
def folder(tmp_path):
    """An adapter on a base with the starter's tokenizer."""
    adapter, base = adapters.make(tmp_path, vocabulary=texts.vocabulary())
    for file in (embedded() / "starter" / "member-1").glob("*token*"):
        shutil.copy(file, base)
    for file in (embedded() / "starter" / "member-1").glob("*.jinja"):
        shutil.copy(file, base)
    return adapter


async def test_an_adapter_is_served_as_peft_scores_it(folder):
    """By the path of its folder, from a worker process."""
    settings = Settings(models=(str(folder),), compile="off", batch_tokens=256)
    async with Scorer(settings, Metrics()) as scorer:
        await scorer.served.ready()
        target = scorer.served.targets.default
        (scored,) = (await scorer.score(target, [ITEM])).items
    expected = adapters.expected(folder, target.members[0].checkpoint.base, [scored.ids.copy()])
    assert scored.numbers[0][0] == pytest.approx(expected, abs=1e-5)


def test_the_revision_is_of_adapter_and_base(folder):
    """Another base, or another scale of the adapter, is another model."""
    settings = Settings(models=(str(folder),))
    revisions = [resolving.load(settings).default.revision]
    adapters.edit_config(folder, lora_alpha=8)
    revisions.append(resolving.load(settings).default.revision)
    base = resolving.load(settings).default.members[0].checkpoint.base
    config = base / "config.json"
    config.write_text(config.read_text().replace("}", " }", 1))
    revisions.append(resolving.load(settings).default.revision)
    assert len(set(revisions)) == 3
