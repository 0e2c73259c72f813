"""The pages of the site that don't lie in docs/, and the links among all pages.

A link is written as it holds in the repository; in the site it leads to the same file's page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Files of the repository by the path that they have in the site.
OUTSIDE = {
    "index.md": "README.md",
    "deploy.md": "deploy/README.md",
    "starter.md": "models/starter/README.md",
    "results.md": "loadtest/RESULTS.md",
    "sweep.png": "loadtest/sweep.png",
    "loadtest.md": "loadtest/README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
_SITE = {source: page for page, source in OUTSIDE.items()}
# Where a list follows its sentence at once, which Python-Markdown takes for one paragraph.
_LIST = re.compile(r"(?<=:\n)(?=- )")
_LINK = re.compile(r"\]\((?![a-z]+:)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/."""
    for page, source in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links within the repository into links within the site, and keep lists lists."""
    here = page.file.src_uri
    source = posixpath.dirname(OUTSIDE.get(here, f"docs/{here}"))

    def linked(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(source, found[1]))
        to = _SITE.get(target, posixpath.relpath(target, "docs"))
        return f"]({posixpath.relpath(to, posixpath.dirname(here) or '.')}{found[2] or ''})"

    return _LINK.sub(linked, _LIST.sub("\n", markdown))
