"""What a response's text has beside its merit, as a number: a score may be controlled for one.

A function of the text alone, so that an item's controlled score doesn't depend on others.
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Covariate = Literal["characters", "markdown", "list_items"]

_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+\S", re.MULTILINE)
_EMPHASIS = re.compile(r"\*\*[^*\n]+\*\*|`[^`\n]+`")


def characters(text: str) -> float:
    """Return the length in characters: what the metrics call the length of a response."""
    return float(len(text))


def list_items(text: str) -> float:
    """Return the number of lines that begin as an item of a list."""
    return float(len(_LIST_ITEM.findall(text)))


def markdown(text: str) -> float:
    """Return the share of lines with marks of Markdown: list items, headings, emphasis, code."""
    lines = [line for line in text.splitlines() if line.strip()]
    marked = sum(
        bool(_LIST_ITEM.match(line) or _HEADING.match(line) or _EMPHASIS.search(line))
        for line in lines
    )
    return marked / len(lines) if lines else 0.0


COVARIATES: Mapping[Covariate, Callable[[str], float]] = MappingProxyType(
    {"characters": characters, "markdown": markdown, "list_items": list_items}
)
