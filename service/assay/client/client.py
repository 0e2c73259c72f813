"""A typed client: native requests in, native answers out, errors as the server's tree."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from assay import errors, wire

if TYPE_CHECKING:
    from collections.abc import Callable

AnswerT = TypeVar("AnswerT", bound=wire.Answer)
RETRIES = 8
_LONGEST_WAIT_S = 60.0


class AsyncClient:
    """One server's native routes. Use as an async context manager."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(timeout_s, connect=10.0),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        """Open the connection pool."""
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def score(self, request: wire.ScoreRequest) -> wire.ScoreAnswer:
        """Score items (`POST /score`).

        Raises:
            AssayError: The server's error, of the server's class.
            httpx.TransportError: The server can't be reached.
        """
        return await self._post("/score", request, wire.ScoreAnswer)

    async def compare(self, request: wire.CompareRequest) -> wire.CompareAnswer:
        """Compare responses (`POST /compare`); raises as `score`."""
        return await self._post("/compare", request, wire.CompareAnswer)

    async def best_of_n(self, request: wire.BestOfNRequest) -> wire.BestOfNAnswer:
        """Pick the best responses (`POST /best-of-n`); raises as `score`."""
        return await self._post("/best-of-n", request, wire.BestOfNAnswer)

    async def models(self) -> wire.ModelList:
        """List what is served (`GET /models`); raises as `score`."""
        return _read(await self._http.get("/models"), wire.ModelList)

    async def _post(self, path: str, request: wire.Request, kind: type[AnswerT]) -> AnswerT:
        content = request.model_dump_json(exclude_unset=True)
        headers = {"Content-Type": "application/json"}
        for attempt in range(RETRIES):
            answer = await self._http.post(path, content=content, headers=headers)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == RETRIES - 1:
                return _read(answer, kind)
            await asyncio.sleep(_wait_s(answer))
        raise AssertionError("the last attempt returns")


def _wait_s(answer: httpx.Response) -> float:
    stated = answer.headers.get("Retry-After", "1")
    return min(float(stated) if stated.isdigit() else 1.0, _LONGEST_WAIT_S)


def _read(answer: httpx.Response, kind: type[AnswerT]) -> AnswerT:
    if answer.is_success:
        return kind.model_validate_json(answer.content)
    try:
        body = wire.ErrorAnswer.model_validate_json(answer.content).error
    except ValueError:
        raise errors.ServiceError(
            f"the server answered {answer.status_code}, and not in Assay's shape; check the URL"
        ) from None
    raise _error_class(body.code)(
        body.message, param=body.param, retry_after_s=_wait_s(answer) if body.retryable else None
    )


def _error_class(code: str) -> Callable[..., errors.AssayError]:
    """Return the leaf of the error tree with this code."""
    pending: list[type[errors.AssayError]] = [errors.AssayError]
    while pending:
        one = pending.pop()
        if one.code == code:
            return one
        pending += one.__subclasses__()
    return errors.ServiceError
