"""One chunk's way to a server and back: what is refused is parted from what isn't."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from assay import errors, wire
from assay.client import clock
from assay.client.route import written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Self

    from assay.client.pool import Pool
    from assay.client.route import Element, Route

EntryT = TypeVar("EntryT", bound=wire.Entry)


@dataclass(frozen=True, slots=True)
class ClientCall(Generic[EntryT]):
    """A question with its options, about as many elements as come."""

    pool: Pool
    route: Route[EntryT]
    fields: bytes  # the options but `on_error`, as fields of a JSON object
    on_error: wire.OnError | None  # None is the server's default
    deadline: float | None  # by `clock`

    @classmethod
    def of(
        cls,
        pool: Pool,
        route: Route[EntryT],
        options: Mapping[str, Any],
        deadline_s: float | None,
    ) -> Self:
        """Return a call whose deadline begins now.

        Raises:
            InvalidField: An option isn't one.
        """
        request = route.options(options)
        if request.deadline_ms is not None:
            deadline_s = request.deadline_ms / 1e3
        fields = written(request, route.field, "deadline_ms", "on_error")
        on_error = request.on_error if "on_error" in request.model_fields_set else None
        deadline = None if deadline_s is None else clock.now() + deadline_s
        return cls(pool, route, fields[1:-1], on_error, deadline)

    @property
    def is_lenient(self) -> bool:
        """Whether a bad element fails alone."""
        return self.on_error == "item"

    async def send(self, chunk: Sequence[Element]) -> list[EntryT]:
        """Return one entry an element, in order.

        Raises:
            AssayError: An element is refused and that fails the call, or nothing is answered.
        """
        refused = {element.place: element.refusal for element in chunk if element.refusal}
        if refused and not self.is_lenient:
            raise next(iter(refused.values()))
        readable = [element for element in chunk if not element.refusal]
        remaining = iter(await self._with_slot(readable) if readable else ())
        return [
            self._refused(element, element.refusal) if element.refusal else next(remaining)
            for element in chunk
        ]

    async def _with_slot(self, chunk: Sequence[Element]) -> list[EntryT]:
        try:
            async with self.pool.slot(self.deadline):
                return await self.answer(chunk)
        except errors.DeadlineExceeded as error:
            if not self.is_lenient:
                raise
            return [self.failed(element, error) for element in chunk]

    async def answer(self, chunk: Sequence[Element]) -> list[EntryT]:
        """Return the entries of elements that are well-formed; the pool's slot is the caller's."""
        if not chunk:
            return []
        try:
            return await self._ask(chunk)
        except errors.BodyTooLarge as error:
            if len(chunk) > 1:
                half = len(chunk) // 2
                return [
                    *await self.answer(chunk[:half]),
                    *await self.answer(chunk[half:]),
                ]
            return [self.failed(chunk[0], error)]
        except errors.DeadlineExceeded as error:
            return [self.failed(element, error) for element in chunk]
        except errors.RequestError as error:
            # A server of another version may refuse what this one sends: by its place.
            place = self._named(error)
            if place is None or place >= len(chunk):
                raise
            failed = self.failed(chunk[place], error)
            return [
                *await self.answer(chunk[:place]),
                failed,
                *await self.answer(chunk[place + 1 :]),
            ]

    async def _ask(self, chunk: Sequence[Element]) -> list[EntryT]:
        fields = b'"%b":[%b]' % (
            self.route.field.encode(),
            b",".join(element.json for element in chunk),
        )
        if self.fields:
            fields += b"," + self.fields
        if self.on_error:
            fields += b',"on_error":"%b"' % self.on_error.encode()
        answer = await self.pool.post(self.route.path, self.route.answer, fields, self.deadline)
        data = cast("list[EntryT]", answer.data)
        if [entry.index for entry in data] != list(range(len(chunk))):
            raise errors.ServiceError(
                f"the server answered {len(data)} entries to {len(chunk)} elements, or not in order"
            )
        return [
            entry
            if entry.index == element.place
            else entry.model_copy(update={"index": element.place})
            for element, entry in zip(chunk, data, strict=True)
        ]

    def failed(self, element: Element, error: errors.AssayError) -> EntryT:
        """Return an element's error as its entry, or raise it where it fails the call."""
        if self.is_lenient:
            return self._refused(element, error)
        param = error.param
        if self._named(error) is not None and param is not None:
            param = re.sub(r"\[\d+\]", f"[{element.place}]", param, count=1)
        raise type(error)(error.message, param=param) from error

    def _refused(self, element: Element, error: errors.AssayError) -> EntryT:
        reason = wire.ItemError(code=error.code, message=error.message)
        return self.route.refused(element.place, element.id, reason)

    def _named(self, error: errors.AssayError) -> int | None:
        """Return the place in the chunk of the element that a refusal is about."""
        match = re.match(rf"{self.route.field}\[(\d+)\]", error.param or "")
        return int(match[1]) if match else None
