"""The guides: what they show runs here, and what they point at is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.guides.conftest import DOCS, EXAMPLES

GUIDES = sorted((DOCS / "guides").glob("*.md"))
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
_CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def linked(guide: Path) -> list[Path]:
    """Return the files that a guide points at."""
    found = _LINK.findall(guide.read_text(encoding="utf-8"))
    return [(guide.parent / link).resolve() for link in found if "://" not in link]


def named_by_tests() -> set[str]:
    """Return every string of the tests: among them are the programs they run or import."""
    names = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return names


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_every_example_is_run_by_a_test(program: Path) -> None:
    """By its file's name, or imported by its module's."""
    assert {program.name, program.stem} & named_by_tests()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_every_example_is_shown_by_a_guide(program: Path) -> None:
    """A page links it and has some of its code, or all."""
    pages = [guide for guide in GUIDES if program in linked(guide)]
    code = program.read_text(encoding="utf-8")
    shown = [one for page in pages for one in _CODE.findall(page.read_text(encoding="utf-8"))]

    assert any(one in code for one in shown), f"shown by {[page.name for page in pages]}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_guides_python_is_an_examples(guide: Path) -> None:
    """Each block stands in a program that the page links, word for word."""
    programs = [path.read_text(encoding="utf-8") for path in linked(guide) if path in PROGRAMS]

    for block in _CODE.findall(guide.read_text(encoding="utf-8")):
        assert any(block in program for program in programs), block


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_guides_links_exist(guide: Path) -> None:
    """Every file that a page points at."""
    assert [path for path in linked(guide) if not path.exists()] == []


def test_the_index_lists_every_guide() -> None:
    """And nothing is in the folder that can't be found from it."""
    index = DOCS / "guides" / "README.md"

    assert set(linked(index)) >= {guide for guide in GUIDES if guide != index}
