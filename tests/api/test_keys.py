"""Keys: their file, what settings make of them, and who may what."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from assay.api.keys import OPEN_ROUTES, Keys, add, check_lengths, hashed, read
from assay.errors import AssayError, Forbidden, SettingsError, Unauthorized
from assay.settings import Settings
from assay.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HASH = hashed("a-key")
PATHS = {"score": "/score", "metrics": "/metrics", "admin": "/admin/load"}
SOME = 'name = "a"\nrights = ["score"]\n'


def entry(name: str = "a", rights: str = '["score"]', more: str = "", key: str = "a-key") -> str:
    return f'[[keys]]\nname = "{name}"\nhash = "{hashed(key)}"\nrights = {rights}\n{more}\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the key file is."""
    return tmp_path / "keys.toml"


def keys(**settings: object) -> Keys:
    return Keys(read(Settings(**settings)))


def outcome(of: Keys, path: str, key: str | None) -> object:
    """Return the caller's name, or the kind of refusal."""
    headers = {} if key is None else {b"authorization": f"Bearer {key}".encode()}
    try:
        return of.check(path, headers)
    except AssayError as error:
        return type(error)


def outcomes(of: Keys, key: str | None) -> dict[str, object]:
    return {right: outcome(of, path, key) for right, path in PATHS.items()}


def test_without_any_key_all_is_open_but_changes() -> None:
    """Nobody may change what is served."""
    assert outcomes(keys(), None) == {"score": None, "metrics": None, "admin": Forbidden}
    assert outcomes(keys(), "any") == {"score": None, "metrics": None, "admin": Forbidden}


def test_the_quick_keys_are_for_everything_but_changes() -> None:
    """They are numbered in the order in which they were given."""
    quick = keys(api_key="one,two")

    assert outcomes(quick, None) == dict.fromkeys(PATHS, Unauthorized)
    assert outcomes(quick, "three") == dict.fromkeys(PATHS, Unauthorized)
    assert outcomes(quick, "one,two") == dict.fromkeys(PATHS, Unauthorized)
    assert outcomes(quick, "two") == {
        "score": "api-key-2",
        "metrics": "api-key-2",
        "admin": Forbidden,
    }


def test_two_keys_of_one_name_are_good_while_one_takes_over(file: Path) -> None:
    """Rotation with overlap: one caller, whichever it sends, each with its own rights."""
    file.write_text(entry(key="old") + entry(key="new", rights='["score", "metrics"]'))
    ring = keys(key_file=file)

    assert outcomes(ring, "old") == {"score": "a", "metrics": Forbidden, "admin": Forbidden}
    assert outcomes(ring, "new") == {"score": "a", "metrics": "a", "admin": Forbidden}


@pytest.mark.parametrize("path", ["/models", "/v1/models", "/models/judge", "/v1/models/org/a"])
def test_who_may_change_what_is_served_may_look_at_it(file: Path, path: str) -> None:
    """But not score, nor read the metrics; who may read the metrics sees no models."""
    file.write_text(entry("chief", '["admin"]') + entry("watch", '["metrics"]', key="other"))
    ring = keys(key_file=file)

    assert outcome(ring, path, "a-key") == "chief"
    assert outcome(ring, path, "other") is Forbidden
    assert outcome(ring, "/modelsx", "a-key") is Forbidden
    assert outcomes(ring, "a-key") == {"score": Forbidden, "metrics": Forbidden, "admin": "chief"}


def test_an_entry_is_added_in_one_step(file: Path) -> None:
    """To what stands there, which keeps its words and its mode; a new file is its owner's alone."""
    add(file, entry("first"))
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_text("# ours\n" + file.read_text())
    file.chmod(0o640)

    add(file, entry("second", key="other"))

    assert (
        file.read_text() == f"# ours\n{entry('first').rstrip()}\n\n{entry('second', key='other')}"
    )
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert outcome(keys(key_file=file), "/score", "other") == "second"


