"""`python -m assay.reference docs`: write what is generated into the pages of a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from assay.cards import reference as cards
from assay.reference import cli, errors, http, python, settings
from assay.telemetry import reference as metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGES: Mapping[str, Callable[[], str]] = {
    "cards.md": cards.markdown,
    "cli.md": cli.markdown,
    "errors.md": errors.markdown,
    "http.md": http.markdown,
    "metrics.md": metrics.markdown,
    "python.md": python.markdown,
    "settings.md": settings.markdown,
}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, markdown in PAGES.items():
        page = folder / name
        text = page.read_text(encoding="utf-8")
        page.write_text(cards.filled(text, markdown()), encoding="utf-8")
