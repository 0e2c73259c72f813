"""Every family that a card covers, against its own published rule: alone, shuffled and shared."""

from __future__ import annotations

import math
import random
import shutil

import pytest
import torch

from assay.cards.catalogue import embedded
from tests.families import attributes, contrast, pairwise, process, scalar
from tests.families.serving import Served

torch.set_num_threads(1)
LAYOUTS = {
    layout.name: layout
    for module in (scalar, attributes, process, contrast, pairwise)
    for layout in module.LAYOUTS
}
POINTWISE = [name for name, layout in LAYOUTS.items() if layout not in pairwise.LAYOUTS]
PAIRWISE = [layout.name for layout in pairwise.LAYOUTS]
CLOSE = 1e-5


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return the function from a layout's name to its checkpoint, served; made once."""
    made = {}

    def get(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name) / LAYOUTS[name].card
            folder.mkdir()
            LAYOUTS[name].build(folder)
            shutil.copy(embedded() / LAYOUTS[name].card / "card.toml", folder)
            made[name] = folder, Served(folder)
        return made[name]

    return get


def agree(verdict, expected):
    """Assert that a target's reading is what the reference says."""
    if expected.members is not None:
        assert verdict.members == pytest.approx(expected.members, abs=CLOSE)
    elif expected.score is not None:
        assert verdict.rewards == pytest.approx([expected.score], abs=CLOSE, rel=CLOSE)
    if expected.std is not None:
        assert math.sqrt(verdict.spread.variance) == pytest.approx(expected.std, rel=CLOSE)
    if expected.steps_std is not None:
        assert verdict.steps_std == pytest.approx(expected.steps_std, abs=CLOSE)
    if expected.steps is not None:
        assert verdict.steps == pytest.approx(expected.steps, abs=CLOSE)
    for name, value in expected.attributes.items():
        assert verdict.attributes[name] == pytest.approx(value, abs=CLOSE, rel=CLOSE)


@pytest.mark.parametrize("name", POINTWISE)
def test_a_family_has_its_reference_s_scores(served, name):
    """Alone and in any company, kept prefixes and all."""
    folder, server = served(name)
    layout = LAYOUTS[name]
    expected = [layout.reference(folder, item) for item in layout.items]
    assert len({one.score for one in expected}) > 1
    alone = server.verdicts(layout.items, together=False)
    for verdict, one in zip(alone, expected, strict=True):
        agree(verdict, one)
    order = list(range(len(layout.items))) * 2
    for seed in range(2):
        random.Random(seed).shuffle(order)
        verdicts = server.verdicts([layout.items[place] for place in order])
        for place, verdict in zip(order, verdicts, strict=True):
            assert verdict == alone[place]


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_model_that_compares_has_its_reference_s_probabilities(served, name):
    """Each response against each other, both orders averaged."""
    folder, server = served(name)
    layout = LAYOUTS[name]
    for item in layout.items:
        expected = layout.reference(folder, item).probabilities
        found = server.matrix(item["prompt"], item["responses"])
        for row, wanted in zip(found, expected, strict=True):
            assert row == pytest.approx(wanted, abs=CLOSE)
