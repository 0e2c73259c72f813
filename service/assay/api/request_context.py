"""One request on its way: who asks, of whom, and how it ends.

The middleware makes it, routes note in it what they learn, and what is counted, traced, logged and
answered to an error is read off it, once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastapi import Request
    from starlette.types import Scope

    from assay.api.holdings import Holding
    from assay.errors import AssayError
    from assay.scoring.scorer import Scorer
    from assay.scoring.targets import Target

    Shape = Callable[[AssayError, str], tuple[int, Any]]  # of a request's id, to status and body

REVISION = "x-assay-revision"


@dataclass(slots=True, eq=False)
class RequestContext:
    """What is known of a request so far."""

    request_id: str
    holding: Holding
    peer: str  # the address at the other end of the connection; a local socket's has none
    route: str  # as metrics call it
    shape: Shape  # how its errors look
    caller: str | None = None  # the name of its API key
    shows_all: bool = False  # whether it may know what is served, and where
    body: Any = None  # its `body.Body`, once it was read
    models: tuple[str, ...] = ()  # the target that was asked last, or several of one request
    headers: dict[str, str] = field(default_factory=dict)  # of its answer
    outcome: str = ""  # "ok", "partial", "client_gone" or an error's code; only what is counted
    scorer: Scorer = field(init=False)  # who answers it: the one that it met, to the end

    @property
    def model(self) -> str:
        """The target that was asked last, or all of several."""
        return "+".join(self.models)

    def target(self, name: str | None) -> Target:
        """Return the target that is asked: the default one of no name.

        Raises:
            UnknownTarget: Nothing of that name is served.
        """
        target = self.scorer.target(name)
        self.answered_by((target.name,), target.revision)
        return target

    def answered_by(self, models: Iterable[str], revision: str) -> None:
        """Note which targets answer, and the revision of their answer."""
        self.models = tuple(models)
        self.headers[REVISION] = revision


def context_of(request: Request) -> RequestContext:
    """Return a request's own."""
    return context_in(request.scope)


def context_in(scope: Scope) -> RequestContext:
    """Return the one that an ASGI scope carries."""
    context: RequestContext = scope["state"]["context"]
    return context
