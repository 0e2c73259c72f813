"""How many numbers a card's heads give, by their tensors' shapes alone: no weight is read.

A layer that doesn't take what the one before it gives is named by its path in the card. What the
layers compute: `engine.head`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay.cards import mechanism
from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable

    Shape = tuple[int, ...]
    Shapes = Callable[[str], Shape]  # of a tensor by name; raises CheckpointError

VOCABULARY = "the output embedding"  # asked for under this name, whatever it is in the files
_MATRIX = 2  # dimensions
_STACK = 3


def of_head(path: str, head: mechanism.Head, shapes: Shapes, hidden: int | None) -> int | None:
    """Return how many numbers a head gives for `hidden` ones at a place; None: can't be told.

    Raises:
        CheckpointError: A tensor isn't there, or doesn't fit; the message begins with its field.
    """
    width = hidden and hidden * head.joined
    for number, layer in enumerate(head.layers):
        width = _Layer(f"{path}.layers.{number}", shapes, width).after(layer)
    return width


class _Layer:
    """One layer, by its path in the card, and how many numbers it is given."""

    def __init__(self, path: str, shapes: Shapes, width: int | None) -> None:
        self._path = path
        self._shapes = shapes
        self._width = width

    def after(self, layer: mechanism.Layer) -> int | None:  # noqa: C901, PLR0911, PLR0912  a case each
        """Return how many numbers it gives."""
        match layer:
            case mechanism.Linear():
                return self._linear(layer)
            case mechanism.LinearEach():
                return self._linear_each(layer)
            case mechanism.BatchNorm():
                for name in ("weight", "bias", "running_mean", "running_var"):
                    self._one_a_number("name", f"{layer.name}.{name}")
            case mechanism.Standardize():
                for field, tensor in (("mean", layer.mean), ("var", layer.var)):
                    self._one_a_number(field, tensor, or_one=True)
            case mechanism.Scale(factor=str(name)):
                self._one_a_number("factor", name, or_one=True)
            case mechanism.Softmax():
                self._parts("groups", layer.groups)
            case mechanism.Mean():
                self._parts("groups", layer.groups)
                return layer.groups
            case mechanism.Take():
                self._places(layer.places)
                return len(layer.places)
            case mechanism.Expected() | mechanism.Deviation():
                self._parts("bins", layer.bins)
                return self._width and self._width // layer.bins
            case mechanism.Norm():
                return 1
            case mechanism.Vocabulary():
                self._linear_of("tokens", self._shape("tokens", VOCABULARY), transposed=False)
                return len(layer.tokens)
        return self._width

    def _linear(self, layer: mechanism.Linear) -> int | None:
        shape = self._shape("weight", layer.weight)
        places: int | None = 1
        if layer.groups > 1:
            self._parts("groups", layer.groups)
            places = self._width and self._width // layer.groups
            self._width = layer.groups
        width = self._linear_of("weight", shape, transposed=layer.transposed)
        bias = () if layer.bias is None else self._shape("bias", layer.bias)
        if layer.bias is not None and bias != (width,):
            raise self._wrong("bias", f"'{layer.bias}' is {list(bias)}, and there are {width} rows")
        return places and places * width

    def _linear_each(self, layer: mechanism.LinearEach) -> int:
        """Return how many numbers all members give, who take the same ones or each its own."""
        shape = self._shape("weight", layer.weight)
        if len(shape) != _STACK:
            raise self._wrong("weight", f"the tensor is {list(shape)}, not (members, in, out)")
        members, size, width = shape
        if self._width is not None and self._width not in (size, members * size):
            raise self._wrong(
                "weight", f"{members} members take {size} numbers each, and are given {self._width}"
            )
        bias = () if layer.bias is None else self._shape("bias", layer.bias)
        if layer.bias is not None and bias != (members, width):
            raise self._wrong(
                "bias",
                f"'{layer.bias}' is {list(bias)}, and members and numbers [{members}, {width}]",
            )
        return members * width

    def _linear_of(self, field: str, shape: Shape, *, transposed: bool) -> int:
        """Return how many rows a matrix has, which takes what it is given."""
        if len(shape) != _MATRIX:
            raise self._wrong(field, f"the tensor is {list(shape)}, not a matrix")
        rows, columns = shape[::-1] if transposed else shape
        if self._width is not None and columns != self._width:
            turned = "; 'transposed' says it the other way round" if rows == self._width else ""
            raise self._wrong(field, f"takes {columns} numbers, and is given {self._width}{turned}")
        return rows

    def _one_a_number(self, field: str, name: str | None, *, or_one: bool = False) -> None:
        if name is None:
            return
        count = 1
        for size in self._shape(field, name):
            count *= size
        if self._width is not None and count != self._width and not (or_one and count == 1):
            raise self._wrong(field, f"'{name}' has {count} numbers for {self._width}")

    def _parts(self, field: str, count: int) -> None:
        if self._width is not None and self._width % count:
            raise self._wrong(field, f"{self._width} numbers are no multiple of {count}")

    def _places(self, places: list[int]) -> None:
        for place in places:
            if place < 0 or (self._width is not None and place >= self._width):
                raise self._wrong(
                    "places", f"{place} is none of {self._width} numbers, counted from 0"
                )

    def _shape(self, field: str, name: str) -> Shape:
        try:
            return self._shapes(name)
        except CheckpointError as error:
            raise self._wrong(field, error.message) from error

    def _wrong(self, field: str, why: str) -> CheckpointError:
        return CheckpointError(f"{self._path}.{field}: {why}")
