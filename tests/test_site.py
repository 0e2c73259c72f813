"""The documentation as a site: it builds strictly, and no page loads anything from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LOADED = re.compile(r"""<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"|<link[^>]*\shref="([^"]+)\"""")
_IN_STYLES = re.compile(r"""url\(["']?(?:https?:)?//|@import\s+["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, images and fonts are the site's own."""
    pages = list(site.rglob("*.html"))
    foreign = {
        (page.name, one)
        for page in pages
        for found in _LOADED.findall(page.read_text(encoding="utf-8"))
        for one in found
        if re.match(r"(https?:)?//", one)
    }
    styles = [
        style.name for style in site.rglob("*.css") if _IN_STYLES.search(style.read_text("utf-8"))
    ]

    # What the theme would fetch by itself: a script for diagrams, facts of a repository.
    fetching = ('class="mermaid"', 'data-md-component="source"')

    assert len(pages) > 40
    assert [page.name for page in pages if any(one in page.read_text() for one in fetching)] == []
    assert foreign == set()
    assert styles == []
