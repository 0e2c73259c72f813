"""The names and shapes of the tensors in a head's own `.pt` or `.bin`, without torch.

Nothing that a pickle names is ever imported or called: what isn't a tensor's frame becomes an inert
object. The worker reads the numbers, with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Self

from assay.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

_LEGACY_PREAMBLE = 3  # pickles before the object: a magic number, a version, the machine
_MOST_BYTES = 1 << 26  # of a pickle without its tensors' numbers


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that `torch.save` wrote, by name.

    Raises:
        CheckpointError: The file isn't torch's, or holds no tensors by name.
    """
    try:
        content = _content(path)
    except Exception as error:  # whatever a damaged pickle leads to
        raise CheckpointError(
            f"{path} can't be read as plain tensors ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no tensors by name")
    return dict(_of_tensors(content))


def _of_tensors(content: dict[Any, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, value in content.items():
        if isinstance(value, _Shape):
            yield str(name), value.sizes


def _content(path: Path) -> object:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_LEGACY_PREAMBLE):
                _Outline(file).load()
            return _Outline(file).load()
    with zipfile.ZipFile(path) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith("/data.pkl")]
        if archive.getinfo(name).file_size > _MOST_BYTES:
            raise pickle.UnpicklingError
        with archive.open(name) as file:
            return _Outline(file).load()


class _Shape:
    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes


class _Inert:
    """Stands for anything else: takes everything, does nothing."""

    def __new__(cls, *_: object, **__: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Inert:
        return self

    def __setstate__(self, _: object) -> None: ...


def _tensor(_storage: object, _offset: object, size: Any, *_: object) -> _Shape:
    return _Shape(tuple(map(int, size)))


def _parameter(data: object, *_: object) -> object:
    return data


class _Outline(pickle.Unpickler):
    """Builds a tensor's shape where torch would build the tensor."""

    _KNOWN = {  # noqa: RUF012  never changed
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch", "Size"): tuple,
    }

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name; never the thing itself."""
        return self._KNOWN.get((module, name), _Inert)

    def persistent_load(self, _: object) -> None:
        """Return nothing for a tensor's numbers."""
        return
