"""From an HTTP response to a typed answer, or to the error of the server's tree."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from assay import errors, wire

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

AnswerT = TypeVar("AnswerT", bound=wire.Answer)
AWAY = (errors.NotReady, errors.Overloaded, errors.Draining)  # nothing was done; ask again
_LONGEST_WAIT_S = 300.0
# What a proxy answers when the server behind it doesn't.
_IN_THE_WAY: dict[int, type[errors.AssayError]] = {
    413: errors.BodyTooLarge,
    429: errors.Overloaded,
    **dict.fromkeys((408, 425, 502, 503, 504), errors.NotReady),
    **dict.fromkeys((520, 521, 522, 523, 524), errors.NotReady),  # Cloudflare's
}


def read(response: httpx.Response, kind: type[AnswerT], via: str = "") -> AnswerT:
    """Return the answer; `via` names a proxy that may have answered instead.

    Raises:
        AssayError: The server's error, of the server's class.
    """
    status = response.status_code
    try:
        if response.is_success:
            return kind.model_validate_json(response.content)
        body = wire.ErrorAnswer.model_validate_json(response.content).error
    except ValidationError as error:
        if response.is_success and _is_cut(response.content, error):
            raise errors.NotReady(f"the server's answer ended early{via}") from None
        raise _IN_THE_WAY.get(status, errors.ServiceError)(
            f"the server answered {status}, and not in Assay's shape; check the URL{via}",
            retry_after_s=_stated_s(response),
        ) from None
    unknown = errors.NotReady if status == errors.NotReady.status else errors.ServiceError
    raise _error_class(body.code, unknown)(
        body.message, param=body.param, retry_after_s=_stated_s(response)
    )


def _is_cut(content: bytes, error: ValidationError) -> bool:
    """Whether an answer is empty, or JSON that lacks its end."""
    is_no_json = error.errors(include_url=False, include_input=False)[0]["type"] == "json_invalid"
    return is_no_json and content.lstrip()[:1] in {b"", b"{"}


def _stated_s(response: httpx.Response) -> float | None:
    """Return the seconds of `Retry-After`, given as seconds or as a date."""
    stated = response.headers.get("Retry-After", "")
    try:
        seconds = (
            float(stated)
            if stated.isdecimal()
            else parsedate_to_datetime(stated).timestamp() - time.time()
        )
    except ValueError:
        return None
    return min(max(0.0, seconds), _LONGEST_WAIT_S)


def _error_class(code: str, unknown: type[errors.ServiceError]) -> Callable[..., errors.AssayError]:
    """Return the class of the error tree with this code."""
    pending: list[type[errors.AssayError]] = [errors.AssayError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind
        pending += kind.__subclasses__()
    return unknown
