"""A layer called with other rows than the ones it was given, whatever its architecture."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_BY_ROW = ("hidden_states", "position_embeddings", "position_ids", "cache_position")


class RowArguments:
    """Which of a layer's arguments have a row for each token."""

    def __init__(self, layer: torch.nn.Module) -> None:
        self._names = list(inspect.signature(type(layer).forward).parameters)[1:]

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return all arguments by their names."""
        return dict(zip(self._names, args, strict=False)) | kwargs

    def changed(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        change: Callable[[str, torch.Tensor], torch.Tensor],
    ) -> Arguments:
        """Return them with other rows; `change` gets a name and (1, rows, …) or (rows,)."""
        named = self.named(args, kwargs)
        new = {
            name: _each(value, name, change) if name.startswith(_BY_ROW) else value
            for name, value in named.items()
        }
        return tuple(new[name] for name in self._names[: len(args)]), {n: new[n] for n in kwargs}


def rows_of(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return some rows of what a layer is given: (1, rows, …) or (rows,)."""
    return value.index_select(1 if value.dim() > 1 else 0, index)


def _each(value: Any, name: str, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """Change a tensor, or each of several."""
    if isinstance(value, torch.Tensor):
        return change(name, value)
    if isinstance(value, tuple):
        return tuple(_each(part, name, change) for part in value)
    return value
