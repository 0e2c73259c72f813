"""Requests made from the OpenAPI document, right and wrong ones, and what answers must keep."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import Unsatisfiable
from requests import Session
from schemathesis import GenerationMode
from schemathesis.checks import load_all_checks
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

if TYPE_CHECKING:
    from schemathesis import APIOperation, Case

    from tests.http.processes import Server

TARGETS = ["tiny", "crew", "helpsteer", "pairrm", "math"]
_NOT_HERE = frozenset({"/admin/reload", "/admin/load"})  # they take seconds; `tests.http` has them
_TIMEOUT_S = 60.0
_TWO_WAYS = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
load_all_checks()
_CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@dataclass(slots=True)
class Tally:
    """How many requests were answered how, and the first failure of each route and way."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many requests there were."""
        return self.statuses.total()

    def by_status(self) -> dict[int, int]:
        """Return how many requests were answered with each status."""
        counts: Counter[int] = Counter()
        for (_, status), count in self.statuses.items():
            counts[status] += count
        return dict(sorted(counts.items()))


def operations(server: Server) -> list[APIOperation[Any, Any, Any]]:
    """Return every operation of the server's document, asking for targets that are served."""
    document = server.http.get("/openapi.json").json()
    for schema in document["components"]["schemas"].values():
        _name_targets(schema.get("properties", {}))
    schema = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in schema.get_all_operations()]
    return [one for one in found if one.path not in _NOT_HERE]


def _name_targets(properties: dict[str, Any]) -> None:
    """Let generated requests ask for what is served, most of the time; answers have it, too."""
    model = properties.get("model")
    if model is not None and model.get("type") != "string":
        properties["model"] = {"anyOf": [{"enum": [*TARGETS, None]}, {**model}]}


def tried(server: Server, cases: int, seed: int) -> Tally:
    """Send at least so many cases over all operations, and return what came of them."""
    tally = Tally()
    every = operations(server)
    with Session() as session:
        session.headers.update(Authorization=server.http.headers.get("Authorization", ""))
        while (left := cases - tally.cases) > 0:  # some operations have few, whatever is asked for
            each = -(-left // (len(_TWO_WAYS) * len(every)))
            for operation in every:
                for mode in _ways(operation):
                    _try(operation, mode, server, session, tally, each, seed)
            seed += 1
    return tally


def _ways(operation: APIOperation[Any, Any, Any]) -> tuple[GenerationMode, ...]:
    """Return the modes in which something can be generated: nothing is wrong without any input."""
    has_input = any(map(len, (operation.body, operation.query, operation.path_parameters)))
    return _TWO_WAYS if has_input else _TWO_WAYS[:1]


def _try(
    operation: APIOperation[Any, Any, Any],
    mode: GenerationMode,
    server: Server,
    session: Session,
    tally: Tally,
    count: int,
    seed: int,
) -> None:
    @seeded(seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        _send(case, server, session, tally)

    with suppress(Unsatisfiable):  # nothing is wrong for a path that takes anything
        send()


def _send(case: Case, server: Server, session: Session, tally: Tally) -> None:
    route = f"{case.method} {case.operation.path}"
    response = case.call(base_url=server.url, session=session, timeout=_TIMEOUT_S)
    tally.statuses[route, response.status_code] += 1
    try:
        assert response.status_code != 500, "500"
        case.validate_response(response, checks=_CHECKS)
    except (AssertionError, FailureGroup) as error:
        body = str(case.body)[:600]
        tally.failures.append(f"{route} {response.status_code} {body}\n{error}")
