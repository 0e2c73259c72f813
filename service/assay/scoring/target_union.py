"""Several targets that one request asks: their models, each of which reads an item once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from assay.cards import repository
from assay.errors import AssayError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from assay.items import TokenizedItem
    from assay.prompts.models import Model
    from assay.scoring.targets import Target


@dataclass(frozen=True, slots=True)
class TargetUnion:
    """What one request asks: one target, or several; a model that two share stands here once.

    An item that a required target can't read is read by none; what another can't read, it alone
    leaves out.
    """

    targets: tuple[Target, ...]
    required: tuple[bool, ...]
    members: tuple[Model, ...]
    places: tuple[tuple[int, ...], ...]  # of each target's models among `members`
    required_places: frozenset[int] = field(default=frozenset())  # of models of required targets

    @classmethod
    def of(cls, targets: Sequence[Target], required: Sequence[bool] = ()) -> Self:
        """Return the union; all are required where nothing is said."""
        needed = tuple(required) or (True,) * len(targets)
        models = {model.name: model for target in targets for model in target.members}
        numbers = {name: number for number, name in enumerate(models)}
        places = tuple(tuple(numbers[model.name] for model in target.members) for target in targets)
        return cls(
            tuple(targets),
            needed,
            tuple(models.values()),
            places,
            frozenset(
                place
                for own, is_required in zip(places, needed, strict=True)
                if is_required
                for place in own
            ),
        )

    @property
    def name(self) -> str:
        """The target's name, or all names."""
        return "+".join(target.name for target in self.targets)

    @property
    def revision(self) -> str:
        """The target's revision, or one of all."""
        if len(self.targets) == 1:
            return self.targets[0].revision
        return repository.combined_revision(target.revision for target in self.targets)

    def without(self, absent: Collection[int]) -> TargetUnion:
        """Return the union of the other targets, by their places."""
        if not absent:
            return self
        kept = [place for place in range(len(self.targets)) if place not in absent]
        return TargetUnion.of(
            [self.targets[place] for place in kept], [self.required[place] for place in kept]
        )

    def readers(self, row: Sequence[TokenizedItem | AssayError]) -> Sequence[int]:
        """Return the places of the members that are to read an item; `row` is what each would."""
        refusing = {place for place, item in enumerate(row) if isinstance(item, AssayError)}
        if not refusing:
            return range(len(row))
        if not refusing.isdisjoint(self.required_places):
            return ()
        reading = (own for own in self.places if refusing.isdisjoint(own))
        return sorted({place for own in reading for place in own})
