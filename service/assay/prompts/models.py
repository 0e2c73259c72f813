"""What the front knows of a checkpoint: data alone. Its template and tokenizer are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from pathlib import Path

    from assay.cards.calibration import Calibration
    from assay.cards.card import Card
    from assay.cards.repository import Checkpoint
    from assay.errors import AssayError
    from assay.items import Truncation
    from assay.worker_protocol import Inputs

Kind = Literal["model", "ensemble", "policy"]


@dataclass(frozen=True, slots=True)
class Padding:
    """What a tokenizer pads with, and ends and begins sequences with."""

    text: str | None
    eos_text: str | None
    id: int | None
    eos_id: int | None
    bos_id: int | None

    def taken_off_text(self, text: str) -> str:
        """Return a text without the padding tokens that stand before and after it.

        Of a padding token that is EOS, too, one is left behind it.
        """
        pad = self.text
        if not pad:
            return text
        begin, end = 0, len(text)
        while text.startswith(pad, begin, end):
            begin += len(pad)
        while text.endswith(pad, begin, end):
            end -= len(pad)
        kept = text[begin:end]
        return kept + pad if pad == self.eos_text and end < len(text) else kept

    def taken_off_ids(self, ids: list[int]) -> list[int]:
        """Return ids without the padding that stands before and after them.

        Of EOS, which clients pad with, too, one is left behind them.
        """
        begin, end = 0, len(ids)
        is_its_own = self.id is not None and self.id not in (self.eos_id, self.bos_id)
        while is_its_own and begin < end and ids[begin] == self.id:
            begin += 1
        while is_its_own and begin < end and ids[end - 1] == self.id:
            end -= 1
        while end - begin > 1 and ids[end - 1] == ids[end - 2] == self.eos_id:
            end -= 1
        return ids[begin:end]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint's template and tokenizer say of themselves."""

    max_tokens: int
    truncation: Truncation  # unless a request says
    inputs: Inputs  # by config.json
    padding: Padding
    card_in_ids: Card  # its heads name tokens by their ids


@dataclass(frozen=True, slots=True)
class Model:
    """One checkpoint with what the front needs of it."""

    name: str
    checkpoint: Checkpoint
    files: str  # the revision of the checkpoint alone
    revision: str  # with the settings that change its scores, where any are given
    template_key: str  # equal for models whose items render alike
    facts: Facts
    trusted: str | None = None  # the digest of its own code, where that is what serves it


@dataclass(frozen=True, slots=True)
class Resolved:
    """What one argument of `assay serve` stands for: a model, an ensemble's members, a policy."""

    name: str
    card: Card
    kind: Kind
    models: tuple[Model, ...]  # of a policy also its reference, if it has one
    notes: tuple[str, ...] = ()  # how it was told whose it is
    notices: tuple[str, ...] = ()  # what an operator should know
    calibration: Calibration | None = None  # that lies beside its card


@dataclass(frozen=True, slots=True)
class Reading:
    """A sample as a model reads it: its tokens, and the places that heads read."""

    tokens: list[str]
    places: list[int]


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a checkpoint was found to be, and why it can't be served, if it can't."""

    name: str
    folder: Path
    family: str
    card: Card
    doubts: tuple[str, ...]
    notes: tuple[str, ...]
    notices: tuple[str, ...] = ()  # what an operator should know, and may leave as it is
    reading: Reading | None = None
    no_reading: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)  # ours -> the chat template's own
    models: tuple[Model, ...] = ()  # that were found sound
    problem: AssayError | None = None


@dataclass(frozen=True, slots=True)
class ResolveSettings:
    """The settings by which a reference is resolved."""

    repository: Path
    trust: tuple[str, ...] = ()  # NAME@DIGEST of those whose own code may be run
    names: tuple[tuple[str, str], ...] = ()  # what a reference is to be served under
    max_tokens: int | None = None
    dtype: str = "auto"
    quantize: str = "auto"
    remotes: frozenset[str] = frozenset()  # the names of those whose weights are elsewhere
    moment: datetime | None = None  # what chat templates take for now; None: when they are read

    @property
    def trusted(self) -> frozenset[str]:
        """The names of those whose own code may be run, at whatever digest."""
        return frozenset(entry.rpartition("@")[0] for entry in self.trust)

    def name(self, reference: str) -> str | None:
        """Return what a reference is to be served under; None: as it says itself."""
        return dict(self.names).get(reference)
