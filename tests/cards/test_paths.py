import os
import stat
from pathlib import Path

import pytest

from assay.cards import paths

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/judge", "judge"),
        ("/data/judge/", "judge"),
        ("/data/judge/.", "judge"),
        ("/data/other/../judge", "judge"),
        ("/data/rm-lr=1e-5/checkpoint-100", "checkpoint-100"),
        ("/data/a judge, [really]", "a judge, [really]"),
        (f"/cache/models--org--judge/snapshots/{COMMIT}", "org/judge"),
        (f"/cache/models--org--judge/snapshots/{COMMIT}/", "org/judge"),
        (f"/cache/models--org--judge/snapshots/{COMMIT}/reward", "reward"),
        ("/cache/models--org--judge", "org/judge"),
        ("/cache/models--judge/snapshots/main", "judge"),
        (f"/mirror/judge/snapshots/{COMMIT}", "judge"),
        (f"/mirror/judge/{COMMIT}", "judge"),
        ("/", "model"),
        ("/data/two\nlines\x1b[31m", "two_lines_[31m"),
        ("/data/bad\udcff\udce9", "bad__"),
        ("/data/mod\udcc3\udca8le", "modèle"),  # UTF-8, as an ASCII locale hands it over
        ("/data/half\ud83d", "half?"),
    ],
)
def test_a_folder_is_called_as_one_would_call_it(path, name):
    """By its last part, as text; a snapshot by its repository, never by a commit."""
    assert paths.name(path) == name


def test_a_link_is_called_by_its_own_name(tmp_path, monkeypatch):
    """Where it leads to may change; `..` is where the system says it is."""
    folder = tmp_path / "releases" / COMMIT
    folder.mkdir(parents=True)
    (tmp_path / "judge").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert paths.name("judge") == paths.name(str(tmp_path / "judge/")) == "judge"
    assert paths.name("judge/..") == "releases"


def test_the_home_folder_is_expanded_where_there_is_one(monkeypatch):
    """A user that nobody is stays as written."""
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.of("~/judge") == Path("/home/somebody/judge")
    assert paths.of("~no-such-user/judge") == Path("~no-such-user/judge")


@pytest.mark.parametrize("path", ["", "x" * 5000, "nul\0", "half\ud83d", "~nobody-there/x"])
def test_what_no_file_is_called_does_not_exist(path):
    """Whatever a caller sends is no traceback."""
    assert not paths.exists(path)


def test_a_path_that_is_not_utf_8_can_be_read_by_another(tmp_path):
    """The link is in a folder of this user only; a path that is text stays as it is."""
    strange = tmp_path / os.fsdecode(b"judge-\xff")
    strange.mkdir()
    (strange / "config.json").write_text("{}")
    link = paths.readable(strange)
    assert str(link).isascii()
    assert (link / "config.json").read_text() == "{}"
    assert link == paths.readable(strange)
    assert stat.S_IMODE(link.parent.stat().st_mode) == 0o700
    assert paths.readable(tmp_path) == tmp_path


def test_a_path_may_be_spelt_in_several_ways(tmp_path, monkeypatch):
    """As it was given, without the last slash, and from the root."""
    (tmp_path / "hf").mkdir()
    monkeypatch.chdir(tmp_path)
    assert paths.spellings("hf/") == {"hf/", "hf", str(tmp_path / "hf")}
    assert paths.spellings("org/judge@main") == {"org/judge@main"}
    assert paths.spellings("card=hf") == {"card=hf", "hf", str(tmp_path / "hf")}
