"""Every error Assay raises on purpose; nothing else reaches a caller.

AssayError
├── RequestError                  the caller's to mend
│   ├── MalformedBody         400 the body is not JSON
│   ├── Unauthorized          401 no key, or a wrong one
│   ├── Forbidden             403 a key without that right
│   ├── ForeignOrigin         403 a web page that may not ask
│   ├── ForeignHost           403 asked by a name that isn't this server's
│   ├── UnknownTarget         404 no such model or ensemble
│   ├── UnknownRoute          404 no such path
│   ├── MethodNotAllowed      405 that path, another method
│   ├── BodyTooSlow           408 the body took longer than its size allows
│   ├── ChangeRefused         409 what is to be served can't be
│   ├── BodyTooLarge          413 more bytes than `max_body_bytes`, or too many items
│   ├── UnsupportedMedia      415 the body is in a coding or charset that isn't taken
│   ├── InvalidField          422 a field is unknown, missing or wrong
│   ├── TemplateRefused       422 the chat template rejects the conversation
│   ├── EmptyItem             422 nothing left to score after tokenization
│   └── ItemTooLong           422 the response alone exceeds the model's limit
├── ServiceError                  the service's to mend; most are worth a retry
│   ├── NotReady              503 the model is loading, or its worker is away
│   ├── Overloaded            503 too many tokens wait
│   ├── Draining              503 the server is stopping
│   ├── ChangeFailed          503 a device process died or hung while a change was loaded
│   ├── DeadlineExceeded      504 the item's deadline passed before it ran
│   ├── Unanswerable          501 no reward model can answer what is asked
│   ├── NonFiniteScore        500 the model answered NaN or infinity
│   ├── ForwardFailed         500 the model failed on this item even alone
│   └── InternalError         500 a defect of Assay
└── StartupError                  the process exits with code 3
    ├── SettingsError             a setting is unknown or out of range
    ├── CheckpointError           a checkpoint can't be served correctly
    └── WorkerError               a device process couldn't be kept alive

Each leaf carries its stable `code`, HTTP `status` and whether a retry may help. Messages say what
to do and never contain prompt text.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator

_SHOWN = 100  # characters of a name that nobody knows
# Line breaks, other control characters, halves of characters, and what turns the writing around:
# in a log's line, a header or a terminal they are no text.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text on one line, in letters that can be written anywhere; others are escaped."""
    return UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def is_name(text: str) -> bool:
    """Whether something may be called so: one line, without blanks around it."""
    return bool(text) and text == text.strip() and not UNPRINTABLE.search(text)


def shown(name: str, most: int = _SHOWN) -> str:
    """Return a name as a message repeats it: one of more than `most` characters is cut."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


class AssayError(Exception):
    """Base of all errors raised on purpose."""

    code: ClassVar[str] = "assay_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        advice: str = "",
    ) -> None:
        super().__init__(f"{message}{advice}")
        self.message = printable(message)
        self.advice = advice  # of a field that the native routes have, and others don't
        self.param = param
        self.retry_after_s = retry_after_s

    def advised(self) -> AssayError:
        """Return the error with its advice in the message, as a native route says it."""
        if not self.advice:
            return self
        message = f"{self.message}{self.advice}"
        return type(self)(message, param=self.param, retry_after_s=self.retry_after_s)


class RequestError(AssayError):
    """The caller must change the request."""

    code = "request_error"
    status = 400


class MalformedBody(RequestError):
    """The body can't be read as JSON."""

    code = "malformed_body"


class Unauthorized(RequestError):
    """The API key is missing or unknown."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """The API key is known, and not for that."""

    code = "forbidden"
    status = 403


class ForeignOrigin(RequestError):
    """A web page asks whose origin `cors_origins` doesn't name."""

    code = "foreign_origin"
    status = 403


class ForeignHost(RequestError):
    """A server is asked for by another name than this one's, and no key is needed."""

    code = "foreign_host"
    status = 403


