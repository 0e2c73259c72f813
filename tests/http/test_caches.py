"""Where a device process keeps what it compiles."""

from __future__ import annotations

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

NAMES = ("TORCHINDUCTOR_CACHE_DIR", "TORCH_EXTENSIONS_DIR")


@pytest.mark.parametrize("own", [None, "elsewhere"])
def test_what_is_compiled_is_kept_in_the_users_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    """Before torch settles for a temporary folder; unless the operator names another place."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        if own is not None:
            monkeypatch.setenv(name, own)

    with serving(tmp_path / "run", tiny, compile="off") as server:
        found = [server.worker.environ()[name] for name in NAMES]

    cache = tmp_path / "assay"
    assert found == [own or str(cache / "inductor"), own or str(cache / "extensions")]


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
