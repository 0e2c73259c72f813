"""What the lines of an output are of, beside it in a file of its own: nothing is mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assay import wire  # noqa: TC001  pydantic reads the annotations
from assay.errors import InvalidField

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX = ".state.json"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Kept):
    """Who answers; `dtype` is None where nobody knows. What only compares has no members."""

    model: str
    revision: str
    dtype: str | None = None
    only_compares: bool = Field(default=False, exclude=True)


class Options(_Kept):
    """What is asked beside the lines; `rule` picks the best of lines with several responses."""

    include: tuple[wire.Include, ...] = ("members",)
    activation: wire.Activation = "none"
    rule: wire.Rule | None = None
    aggregate: wire.Aggregate | None = None
    normalize: bool = False
    truncation: wire.Truncation | None = None


class Record(_Kept):
    """What the lines of an output are of."""

    target: Target
    input_sha256: str
    lines: int
    options: Options

    def differences(self, other: Record) -> list[str]:
        """Say what another run would do otherwise: what is there, and what there would be."""
        pairs = {
            "model": (self.target.model, other.target.model),
            "revision": (self.target.revision, other.target.revision),
            "dtype": (self.target.dtype, other.target.dtype),
            "input": (self.input_sha256[:12], other.input_sha256[:12]),
            **{
                f"--{name}": (_said(getattr(self.options, name)), _said(value))
                for name, value in other.options
            },
        }
        return [
            f"{name} {old} (now {new})"
            for name, (old, new) in pairs.items()
            if old != new and not (name == "dtype" and None in {old, new})
        ]


def path(sink: Path) -> Path:
    """Return the file beside an output."""
    return sink.with_name(sink.name + _SUFFIX)


def settle(sink: Path, held: int, ours: Record) -> None:
    """Write what this run is of, or find that the lines that are there are of the same.

    Raises:
        InvalidField: They are of something else, or nobody knows of what.
    """
    existing = _read(sink) if held else None
    if held and existing is None:
        raise InvalidField(
            f"{sink} holds {held} lines, and nothing says what of ({path(sink).name} is missing); "
            f"{_WAY_OUT}"
        )
    if existing is not None and (others := existing.differences(ours)):
        raise InvalidField(f"{sink} holds {held} lines of {', '.join(others)}; {_WAY_OUT}")
    if held > ours.lines:
        raise InvalidField(f"{sink} has more lines than there are to score; {_WAY_OUT}")
    if existing is None:
        _write(sink, ours)


_WAY_OUT = "move it away, or name another with --output"


def _read(sink: Path) -> Record | None:
    try:
        return Record.model_validate_json(path(sink).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise InvalidField(f"{path(sink)} can't be read; {_WAY_OUT}") from error


def _write(sink: Path, record: Record) -> None:
    """Write it whole or not at all."""
    beside = path(sink).with_suffix(".new")
    beside.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    beside.replace(path(sink))


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(sorted(map(str, value))) or "none"
    return "none" if value is None else str(value)