class UnknownTarget(RequestError):
    """No model or ensemble of that name is served."""

    code = "unknown_model"
    status = 404


class UnknownRoute(RequestError):
    """No such path."""

    code = "unknown_route"
    status = 404


class MethodNotAllowed(RequestError):
    """The path exists, the method doesn't."""

    code = "method_not_allowed"
    status = 405


class BodyTooSlow(RequestError):
    """The body took longer to arrive than its size allows."""

    code = "body_too_slow"
    status = 408


class ChangeRefused(RequestError):
    """What is to be served from now on can't be; what was served still is."""

    code = "change_refused"
    status = 409


class BodyTooLarge(RequestError):
    """The body has more bytes than `max_body_bytes`, or more items or values than a request may."""

    code = "body_too_large"
    status = 413


class UnsupportedMedia(RequestError):
    """The body is in a content coding or a charset that isn't taken."""

    code = "unsupported_media"
    status = 415


class InvalidField(RequestError):
    """A field is unknown, missing, of the wrong type or out of range."""

    code = "invalid_field"
    status = 422


class TemplateRefused(RequestError):
    """The model's chat template rejects the conversation."""

    code = "template_refused"
    status = 422


class EmptyItem(RequestError):
    """The item has no tokens."""

    code = "empty_item"
    status = 422


class ItemTooLong(RequestError):
    """The part that must be kept exceeds the model's limit."""

    code = "item_too_long"
    status = 422


class ServiceError(AssayError):
    """The service couldn't answer a request that may be right."""

    code = "service_error"


class NotReady(ServiceError):
    """The model is loading, or its worker is being restarted."""

    code = "not_ready"
    status = 503
    retryable = True


class Overloaded(ServiceError):
    """More tokens wait than `max_queued_tokens` allows."""

    code = "overloaded"
    status = 503
    retryable = True


class Draining(ServiceError):
    """The server is stopping and takes no new work."""

    code = "draining"
    status = 503
    retryable = True


class ChangeFailed(ServiceError):
    """What is to be served couldn't be loaded this time; what was served still is."""

    code = "change_failed"
    status = 503
    retryable = True


class DeadlineExceeded(ServiceError):
    """The deadline passed before the item ran."""

    code = "deadline_exceeded"
    status = 504
    retryable = True


class Unanswerable(ServiceError):
    """A foreign contract asks what no reward model can answer."""

    code = "unanswerable"
    status = 501


class NonFiniteScore(ServiceError):
    """The model answered NaN or infinity."""

    code = "non_finite_score"


class ForwardFailed(ServiceError):
    """The forward pass failed on this item even alone."""

    code = "forward_failed"


class InternalError(ServiceError):
    """A defect of Assay; the log has the traceback under the request's id."""

    code = "internal_error"


class StartupError(AssayError):
    """The process can't start; the CLI exits with code 3."""

    code = "startup_error"


class SettingsError(StartupError):
    """A setting is unknown, malformed or out of range."""

    code = "settings_error"


class CheckpointError(StartupError):
    """A checkpoint is missing, damaged, or can't be served with the right numbers."""

    code = "checkpoint_error"


class WorkerError(StartupError):
    """A device process ended and couldn't be brought back."""

    code = "worker_error"


@contextlib.contextmanager
def refusing(source: object) -> Iterator[None]:
    """Make a refusal of whatever nobody foresaw while something is read that others wrote.

    It is definite: the same files fail the same way again.

    Raises:
        CheckpointError: Anything but an error of Assay's was raised; its class is named.
    """
    try:
        yield
    except (AssayError, MemoryError, ConnectionError):
        raise
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or source} can't be read: {error.strerror or error}"
        ) from error
    except (Exception, SystemExit) as error:
        lines = str(error).strip().splitlines()
        said = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise CheckpointError(f"{source} can't be loaded ({said})") from error
