"""Gates and tolerances in calibrated probability: what they become, and what is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from assay.calibration import overlay
from assay.cards import calibration as cards
from assay.errors import CheckpointError, SettingsError
from assay.settings import Settings
from tests import resolving
from tests.http import checkpoints
from tests.scoring.fitted import fitted

if TYPE_CHECKING:
    from pathlib import Path

GATE = {"part": "a", "at_least": 0.5, "otherwise": -1.0, "calibrated": True}
PART = {"target": "tiny", "tolerance": 0.75, "calibrated": True}
STD = 4.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with stored moments."""
    folder = checkpoints.build(tmp_path_factory.mktemp("composites") / "tiny")
    card = f"[score]\noutputs = ['reward']\n[statistics]\nmean = 1.0\nstd = {STD}\n"
    (folder / "card.toml").write_text(card)
    return folder


def settings(folder: Path, composite: dict[str, Any], **fields: Any) -> Settings:
    tables = {"ensembles": {"all": ("tiny",)}, "composites": {"c": composite}, **fields}
    return Settings(models=(str(folder),), **tables)


@pytest.fixture
def calibrated(folder: Path, tmp_path: Path) -> Any:
    """Return a target's calibration as settings name it, changed as the test says."""

    def write(name: str = "tiny", **changes: Any) -> dict[str, str]:
        loaded = resolving.load(Settings(models=(str(folder),), ensembles={"all": ("tiny",)}))
        ours = fitted(name, loaded.by_name[name].revision).model_copy(update=changes)
        overlay.write(ours.identified(), tmp_path / name)
        return {name: str(tmp_path / name)}

    return write


@pytest.mark.parametrize(
    ("preference", "margin"),
    [
        (cards.Temperature(temperature=2.0), 2.0 * math.log(3.0)),
        (cards.Platt(slope=0.5, intercept=0.25), (math.log(3.0) - 0.25) / 0.5),
        (cards.Platt(slope=0.0, intercept=0.25), math.inf),
        (cards.Platt(slope=1.0, intercept=2.0), 0.0),
        (cards.Isotonic(knots=[(0.0, 0.5), (1.0, 0.75), (2.0, 0.75), (3.0, 0.9)]), 2.0),
        (cards.Plain(), math.log(3.0)),
    ],
)
@pytest.mark.parametrize(("weight", "scale"), [(1.0, 1.0), (-2.0, 2.0)])
def test_a_probability_is_the_margin_that_has_it(
    folder: Path, calibrated: Any, preference: Any, margin: float, weight: float, scale: float
) -> None:
    """By the inverse of each method, in the part's own unit and times its weight."""
    for normalize, std in ((False, 1.0), (True, STD)):
        part = {**PART, "weight": weight, "normalize": normalize}
        composite = {"rule": "lexicographic", "parts": {"a": part}}
        calibrations = calibrated(preference=preference)
        found = resolving.load(settings(folder, composite, calibrations=calibrations))

        (own,) = found.by_name["c"].parts
        assert own.tolerance == pytest.approx(margin * scale / std, abs=1e-9)
        assert own.alike_up_to == 0.75
        assert found.by_name["c"].calibrations == {"a": found.by_name["tiny"].calibration.id}


@pytest.mark.parametrize(
    ("composite", "changes", "says"),
    [
        ({"parts": {"a": {"target": "tiny"}}, "gate": GATE}, None, "'tiny' has no calibration"),
        (
            {"parts": {"a": {"target": "tiny"}}, "gate": GATE},
            *({"acceptable": None}, "'tiny' has a calibration of no labels"),
        ),
        (
            {"parts": {"a": {"target": "tiny", "attribute": "reward"}}, "gate": GATE},
            *({}, "not of its attribute 'reward'"),
        ),
        ({"rule": "lexicographic", "parts": {"a": PART}}, None, "'tiny' has no calibration"),
        (
            {"rule": "lexicographic", "parts": {"a": PART}},
            *({"preference": None}, "'tiny' has a calibration of no pairs"),
        ),
        ({"parts": {"a": PART}}, {}, "tolerance: it is for the rule 'lexicographic'"),
    ],
)
def test_what_has_no_calibration_stops_the_start(
    folder: Path,
    calibrated: Any,
    composite: dict[str, Any],
    changes: dict[str, Any] | None,
    says: str,
) -> None:
    """In a sentence that names the part."""
    calibrations = {} if changes is None else calibrated(**changes)

    with pytest.raises(SettingsError, match=says) as caught:
        resolving.load(settings(folder, composite, calibrations=calibrations))

    assert caught.value.message.startswith("composites.c.parts.a")


def test_an_ensemble_without_a_method_has_no_margin(folder: Path, calibrated: Any) -> None:
    """Its probabilities are its members' averaged."""
    composite = {"rule": "lexicographic", "parts": {"a": {**PART, "target": "all"}}}
    calibrations = calibrated("all", preference=cards.Plain())

    with pytest.raises(SettingsError, match="'all' are its members' own"):
        resolving.load(settings(folder, composite, calibrations=calibrations))


@pytest.mark.parametrize(
    "table",
    [
        {"gate": {**GATE, "at_least": 1.5}},
        {"gate": {**GATE, "at_least": -0.5}},
        {"parts": {"a": {**PART, "tolerance": 0.4}}},
        {"parts": {"a": {**PART, "tolerance": 1.0}}},
        {"parts": {"a": {"target": "tiny", "calibrated": True}}},
    ],
)
def test_a_probability_is_from_0_to_1(table: dict[str, Any]) -> None:
    """That the better one is better is at least a toss."""
    with pytest.raises(ValueError, match="with 'calibrated' give"):
        Settings(composites={"c": {"parts": {"a": {"target": "tiny"}}, **table}})


def test_what_is_fitted_anew_does_without_the_old(
    folder: Path, tmp_path: Path, calibrated: Any
) -> None:
    """A composite keeps those that its gate is by, and only these are held against revisions."""
    ours = calibrated()
    stale = calibrated("all", revision="0" * 12)
    composite = {"parts": {"a": {"target": "tiny"}}, "gate": GATE}
    tables = settings(folder, composite, calibrations={**ours, **stale})

    found = resolving.load(tables, is_calibrated=False)

    assert found.by_name["c"].calibrations == {"a": cards.read(tmp_path / "tiny").id}
    assert (found.by_name["all"].calibration, found.by_name["c"].calibration) == (None, None)
    with pytest.raises(CheckpointError, match=r"fitted on revision 0{12}"):
        resolving.load(tables)


def test_a_composite_has_a_calibration_of_its_own_beside(
    folder: Path, tmp_path: Path, calibrated: Any
) -> None:
    """Fitted to the reward behind the gate; its revision is of the gate's calibration."""
    composite = {"parts": {"a": {"target": "tiny"}}, "gate": GATE}
    ours = calibrated()
    revision = resolving.load(settings(folder, composite, calibrations=ours)).by_name["c"].revision
    overlay.write(fitted("c", revision), tmp_path / "c")
    both = {**ours, "c": str(tmp_path / "c")}

    found = resolving.load(settings(folder, composite, calibrations=both)).by_name["c"]
    assert found.calibration is not None
    calibrated(preference=cards.Temperature(temperature=9.0))
    with pytest.raises(CheckpointError, match="run `assay calibrate` again"):
        resolving.load(settings(folder, composite, calibrations=both))