@pytest.mark.parametrize("text", ["[[keys]]\nname =", "keys = []\n", entry("first")])
def test_what_would_be_no_key_file_is_not_written(file: Path, text: str) -> None:
    """The file stays as it was, and the message names it."""
    file.write_text(text)

    with pytest.raises(SettingsError, match=str(file)):
        add(file, entry("second"))

    assert file.read_text() == text
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_link_to_a_key_file_stays_one(file: Path) -> None:
    """What it leads to is written."""
    add(file, entry("first"))
    link = file.with_name("link.toml")
    link.symlink_to(file)

    add(link, entry("second", key="other"))

    assert link.is_symlink()
    assert "second" in file.read_text()


def test_the_admin_key_is_for_everything() -> None:
    """Alone it closes nothing but changes."""
    both = keys(api_key="one", admin_key="chief")
    alone = keys(admin_key="chief")

    assert outcomes(both, "chief") == dict.fromkeys(PATHS, "admin-key-1")
    assert outcomes(both, "one")["admin"] is Forbidden
    assert outcomes(alone, "chief") == dict.fromkeys(PATHS, "admin-key-1")
    assert outcomes(alone, None) == {"score": None, "metrics": None, "admin": Unauthorized}


@pytest.mark.parametrize("right", PATHS)
def test_a_key_of_the_file_has_its_rights_and_no_others(file: Path, right: str) -> None:
    """403 beyond them, under its name."""
    file.write_text(entry("trainer", f'["{right}"]'))

    found = outcomes(keys(key_file=file), "a-key")

    assert found == dict.fromkeys(PATHS, Forbidden) | {right: "trainer"}
    assert outcomes(keys(key_file=file), None) == dict.fromkeys(PATHS, Unauthorized)


def test_quick_keys_and_those_of_the_file_hold_together(file: Path) -> None:
    """Neither closes the other out."""
    file.write_text(entry("trainer", '["score", "admin"]'))
    both = keys(key_file=file, api_key="one")

    assert outcomes(both, "a-key") == {"score": "trainer", "metrics": Forbidden, "admin": "trainer"}
    assert outcomes(both, "one")["score"] == "api-key-1"


def test_a_file_without_keys_opens_nothing(file: Path) -> None:
    """Who removes the last key wants nobody in."""
    file.write_text("")

    assert outcomes(keys(key_file=file), None)["score"] is Unauthorized
    assert outcomes(keys(key_file=file), "")["score"] is Unauthorized


@pytest.mark.parametrize(
    ("since", "expected"),
    [(timedelta(minutes=1), Unauthorized), (-timedelta(minutes=1), "trainer")],
)
@pytest.mark.parametrize("zone", ["Z", "", "+00:00"])
def test_a_key_expires(file: Path, since: timedelta, expected: object, zone: str) -> None:
    """A time without a zone is UTC."""
    then = (datetime.now(UTC) - since).replace(tzinfo=None).isoformat()
    file.write_text(entry("trainer", more=f"expires = {then}{zone}"))

    assert outcome(keys(key_file=file), "/score", "a-key") == expected


