"""What a caller is told of a start that nobody has seen yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.scoring import starts

if TYPE_CHECKING:
    from pathlib import Path

GB = 1_000_000_000


def checkpoint(folder: Path, *sizes: int) -> Path:
    """Make a folder with weights of these sizes, of which none is written."""
    folder.mkdir()
    for number, size in enumerate(sizes):
        with (folder / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(size)
    (folder / "tokenizer.json").write_text("{}" * 1_000)
    return folder


def test_a_first_start_is_guessed_by_the_bytes_to_read(tmp_path: Path) -> None:
    """By every file of every model's weights, and by nothing else; more of them take longer."""
    small = checkpoint(tmp_path / "small", GB)
    large = checkpoint(tmp_path / "large", 5 * GB, 5 * GB)
    least = starts.guess([checkpoint(tmp_path / "empty")])

    assert least == starts.guess([]) > 0
    assert starts.guess([small]) > least
    assert starts.guess([large]) - least == 10 * (starts.guess([small]) - least)
    assert starts.guess([small, large]) - least == 11 * (starts.guess([small]) - least)
