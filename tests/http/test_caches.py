"""Where a device process keeps what it compiles."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assay import scratch
from assay.errors import SettingsError
from assay.scheduling import caches
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

NAMES = ("TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


def test_what_is_compiled_is_kept_in_the_users_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before torch settles for a temporary folder, and where only this user looks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    with serving(tmp_path / "run", tiny, compile="off") as server:
        found = [server.worker.environ()[name] for name in NAMES]

    cache = tmp_path / "home" / "assay"
    made = (cache.parent, cache, *map(Path, found))
    assert found == [str(cache / "inductor"), str(cache / "extensions")]
    assert [stat.S_IMODE(one.stat().st_mode) for one in made] == [0o700] * 4


def test_a_library_that_is_there_needs_no_compiler(
    tiny: Path, tmp_path: Path, starter: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server on a machine without one has the kernel that it was given."""
    kept = Path(starter.worker.environ()["TORCH_EXTENSIONS_DIR"])
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "kept").mkdir(mode=0o700)
    shutil.copytree(kept / "assay_forest_attention", tmp_path / "kept/assay_forest_attention")

    with serving(tmp_path / "run", tiny) as server:
        (model,) = server.http.get("/models").json()["data"]

    assert model["attention"] == "native"
    assert model["warnings"] == []


def test_a_home_that_can_not_be_written_stops_no_start(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says so; the folder instead is this user's alone, and gone afterwards."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/proc/nonexistent")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    with serving(tmp_path / "run", tiny, compile="off") as server:
        found = [Path(server.worker.environ()[name]) for name in NAMES]
        modes = {stat.S_IMODE(one.parent.stat().st_mode) for one in found}
        said = server.log.read_text()

    assert {one.parent.parent for one in found} == {tmp_path}
    assert modes == {0o700}
    (line,) = [one for one in said.splitlines() if "can't be written" in one]
    assert "/proc/nonexistent/.cache/assay/inductor and /proc/nonexistent" in line
    assert "set TORCHINDUCTOR_CACHE_DIR and TORCH_EXTENSIONS_DIR to a folder" in line
    assert not found[0].parent.exists()


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Forget which folders were found, before and after."""
    for name in (*NAMES, "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "HF_MODULES_CACHE"):
        monkeypatch.delenv(name, raising=False)
    caches.variables.cache_clear()
    yield monkeypatch
    caches.variables.cache_clear()
    scratch.remove()


def test_the_operator_may_name_another_place(tmp_path: Path, anew: pytest.MonkeyPatch) -> None:
    """For either."""
    named = {name: str(tmp_path / name) for name in NAMES}
    for name, path in named.items():
        anew.setenv(name, path)

    assert caches.variables() == named


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_that_others_can_write_is_not_used(
    tmp_path: Path,
    anew: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    mode: int,
) -> None:
    """Whoever can write there could have this user run what he likes."""
    anew.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "assay" / "inductor").mkdir(parents=True)
    (tmp_path / "assay").chmod(0o700)
    (tmp_path / "assay" / "inductor").chmod(mode)

    found = caches.variables()

    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(scratch.folder() / "inductor")
    assert found["TORCH_EXTENSIONS_DIR"] == str(tmp_path / "assay" / "extensions")
    (line,) = [one.getMessage() for one in caplog.records]
    assert f"inductor can be written by others (mode {mode:04o})" in line
    assert "set TORCHINDUCTOR_CACHE_DIR to a folder that this user can write" in line


def test_neither_is_used_where_others_can_write_what_holds_both(
    tmp_path: Path, anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They could put other folders there."""
    anew.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "assay").mkdir()
    (tmp_path / "assay").chmod(0o777)

    found = caches.variables()

    assert {Path(found[name]).parent for name in NAMES} == {scratch.folder()}
    assert "lies in a folder that can be written by others (mode 0777)" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_folder_is_not_used(
    tmp_path: Path, anew: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Root could write there, and so could its owner."""
    for name in NAMES:
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, 12_345, -1)
        anew.setenv(name, str(tmp_path / name))

    assert {Path(caches.variables()[name]).parent for name in NAMES} == {scratch.folder()}
    assert "belongs to another user (uid 12345)" in caplog.text


def test_one_folder_that_can_not_be_written_is_replaced_alone(
    tmp_path: Path, anew: pytest.MonkeyPatch
) -> None:
    """The other stays where it was; what others keep in the home stays there."""
    (tmp_path / "file").write_text("")
    anew.setenv("XDG_CACHE_HOME", str(tmp_path))
    anew.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file" / "below"))

    assert caches.variables() == {
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "assay" / "inductor"),
        "TORCH_EXTENSIONS_DIR": str(scratch.folder() / "extensions"),
    }


@pytest.mark.parametrize("home", ["/proc/nonexistent", "nul", "/dev/null"])
def test_what_libraries_keep_in_a_home_that_can_not_be_written_is_kept_with_it(
    anew: pytest.MonkeyPatch, home: str
) -> None:
    """Triton's kernels, and a checkpoint's own code."""
    anew.setenv("HOME", home if home != "nul" else "/dev/null/deeper")
    found = caches.variables()
    assert {Path(one).parent for one in found.values()} == {scratch.folder()}
    assert found.keys() == {*NAMES, "TRITON_CACHE_DIR", "HF_MODULES_CACHE"}


def test_without_any_folder_the_start_says_which_variable_to_set(
    anew: pytest.MonkeyPatch,
) -> None:
    """There is nowhere to go on."""
    anew.setattr("tempfile.mkdtemp", _full)
    anew.setenv("HOME", "/proc/nonexistent")
    with pytest.raises(SettingsError, match="set TMPDIR to one that can"):
        caches.variables()


def _full(**_: object) -> str:
    raise OSError(28, "No space left on device")