def test_a_key_that_expired_is_on_record_where_it_is_refused(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its name, as one that hasn't the right."""
    file.write_text(entry("operator", '["admin"]', more="expires = 2020-01-31"))

    assert outcome(keys(key_file=file), "/admin/load", "a-key") is Unauthorized
    assert "'/admin/load' refused to operator" in caplog.text


@pytest.mark.parametrize(("day", "expected"), [("2020-01-31", Unauthorized), ("9999-01-31", "a")])
def test_a_key_expires_with_the_begin_of_a_day(file: Path, day: str, expected: object) -> None:
    """TOML's dates are taken, too."""
    file.write_text(entry(more=f"expires = {day}"))

    assert outcome(keys(key_file=file), "/score", "a-key") == expected


@pytest.mark.parametrize("path", sorted(OPEN_ROUTES))
def test_health_is_open_unless_it_is_closed(file: Path, path: str) -> None:
    """Closed, it wants a key of any right."""
    file.write_text(entry("probe", '["metrics"]'))
    closed = keys(key_file=file, open_health=False)

    assert outcome(keys(key_file=file), path, None) is None
    assert outcome(closed, path, None) is Unauthorized
    assert outcome(closed, path, "wrong") is Unauthorized
    assert outcome(closed, path, "a-key") == "probe"


@pytest.mark.parametrize("path", ["/admin", "/admin/", "/admin/load", "/admin/nope", "/admin/../x"])
def test_all_below_admin_needs_that_right(path: str) -> None:
    """Whether there is such a route or not."""
    assert outcome(keys(api_key="one", admin_key="chief"), path, "one") is Forbidden


def test_a_ring_knows_no_key_only_digests(file: Path) -> None:
    """Whoever sees it in a debugger can't use it."""
    file.write_text(entry())
    ring = read(Settings(key_file=file, api_key="first-key", admin_key="chief-key"))

    assert len(ring.keys) == 3
    assert not [key for key in ("first-key", "chief-key", "a-key") if key in repr(ring)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[keys]", "is not valid TOML"),
        (f"x = {'[' * 5_000}{']' * 5_000}", "is not valid TOML: it is nested too deep"),
        (f"x = {'1' * 5_000}", "is not valid TOML"),
        (f"# {'x' * 2**20}", "it has over 1048576 bytes"),
        ("key = 1", "key: Extra inputs"),
        (f'[[keys]]\n{SOME}hash = "a-key"', "keys.0.hash: String should match"),
        (f'[[keys]]\n{SOME}hash = "{HASH[:-1]}"', "keys.0.hash: String should match"),
        (f'[[keys]]\n{SOME}hash = "md5:{"0" * 32}"', "keys.0.hash: String should match"),
        (f"[[keys]]\n{SOME}", "keys.0.hash: Field required"),
        (entry(name="a b"), "keys.0.name: String should match"),
        (entry(name=""), "keys.0.name: String should match"),
        (entry(name="a\\n"), "keys.0.name: String should match"),
        (entry(rights="[]"), "keys.0.rights: Frozenset should have at least 1 item"),
        (entry(rights='["write"]'), "Input should be 'score', 'metrics' or 'admin'"),
        (entry(more="expires = 'soon'"), "keys.0.expires: Input should be a valid datetime"),
        (entry(more="expire = 2027-01-31"), "keys.0.expire: Extra inputs"),
        (entry("a") + entry("b"), "two keys have the same hash"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, says: str) -> None:
    """By its place, without what stands there: it may be a key."""
    file.write_text(text)

    with pytest.raises(SettingsError) as caught:
        read(Settings(key_file=file))

    assert str(file) in caught.value.message
    assert says in caught.value.message
    assert "a-key" not in f"{caught.value.message} {caught.value.__cause__}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """It isn't there, or isn't text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    for name, says in [("nowhere", "No such file"), ("binary", "UTF-8"), (".", "Is a directory")]:
        with pytest.raises(SettingsError, match=says):
            read(Settings(key_file=tmp_path / name))


def pipe(file: Path) -> None:
    os.mkfifo(file)


def replace(file: Path, make: Callable[[Path], object]) -> None:
    """Put what is made where the file is."""
    make(beside := file.with_name("beside"))
    if file.exists():
        file.rename(file.with_name(f"old-{len(list(file.parent.iterdir()))}"))
    beside.rename(file)


@pytest.mark.parametrize(
    "make",
    [
        lambda file: file.write_text(f"x = {'[' * 5_000}{']' * 5_000}"),
        lambda file: file.write_text(f"x = {'1' * 5_000}"),
        lambda file: file.write_bytes(b"\xff\xfe"),
        lambda file: file.mkdir(),
        pipe,
    ],
    ids=["deep", "long", "binary", "folder", "pipe"],
)
async def test_whatever_comes_in_place_of_the_file_the_next_one_is_read(
    file: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object]
) -> None:
    """A key that was removed is refused: what can't be read meanwhile changes nothing."""
    monkeypatch.setattr("assay.api.keys._LOOK_AGAIN_S", 0.01)
    metrics = Metrics()
    replace(file, lambda one: one.write_text(entry("gone") + entry("stays", key="b-key")))
    watched = Keys(read(Settings(key_file=file)))
    watching = asyncio.create_task(watched.watch(metrics))

    replace(file, make)
    await until(lambda: changes(metrics, "refused"))
    meanwhile = outcome(watched, "/score", "a-key")
    replace(file, lambda beside: beside.write_text(entry("stays", key="b-key")))
    await until(lambda: changes(metrics, "ok"))
    watching.cancel()

    assert meanwhile == "gone"
    assert outcome(watched, "/score", "a-key") is Unauthorized
    assert outcome(watched, "/score", "b-key") == "stays"


def changes(metrics: Metrics, outcome: str) -> float | None:
    labels = {"source": "key_file", "outcome": outcome}
    return metrics.registry.get_sample_value("assay_changes_total", labels)


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not claim():  # noqa: ASYNC110  metrics have no event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["api_key", "admin_key"])
def test_a_short_key_is_refused_where_other_machines_may_guess(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By its number, never by itself; where none may there is a warning."""
    settings = Settings(**{name: f"{'l' * 16},fifteen-letters"})

    with pytest.raises(SettingsError, match=f"number 2 of {name} has 15 bytes.*assay key") as found:
        check_lengths(settings, is_exposed=True)
    check_lengths(settings, is_exposed=False)

    assert "number 2" in caplog.text
    assert "fifteen" not in caplog.text + found.value.message


def test_keys_that_are_long_enough_are_taken_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes count, not letters."""
    check_lengths(Settings(api_key="ü" * 8, admin_key="l" * 16), is_exposed=True)

    assert not caplog.messages


def test_what_is_wrong_with_a_key_is_counted(file: Path) -> None:
    """None at all, one that nobody knows, one that was good once; not one that lacks a right."""
    file.write_text(entry() + entry("old", key="b-key", more="expires = 2020-01-31"))
    found: list[str] = []
    counted = Keys(read(Settings(key_file=file)), found.append)

    for key in (None, "wrong", "b-key", "a-key"):
        outcome(counted, "/score", key)
    outcome(counted, "/metrics", "a-key")
    outcome(counted, "/health", "wrong")

    assert found == ["missing", "unknown", "expired"]


def test_a_key_is_known_where_none_is_needed(file: Path) -> None:
    """Who sends one to a health route is told more; a wrong one does no harm there."""
    file.write_text(entry() + entry("old", key="b-key", more="expires = 2020-01-31"))
    ring = keys(key_file=file)

    assert [outcome(ring, "/health/ready", key) for key in ("a-key", "b-key", "wrong", None)] == [
        *("a", None, None, None)
    ]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, True), ({"api_key": "one"}, False), ({"admin_key": "chief"}, False)],
    ids=["no key is set", "a key to score", "a key for changes alone"],
)
def test_who_has_no_key_is_told_little_where_there_are_any(
    settings: dict[str, str], expected: bool
) -> None:
    """Whoever has one is told all."""
    ring = keys(**settings)

    assert ring.shows_all(None) is expected
    assert ring.shows_all("trainer")


def test_an_empty_key_file_shows_nothing_either(file: Path) -> None:
    """It closes the door."""
    file.write_text("")

    assert not keys(key_file=file).shows_all(None)


def test_blanks_around_a_header_s_value_are_not_part_of_a_key() -> None:
    """Parsers leave those at its end."""
    quick = keys(api_key="one")

    assert quick.check("/score", {b"x-api-key": b"one \t"}) == "api-key-1"
    assert quick.check("/score", {b"authorization": b"Bearer  one "}) == "api-key-1"
