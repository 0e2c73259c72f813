"""Anything that changes a score changes the revision under which it is answered."""

import shutil

import pytest

from assay.calibration import overlay
from assay.settings import Settings
from tests import resolving
from tests.http import checkpoints
from tests.scoring.fitted import fitted

CARD = "[score]\noutputs = ['reward']\n[statistics]\nmean = 0.25\nstd = 2.0\n"
PARTS = {"a": {"target": "one"}, "b": {"target": "other", "weight": 0.5}}
GATE = {"part": "a", "at_least": 0.0, "otherwise": -1.0}


def changed(**part):
    """Return the parts with the second one changed."""
    return {**PARTS, "b": {**PARTS["b"], **part}}


COMPOSITES = {
    "smallest": {"rule": "min", "parts": PARTS},
    "ordered": {"rule": "lexicographic", "parts": PARTS},
    "another order": {"rule": "lexicographic", "parts": dict(reversed(PARTS.items()))},
    "alike": {"rule": "lexicographic", "parts": PARTS | {"a": PARTS["a"] | {"tolerance": 0.5}}},
    "plain": {"parts": PARTS},
    "another weight": {"parts": changed(weight=0.1)},
    "an attribute": {"parts": changed(attribute="reward")},
    "normalized": {"parts": changed(normalize=True)},
    "another target": {"parts": changed(target="one")},
    "an ensemble": {"parts": changed(target="both")},
    "another name": {"parts": {"a": PARTS["a"], "c": PARTS["b"]}},
    "a gate": {"parts": PARTS, "gate": GATE},
    "another bar": {"parts": PARTS, "gate": {**GATE, "at_least": 0.1}},
    "another way out": {"parts": PARTS, "gate": {**GATE, "otherwise": -2.0}},
    "a calibrated gate": {"parts": PARTS, "gate": {**GATE, "calibrated": True}},
    "another calibration": {"parts": PARTS, "gate": {**GATE, "part": "b", "calibrated": True}},
    "calibrated alike": {
        "rule": "lexicographic",
        "parts": PARTS | {"a": PARTS["a"] | {"tolerance": 0.5, "calibrated": True}},
    },
    "another gate": {"parts": PARTS, "gate": {**GATE, "part": "b"}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two checkpoints of the same files under other names, with a card."""
    root = tmp_path_factory.mktemp("revisions")
    one = checkpoints.build(root / "one")
    (one / "card.toml").write_text(CARD)
    return one, shutil.copytree(one, root / "other")


def served(folders, **options):
    """Return what is served of the two, of both as an ensemble, and of composites."""
    models = tuple(map(str, folders))
    settings = {"models": models, "ensembles": {"both": ("one", "other")}, **options}
    return resolving.load(Settings(**settings))


@pytest.fixture(scope="module")
def calibrations(folders, tmp_path_factory):
    """A calibration of each of the two, of its own."""
    root = tmp_path_factory.mktemp("calibrations")
    for place, name in enumerate(("one", "other"), 2):
        fitted_to = fitted(name, served(folders).by_name[name].revision, temperature=place)
        overlay.write(fitted_to, root / name)
    return {name: str(root / name) for name in ("one", "other")}


def test_a_composites_revision_is_of_all_that_makes_it(folders, calibrations):
    """Weights, attributes, statistics, names, gate, calibrations: each is a revision of its own."""
    found = served(folders, composites=COMPOSITES, calibrations=calibrations)

    revisions = {name: found.by_name[name].revision for name in (*COMPOSITES, "both", "one")}
    assert len(set(revisions.values())) == len(revisions)


def test_a_part_may_be_named_by_an_alias(folders):
    """It is the target that is meant, with the same revision."""
    parts = {"a": {"target": "first"}, "b": {"target": "second", "weight": 0.5}}
    composites = {"plain": {"parts": PARTS}, "aliased": {"parts": parts}}

    found = served(folders, composites=composites, aliases={"first": "one", "second": "other"})

    assert found.by_name["aliased"].revision == found.by_name["plain"].revision
    assert [part.target for part in found.by_name["aliased"].parts] == ["one", "other"]


@pytest.mark.parametrize(
    "setting", [{"max_tokens": 100}, {"dtype": "bfloat16"}, {"quantize": "int8"}]
)
def test_a_setting_that_changes_scores_changes_every_revision(folders, setting):
    """What is cut, and what it is computed in; without such settings it is the files' alone."""
    plain = served(folders, composites={"c": {"parts": PARTS}})
    other = served(folders, composites={"c": {"parts": PARTS}}, **setting)

    for name, target in plain.by_name.items():
        assert other.by_name[name].revision != target.revision
    assert {model.files for model in other.models} == {model.revision for model in plain.models}


@pytest.mark.parametrize(
    ("line", "instead"),
    [("mean = 0.25", "mean = 0.5"), ("std = 2.0", "std = 2.0\n[limits]\nmax_tokens = 9")],
)
def test_a_cards_statistics_and_limits_are_of_its_revision(folders, tmp_path, line, instead):
    """They change what `normalize` answers, and what is cut."""
    other = shutil.copytree(folders[0], tmp_path / "one")
    (other / "card.toml").write_text(CARD.replace(line, instead))

    before, after = (resolving.load(Settings(models=(str(one),))) for one in (folders[0], other))

    assert before.default.revision != after.default.revision


def test_what_a_card_quantizes_is_of_its_revision_and_a_setting_only_where_it_differs(
    folders, tmp_path
):
    """int8 by the card is int8 by the setting, too; `none` and `fp8` give other scores."""
    other = shutil.copytree(folders[0], tmp_path / "one")
    (other / "card.toml").write_text(CARD + "[trunk]\nquantize = 'int8'\n")

    def revision(folder, quantize):
        settings = Settings(models=(str(folder),), quantize=quantize)
        return resolving.load(settings).default.revision

    found = {quantize: revision(other, quantize) for quantize in ("auto", "none", "int8", "fp8")}

    assert found["auto"] == found["int8"]
    assert len(set(found.values())) == 3
    assert revision(folders[0], "none") == revision(folders[0], "auto") not in found.values()


def test_a_calibration_that_nothing_is_by_is_no_part_of_a_revision(folders, calibrations):
    """Raw scores don't move, and a composite of them neither."""
    plain = served(folders, composites={"c": {"parts": PARTS, "gate": GATE}})
    beside = served(
        folders, composites={"c": {"parts": PARTS, "gate": GATE}}, calibrations=calibrations
    )

    assert beside.by_name["c"].revision == plain.by_name["c"].revision
    assert beside.by_name["one"].calibration is not None
