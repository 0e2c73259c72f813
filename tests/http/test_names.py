"""Folders whose names a shell, a locale or the terminal would stumble over, served."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from assay import Client
from tests.http import checkpoints
from tests.http.processes import run, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.http.processes import Server

PAIR = {"prompt": "Hello", "response": "Hello"}
FOLDERS = {
    os.fsdecode(b"bad\xff\xe9"): "bad__",
    "modèle": "modèle",
    "[heads.reward]": "[heads.reward]",
    "rm-lr=1e-5,v2": "rm-lr=1e-5,v2",
    "two\nlines": "two_lines",
}


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[tuple[Server, Path]]:
    """A server in the locale of a bare container, of folders with such names; and their parent."""
    root = tmp_path_factory.mktemp("strange")
    (root / "tmp").mkdir()
    paths = [checkpoints.copy(tiny, root / name) for name in FOLDERS]
    (root / "hf").symlink_to(tiny)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            *(("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONIOENCODING", "ascii")),
            ("TMPDIR", str(root / "tmp")),
        ):
            patch.setenv(name, value)
        with serving(
            root / "run", *paths, "--name", f"[/mine]={root / 'hf'}", compile="off"
        ) as server:
            yield server, root
    assert list((root / "tmp").iterdir()) == []  # what led to names that aren't UTF-8 is gone


def test_folders_are_served_under_names_that_can_be_sent(strange: tuple[Server, Path]) -> None:
    """All are the same checkpoint; each is known by its path, too, where that is text."""
    server, root = strange
    names = [*FOLDERS.values(), "[/mine]"]

    listed = [one["id"] for one in server.http.get("/models").json()["data"]]
    scores = [server.score(model=name, **PAIR).json() for name in names]
    by_path = server.score(model=str(root / "rm-lr=1e-5,v2"), **PAIR).json()

    assert listed == names
    assert [one["model"] for one in scores] == names
    assert len({one["data"][0]["score"] for one in scores}) == 1
    assert by_path["model"] == "rm-lr=1e-5,v2"
    assert by_path["data"] == scores[0]["data"]
    with Client(server.url) as client:
        assert client.model(str(root / "hf")).id == "[/mine]"
        assert client.model("rm-lr=1e-5,v2").revision == by_path["revision"]


def test_such_names_break_no_line(strange: tuple[Server, Path]) -> None:
    """Neither of the log nor of the metrics; the terminal's markup is nobody's."""
    server, _ = strange
    until("it is written", lambda: "ready bad__" in server.log.read_text())
    log, metrics = server.log.read_text(), server.http.get("/metrics").text

    assert "two_lines: load" in log
    assert "[heads.reward]: load" in log
    assert "ready bad__, mod\\xe8le, [heads.reward], rm-lr=1e-5,v2, two_lines, [/mine] on" in log
    assert 'model="two_lines"' in metrics
    assert "Traceback" not in log


def test_a_message_repeats_such_names_on_one_line(tmp_path: Path) -> None:
    """With their brackets, and without their control characters."""
    ended = run("inspect", tmp_path / "[/nowhere]\x1b[31m\nerror forged", cwd=tmp_path)

    assert ended.returncode == 3
    (line,) = ended.stderr.splitlines()
    assert "[/nowhere]\\x1b[31m\\nerror forged" in line
