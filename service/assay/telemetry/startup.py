"""How far the start has come: bars for a person, a line each for a log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from assay import worker_protocol

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger("assay.start")
_STEPS = {"load": 0, "verify": 1, "compile": 2, "warm up": 3}


class StartupDisplay:
    """Shows each model's stages. Use as a context manager around the start."""

    def __init__(self, console: Console | None = None, *, has_bars: bool = True) -> None:
        self._console = console or Console(stderr=True)
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[stage]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            disable=not (has_bars and self._console.is_terminal),
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the last state on the screen."""
        self._bars.stop()

    def show(self, device: str, message: worker_protocol.Progress | worker_protocol.Loaded) -> None:
        """Take one message of a worker."""
        key = (device, message.model)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(message.model, total=len(_STEPS), stage="")
        if isinstance(message, worker_protocol.Loaded):
            compiled = ", compiled" if message.is_compiled else ""
            quantized = "" if message.quantized == "none" else f" quantized to {message.quantized}"
            others = [name for name in message.shared_base if name != message.model]
            base = f", on one base with {', '.join(others)}" if others else ""
            summary = (
                f"{message.forward} ({message.attention}{compiled}) on {message.device}, "
                f"{message.dtype}{quantized}, "
                f"{message.parameters / 1e6:.1f}M parameters{base}, "
                f"batches of {message.budget_tokens} tokens, {message.tokens_per_s:,.0f} tokens/s"
            )
            self._bars.update(self._tasks[key], completed=len(_STEPS), stage=summary)
            self._log("%s is ready: %s", message.model, summary)
            for warning in message.warnings:
                logger.warning("%s: %s", message.model, warning)
            return
        self._bars.update(
            self._tasks[key],
            completed=_STEPS[message.stage] + message.fraction,
            stage=message.stage,
        )
        self._log("%s: %s", message.model, message.stage)

    def _log(self, text: str, *values: object) -> None:
        if self._bars.disable:
            logger.info(text, *values)
