"""One scoring request to several targets: each item scored by each of them, in one go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assay import wire
from assay.errors import InvalidField
from assay.scoring import call as calls
from assay.scoring import garbage, validation
from assay.scoring.call import Call
from assay.scoring.scorer_call import ScorerCall
from assay.scoring.target_union import TargetUnion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from assay.items import Source
    from assay.scoring.call import ScoredItem
    from assay.scoring.driver import Handler
    from assay.scoring.items import Path
    from assay.scoring.results import RequestResult
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

Row = tuple["ScoredItem", ...]  # what each target made of one item


class MultiCall:
    """A request with `targets`; refused where its options mean nothing to a required one.

    `named` are these targets, in the request's order, and so are the first of the `calls`, but for
    the optional ones that are `refused`: by their names, why. `lead` is the one whose reward stands
    beside `rewards`, if there is one, and its place among the calls.
    """

    def __init__(
        self,
        scorer: Scorer,
        lead: Target | None,
        named: Sequence[Target],
        request: wire.ScoreRequest,
        route: str,
        *,
        caller: str = "",
    ) -> None:
        validation.check_each(named, request)
        self._named = dict(
            zip((entry.target for entry in request.targets or []), named, strict=True)
        )
        self.names = list(self._named)
        self.calls: list[Call] = []
        self.refused: dict[str, InvalidField] = {}
        required = []
        for place, entry in enumerate(request.targets or []):
            try:
                call = _named_call(scorer, named, place, request, route, caller)
            except InvalidField as error:
                is_of_entry = error.param is not None and error.param.startswith("targets[")
                if entry.required or named[place] is lead or is_of_entry:
                    raise
                self.refused[entry.target] = error
            else:
                self.calls.append(call)
                required.append(entry.required)
        self.lead: int | None = None
        if lead is not None:
            served = [call.target.name for call in self.calls]
            if lead.name not in served:
                options = validation.for_target(lead, request)
                self.calls.append(Call(scorer, lead, options, route, caller=caller))
                required.append(True)
            self.lead = served.index(lead.name) if lead.name in served else len(served)
            required[self.lead] = True
        if not self.calls:
            raise next(iter(self.refused.values()))
        self.union = TargetUnion.of([call.target for call in self.calls], required)
        self._scoring = ScorerCall(
            scorer, self.union, request, route, caller, calls.cutting_of(request)
        )

    def run(self, sources: list[Source], path: Path) -> Handler[tuple[RequestResult, list[Row]]]:
        """Score the items; raise the first that a required target can't, if the caller wants."""
        outcome = yield from self._scoring.score(sources, path)
        columns = [call.judged(sources, outcome.of(place)) for place, call in enumerate(self.calls)]
        rows = list(zip(*columns, strict=True))
        garbage.note([*outcome.by_target, *columns, rows])
        return outcome, rows

    def envelope(self, outcome: RequestResult, request_id: str) -> dict[str, object]:
        """Return what the answer has around its data."""
        lead = None if self.lead is None else self.calls[self.lead]
        answering = lead.target if lead else TargetUnion.of(list(self._named.values()))
        used = {call.target.name: call.calibrated.id for call in self.calls}
        targets = {
            name: wire.TargetRevision(
                model=target.name,
                revision=target.revision,
                calibration=used.get(target.name),
                calibrations=target.calibrations or None,
            )
            for name, target in self._named.items()
        }
        return {
            **calls.envelope(answering.name, answering.revision, outcome, request_id),
            "calibration": lead.calibrated.id if lead else None,
            "calibrations": (lead.target.calibrations or None) if lead else None,
            "targets": targets,
        }


def _named_call(
    scorer: Scorer,
    named: Sequence[Target],
    place: int,
    request: wire.ScoreRequest,
    route: str,
    caller: str,
) -> Call:
    """Return the call of one of the `targets`, by its place among them.

    Raises:
        InvalidField: It was named before under another name, or an option means nothing to it.
    """
    entry, target = (request.targets or [])[place], named[place]
    if target.name in [other.name for other in named[:place]]:
        raise InvalidField(
            f"'{entry.target}' is '{target.name}', which is named already; name each once",
            param=f"targets[{place}]",
        )
    try:
        options = validation.for_target(target, request, entry)
        return Call(scorer, target, options, route, caller=caller)
    except InvalidField as error:
        param = error.param
        if param == "model":
            param = f"targets[{place}]"
        elif param in entry.model_fields_set:
            param = f"targets[{place}].{param}"
        raise InvalidField(error.message, param=param) from None
