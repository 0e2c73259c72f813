"""What the command line prints where nobody looks: whole lines, no markup, no colours."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from assay.cards import catalogue
from assay.settings import Settings
from tests.http.processes import COMMAND, environment

if TYPE_CHECKING:
    from pathlib import Path

NARROW = {"COLUMNS": "20", "FORCE_COLOR": "1", "TERM": "xterm-256color"}


def piped(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line into a pipe, with a terminal's variables left over."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=environment() | NARROW | variables,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def test_a_piped_table_is_a_line_a_row(tmp_path: Path) -> None:
    """Nothing is wrapped, cut or coloured, whatever width and colours are left over."""
    name = "judge-" + "x" * 200 + "-[bold]:smile:"
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text('summary = """of\ntwo [red]lines[/]"""\n', encoding="utf-8")

    shown = piped("models", "--repository", str(tmp_path / "models"), cwd=tmp_path)

    (row,) = [line for line in shown.stdout.splitlines() if line.startswith("judge-")]
    assert row.split()[0] == name
    assert row.endswith("  of two [red]lines[/]")
    assert "…" not in shown.stdout
    assert "\x1b" not in shown.stdout


def test_a_piped_setting_is_whole(tmp_path: Path) -> None:
    """`assay config` says every value to its end."""
    models = ["m" * 100, "n" * 100]

    shown = piped("config", cwd=tmp_path, ASSAY_MODELS=",".join(models))

    (row,) = [line for line in shown.stdout.splitlines() if line.startswith("models ")]
    assert all(model in row for model in models)
    assert "\x1b" not in shown.stdout


def test_a_piped_list_of_models_is_whole_as_json(tmp_path: Path) -> None:
    """An object a folder, of the repository and of those that come with Assay."""
    name = "judge-" + "x" * 200 + "-[bold]:smile:"
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text('summary = """of\ntwo [red]lines[/]"""\n', encoding="utf-8")

    shown = piped("models", "--json", "--repository", str(tmp_path / "models"), cwd=tmp_path)

    rows = {row["name"]: row for row in json.loads(shown.stdout)}
    assert list(rows) == list(catalogue.folders(tmp_path / "models"))
    assert rows[name] == {
        "name": name,
        "gives": "a score",
        "weights": "yours: NAME=PATH",
        "summary": "of\ntwo [red]lines[/]",
    }


def test_piped_settings_are_whole_as_json(tmp_path: Path) -> None:
    """Every setting, to its end, with its origin; still no key."""
    models = ["m" * 100, "n" * 100]

    shown = piped(
        "config", "--json", cwd=tmp_path, ASSAY_MODELS=",".join(models), ASSAY_API_KEY="zzz-key"
    )

    rows = {row["setting"]: row for row in json.loads(shown.stdout)}
    assert list(rows) == list(Settings.model_fields)
    assert (rows["models"]["value"], rows["models"]["from"]) == (str(tuple(models)), "environment")
    assert all(row["meaning"] for row in rows.values())
    assert "zzz" not in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("serve", "--" + "x" * 100), f"Error: No such option: --{'x' * 100}"),
        (("inspect", "[heads.reward]" * 9), f"error '{'[heads.reward]' * 9}' is neither a model"),
    ],
)
def test_a_piped_error_is_one_line(tmp_path: Path, arguments: tuple[str, str], line: str) -> None:
    """Neither a box nor markup: what is in brackets is said as it is."""
    shown = piped(*arguments, cwd=tmp_path)

    assert any(one.startswith(line) for one in shown.stderr.splitlines()), shown.stderr
    assert "\x1b" not in shown.stderr
