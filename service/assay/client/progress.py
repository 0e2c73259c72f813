"""A progress bar on stderr, where rich is installed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(total: int | None, *, enabled: bool) -> Iterator[Callable[[int], object]]:
    """Yield what counts finished elements, and shows them if wanted.

    Raises:
        ModuleNotFoundError: rich isn't installed.
    """
    if not enabled:
        yield lambda _: None
        return
    try:
        from rich import progress  # noqa: PLC0415  optional
        from rich.console import Console  # noqa: PLC0415
    except ModuleNotFoundError as error:
        message = "progress=True needs rich; install it with pip install rich"
        raise ModuleNotFoundError(message, name=error.name) from None
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn())
    with progress.Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("asking", total=total)
        yield lambda done: bars.advance(task, done)
