"""Of a trunk's last layer, what is read: keys and values of all rows, the rest of a few.

Nothing after the last layer looks at a row that no head reads. So its queries, its attention, its
output projection and its feed-forward part are computed for the rows that are read, and for the
others only what these attend to. No score moves: a row's arithmetic doesn't depend on its company.

The layer itself is called twice, whatever its architecture: once with all rows, until it attends;
then with the read rows, whose queries meet the keys and values of the first call. Where a layer
has a projection for its queries alone, the first call is of a copy without it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from assay.engine.attention import interface
from assay.engine.compilation import repeated_blocks
from assay.engine.layer_rows import RowArguments, rows_of

_QUERIES = {"q_proj", "query"}  # what transformers' classes call the projection of queries


class LastLayer:
    """The last layer of a trunk, called inside `interface.over`; `install` it first."""

    def __init__(self, trunk: torch.nn.Module, layers: int, *, drops_queries: bool) -> None:
        """Take the last of a trunk's layers, of which so many attend.

        With `drops_queries` the first call is of a copy that projects no queries.

        Raises:
            interface.UnsupportedAttention: There is no such layer, or no such projection.
        """
        blocks = repeated_blocks(trunk)
        if not blocks:
            raise interface.UnsupportedAttention
        self._number = layers - 1
        self._layer = blocks[-1][-1]
        self._whole = _without_queries(self._layer) if drops_queries else self._layer
        self._arguments = RowArguments(self._layer)
        self._hook: Any = None

    def install(self) -> None:
        """Compute what the batch at hand reads from now on."""
        self._hook = self._layer.register_forward_pre_hook(self._narrow, with_kwargs=True)

    def remove(self) -> None:
        """Compute all rows again."""
        self._hook.remove()

    def _narrow(
        self, layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Take the keys and values of all rows; return the arguments of those that are read."""
        if interface.rows_read(self._number) is None:
            return None
        with interface.taking_keys():
            type(layer).forward(self._whole, *args, **kwargs)  # neither hooks nor compiled code
        device = self._arguments.named(args, kwargs)["hidden_states"].device
        index = interface.filled_rows(device)
        return self._arguments.changed(args, kwargs, lambda _, value: rows_of(value, index))


def _without_queries(layer: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of a layer, of the same weights, that has one head of queries, all zero."""
    paths = [path for path, _ in layer.named_modules() if path.split(".")[-1] in _QUERIES]
    if len(paths) != 1:
        raise interface.UnsupportedAttention
    *parents, projection = paths[0].split(".")
    copied = attention = _shallow(layer)
    for name in parents:
        inner = _shallow(getattr(attention, name))
        setattr(attention, name, inner)
        attention = inner
    names = ("head_dim", "attention_head_size")
    width = next((getattr(attention, name) for name in names if hasattr(attention, name)), None)
    if not isinstance(width, int):
        raise interface.UnsupportedAttention
    setattr(attention, projection, _Zeros(width))
    return copied


def _shallow(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module of the same parts, which can be exchanged in it alone."""
    copied = copy.copy(module)
    vars(copied)["_modules"] = dict(vars(module)["_modules"])
    return copied


class _Zeros(torch.nn.Module):
    """In a projection's place: zeros, (…, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self._width = width

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return them for each row of a state."""
        return state.new_zeros(*state.shape[:-1], self._width)
