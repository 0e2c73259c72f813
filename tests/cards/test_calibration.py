"""calibration.toml: what may stand in it, and for which revision it holds."""

import pytest

from assay.calibration import overlay
from assay.cards import calibration as cards
from assay.errors import CheckpointError, InvalidField, SettingsError
from assay.settings import Settings
from tests import resolving
from tests.http import checkpoints
from tests.scoring.fitted import fitted


@pytest.fixture
def written(tmp_path):
    """A calibration, and the file that it was written to."""
    calibration, path = fitted("m", "0123456789ab"), tmp_path / cards.FILE_NAME
    overlay.write(calibration, path)
    return calibration, path


def test_what_is_written_is_read_again(written):
    """All of it, to the last bit of its numbers; nothing else is left in the folder."""
    calibration, path = written

    assert cards.read(path) == calibration
    assert [each.name for each in path.parent.iterdir()] == [cards.FILE_NAME]


def test_the_id_is_of_the_content():
    """The same content has the same id, another revision another."""
    one, other = fitted("m", "a"), fitted("m", "b")

    assert one.id == fitted("m", "a").id
    assert one.id != other.id
    assert len(one.id) == 12


def test_a_file_that_was_edited_is_refused(written):
    """What it says was never fitted."""
    _, path = written
    path.write_text(path.read_text().replace("temperature = 2.0", "temperature = 9.0"))

    with pytest.raises(CheckpointError, match="its id isn't that of its content"):
        cards.read(path)


@pytest.mark.parametrize(
    ("kind", "knots", "reason"),
    [
        (cards.Isotonic, [(1, 0.6), (1, 0.7)], "rise"),
        (cards.Isotonic, [(1, 0.7), (2, 0.6)], "doesn't fall"),
        (cards.Isotonic, [(1, 0.4)], "greater than or equal to 0.5"),
        (cards.Isotonic, [(i, 0.6) for i in range(257)], "at most 256"),
        (cards.Acceptable, [(0, 0.5, 0.4), (1, 0.6, 0.7)], "lower end is first"),
        (cards.Acceptable, [(0, 0.1, 0.4), (1, 0.2, 0.3)], "doesn't fall"),
        (cards.LengthControl, [(2, 0.0), (1, 0.0)], "rise"),
    ],
)
def test_knots_are_in_order_and_bounded(kind, knots, reason):
    """A probability that falls, or a file of any length, is refused by its field."""
    fields = {"mean": 0.0} if kind is cards.LengthControl else {}
    with pytest.raises(ValueError, match=reason):
        kind.model_validate({"knots": knots, **fields})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id = [", "is not valid TOML"),
        ("id = 'x'", "id: "),
        ("wrong = 1", "wrong: unknown field"),
        ("#" * 2**17, "has over 65536 bytes"),
    ],
)
def test_what_isnt_a_calibration_is_one_sentence(tmp_path, text, reason):
    """The file is named, and the field."""
    path = tmp_path / cards.FILE_NAME
    path.write_text(text)

    with pytest.raises(CheckpointError, match=reason):
        cards.read(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint."""
    return checkpoints.build(tmp_path_factory.mktemp("calibrated") / "tiny")


def test_a_calibration_beside_the_card_is_the_targets(folder):
    """It is no part of the revision."""
    before = resolving.load(Settings(models=(str(folder),))).default
    path = folder / cards.FILE_NAME
    overlay.write(fitted("tiny", before.revision), path)
    after = resolving.load(Settings(models=(str(folder),))).default
    path.unlink()

    assert after.revision == before.revision
    assert (before.calibration, after.calibration) == (None, fitted("tiny", before.revision))


def test_a_calibration_of_another_revision_is_refused(folder, tmp_path):
    """The start says which revision it is of, and what to do; a fit does without it."""
    path = tmp_path / "other.toml"
    overlay.write(fitted("tiny", "0" * 12), path)
    settings = Settings(models=(str(folder),), calibrations={"tiny": str(path)})

    with pytest.raises(CheckpointError, match=r"fitted on revision 0{12}.*calibrate` again"):
        resolving.load(settings)
    assert resolving.load(settings, is_calibrated=False).default.calibration is None


def test_the_setting_wins_over_what_lies_beside_the_card(folder, tmp_path):
    """By an alias, too; a name that isn't served is refused."""
    revision = resolving.load(Settings(models=(str(folder),))).default.revision
    ours = fitted("tiny", revision, temperature=3.0)
    overlay.write(fitted("tiny", revision), folder / cards.FILE_NAME)
    overlay.write(ours, tmp_path / "ours.toml")
    ours_path = str(tmp_path / "ours.toml")
    settings = {"models": (str(folder),), "aliases": {"judge": "tiny"}}

    served = resolving.load(Settings(**settings, calibrations={"judge": ours_path}))
    (folder / cards.FILE_NAME).unlink()

    assert served.default.calibration == ours
    with pytest.raises(SettingsError, match=r"calibrations\.nobody: 'nobody' isn't served"):
        resolving.load(Settings(**settings, calibrations={"nobody": ours_path}))


@pytest.mark.parametrize("place", ["missing/calibration.toml", "."])
def test_where_nothing_can_be_written_is_said_before_anything_is_scored(tmp_path, place):
    """A folder that isn't there, or a folder in the file's place."""
    with pytest.raises(InvalidField, match="name another with --output"):
        overlay.check(tmp_path / place)


def test_a_folder_is_where_the_card_of_what_was_asked_for_lies(folder):
    """A model's own, an ensemble's above its members; what settings combine has none."""
    served = resolving.load(
        Settings(
            models=(str(folder), "starter"),
            ensembles={"both": ("tiny", "starter/member-1")},
        )
    )

    found = {name: served.folder(target) for name, target in served.by_name.items()}
    assert found["tiny"] == folder
    assert (
        found["starter"] == served.by_name["starter/member-1"].members[0].checkpoint.folder.parent
    )
    assert (found["starter/member-1"], found["both"]) == (None, None)
