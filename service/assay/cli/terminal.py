"""Where the command line prints: a terminal gets colours and its width, a pipe plain whole lines.

A string is printed as it is: brackets are no markup, `:name:` is no emoji. What is to be emphasised
is a `rich.text.Text`.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    Cell = str | Text

_UNBOUNDED = 1 << 20  # characters of a line off a terminal: nothing is wrapped or cut


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person reads a stream; COLUMNS and FORCE_COLOR don't make it so."""
    return stream is not None and not stream.closed and stream.isatty()


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output or error."""
    is_seen = is_terminal(sys.stderr if stderr else sys.stdout)
    return Console(
        stderr=stderr,
        force_terminal=is_seen,
        width=None if is_seen else _UNBOUNDED,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=True,
    )


out = console()
err = console(stderr=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Cell]], *, as_json: bool = False) -> None:
    """Print rows under their heads; off a terminal each is one line, nothing of it cut.

    As JSON they are a list of objects, whose keys are the heads.
    """
    if as_json:
        objects = [dict(zip(head, map(str, row), strict=True)) for row in rows]
        return out.print(json.dumps(objects, ensure_ascii=False, indent=2))
    if not out.is_terminal:
        return _lines([head, *rows])
    grid = Table(box=None)
    for name in head:
        grid.add_column(name, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return out.print(grid, soft_wrap=False)


def _lines(rows: Sequence[Sequence[Cell]]) -> None:
    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        out.print("  ".join(padded).rstrip())
