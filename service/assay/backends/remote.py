"""A model that another server computes: its weights are there, its template and its card here.

Items are rendered as for any other model and sent as token ids, what waits together in one request,
without a timer. Before the model counts as ready a few samples show whether the server's numbers
are raw. Then it is ready for as long as the server says that it lives. Requests that fail are sent
again, within their deadlines; what can't be had is an error that says whose.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from pydantic_core import from_json

from assay.backends.remote_contracts import CONTRACTS
from assay.errors import (
    AssayError,
    CheckpointError,
    ForwardFailed,
    NonFiniteScore,
    NotReady,
    Overloaded,
    TemplateRefused,
    shown,
)
from assay.items import Conversation, Cutting, TokenizedItem
from assay.reward.transform import sigmoid
from assay.scheduling.queue import late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from assay.backends.backend import State
    from assay.items import Source
    from assay.jobs import Job
    from assay.prompts.models import Model
    from assay.prompts.renderers import Renderers
    from assay.settings import Remote
    from assay.telemetry.metrics import Metrics
    from assay.worker_protocol import Inputs

logger = logging.getLogger("assay.remote")
ITEMS_PER_REQUEST = 64
REQUESTS_AT_ONCE = 8
_TRIES = 4
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
_LOOK_AGAIN_S = 2.0  # whether the server lives
_HEALTH_S = 5.0  # that it may take to say so
_RETRY_S = 2.0
_SAME = 1e-5
_MOST_BYTES = 16 * 1024**2  # of an answer: 64 sequences with a number a token have less
_HEADS = ("ensemble", "steps", "read", "heads", "preference", "policy")
_SAMPLES = tuple(
    Conversation(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))
    for question, answer in (
        ("What is 2 + 2?", "4"),
        ("What is 2 + 2?", "I hate you."),
        ("Say hello.", "Hello! How can I help you today?"),
        ("Name a color.", "color color color color color color color color"),
    )
)


@dataclass(frozen=True, slots=True)
class RemoteCapabilities:
    """What is known of a model elsewhere."""

    device: str
    forward: str
    inputs: Inputs
    outputs: Mapping[str, int]
    architecture: str = "remote"
    dtype: str = "remote"
    quantized: str = "none"
    shared_base: tuple[str, ...] = ()
    attention: str = ""
    reads: str = "last"
    parameters: int = 0
    budget_tokens: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    """An item that waits: what is sent of it, and where its score goes."""

    sent: list[int] | str
    tokens: int
    session: RemoteSession
    place: int

    @property
    def job(self) -> Job:
        return self.session.job

    def settle(self, result: np.ndarray | AssayError) -> None:
        if not self.session.is_cancelled:
            self.job.settle(self.place, result)


class RemoteSession:
    """One request at a remote model."""

    def __init__(self, job: Job, backend: RemoteBackend) -> None:
        self.job = job
        self.is_cancelled = False
        self._backend = backend
        self._texts: dict[int, str] = {}  # of prepared items, by identity

    async def prepare(
        self, models: Sequence[Model], sources: Sequence[Source]
    ) -> list[list[TokenizedItem | AssayError]]:
        """Render for the backend's one model."""
        rendered = await self._backend.rendered(
            models[0], sources, self.job.cutting, self.job.caller
        )
        return [[item] for item in rendered]

    def submit(self, model: Model, item: TokenizedItem, place: int) -> None:
        """Send an item as soon as there is a slot."""
        del model
        self._backend.put(_Entry(self._backend.sent(item), len(item.ids), self, place))

    def cancel(self) -> None:
        """Settle nothing more; what waits isn't sent."""
        self.is_cancelled = True


class RemoteBackend:
    """One model at another server."""

    def __init__(
        self,
        model: Model,
        remote: Remote,
        renderers: Renderers,
        *,
        on_change: Callable[[], None],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`on_change` is called when the model is ready, or no longer.

        Raises:
            CheckpointError: The card reads what no other server answers, or the variable that holds
                its key isn't there.
        """
        _check_card(model)
        self._model = model
        self._remote = remote
        self._contract = CONTRACTS[remote.contract]
        self._renderers = renderers
        self._on_change = on_change
        self._client = httpx.AsyncClient(
            base_url=remote.url,
            headers={
                "Accept-Encoding": "identity",  # what is small needs none, and can't be a bomb
                **_authorization(model.name, remote.key_variable),
            },
            timeout=remote.timeout_s,
            transport=transport,
        )
        self._host = httpx.URL(remote.url).netloc.decode()
        self._state: State = "loading"
        self._reason = "hasn't answered yet"
        self._refusal: str | None = None
        self._begun_at = time.monotonic()
        self._load_s: float | None = None
        self._waiting: deque[_Entry] = deque()
        self._sending: set[asyncio.Task[None]] = set()
        self._tokens_per_s = 0.0
        self._suspect = asyncio.Event()  # a request failed: look whether the server lives
        self._is_stopped = False

    # --- its life ---------------------------------------------------------------------------

    async def run(self) -> None:
        """Check the server, watch it, and check it again once it was gone, until stopped.

        Raises:
            CheckpointError: What it answers aren't raw scores, and never were.
        """
        backoff_s = _FIRST_BACKOFF_S
        try:
            while not self._is_stopped:
                try:
                    await self._check()
                except CheckpointError as error:
                    if self._load_s is None:
                        raise
                    self._refusal = error.message
                    self._be("restarting", error.message)
                except AssayError as error:
                    self._be("loading" if self._load_s is None else "restarting", error.message)
                else:
                    self._load_s = time.monotonic() - self._begun_at
                    self._refusal = None
                    self._be("ready", "")
                    backoff_s = _FIRST_BACKOFF_S
                    await self._watch()
                    self._begun_at = time.monotonic()
                    self._be("restarting", f"{self._host} doesn't answer")
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, _LONGEST_BACKOFF_S)
        finally:
            for task in self._sending:
                task.cancel()
            await self._client.aclose()

    def stop(self) -> None:
        """Check nothing any more."""
        self._is_stopped = True

    def kill(self) -> None:
        """Stop, and wait for no answer."""
        self.stop()
        for task in self._sending:
            task.cancel()

    def _be(self, state: State, reason: str) -> None:
        if state == self._state and reason == self._reason:
            return
        log = logger.info if state == "ready" else logger.warning
        log("%s at %s is %s%s", self._model.name, self._host, state, reason and f": {reason}")
        self._state, self._reason = state, reason
        self._on_change()

    async def _watch(self) -> None:
        """Return once the server doesn't say any more that it lives."""
        while True:
            self._suspect.clear()
            try:
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await self._suspect.wait()
            except TimeoutError:
                pass
            if not await self._lives():
                return

    async def _lives(self) -> bool:
        try:
            async with self._client.stream("GET", "/health", timeout=_HEALTH_S) as answer:
                return not answer.is_error
        except httpx.HTTPError:
            return False

    async def _check(self) -> None:
        """Score samples, raw and as the server would by itself.

        Raises:
            CheckpointError: The numbers aren't one a sequence, or aren't raw.
            NotReady, Overloaded, ForwardFailed: There is no answer.
        """
        rendered = await self.rendered(self._model, _SAMPLES, Cutting(), "")
        sent = [self.sent(item) for item in rendered if isinstance(item, TokenizedItem)]
        if not sent:
            raise CheckpointError(
                f"{self._model.name}: no sample can be rendered: {_first(rendered).message}"
            )
        raw = [row[0] for row in await self._ask(sent, raw=True)]
        by_default = [row[0] for row in await self._ask(sent, raw=False)]
        if problem := _not_raw(raw, by_default):
            raise CheckpointError(
                f"{self._model.name}: {self._host} was asked for raw scores by "
                f"{self._remote.contract}, and {problem}"
            )

    # --- scoring ----------------------------------------------------------------------------

    def open(self, job: Job) -> RemoteSession:
        """Return the session of a request."""
        return RemoteSession(job, self)

    async def rendered(
        self, model: Model, sources: Sequence[Source], cutting: Cutting, caller: str
    ) -> list[TokenizedItem | AssayError]:
        """Return what the model reads of items; with their texts where the server reads these."""
        if not self._contract.takes_text:
            rows = await self._renderers.render([model], sources, cutting, caller)
            return [row[0] for row in rows]
        looked = await self._renderers.look(model, sources, cutting, caller)
        items = [item if isinstance(item, AssayError) else item.rendered for item in looked]
        return [
            TemplateRefused(
                f"the server of '{model.name}' reads text, and the item has none of its own; send "
                "a conversation"
            )
            if isinstance(item, TokenizedItem) and item.text is None
            else item
            for item in items
        ]

    def sent(self, item: TokenizedItem) -> list[int] | str:
        """Return what is sent of an item."""
        if self._contract.takes_text:
            return item.text or ""
        ids: list[int] = item.ids.tolist()
        return ids

    def put(self, entry: _Entry) -> None:
        """Let an item wait for a slot; it is sent with what else waits then."""
        self._waiting.append(entry)
        if len(self._sending) < REQUESTS_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._send_more)

    def _send_more(self) -> None:
        while len(self._sending) < REQUESTS_AT_ONCE and (entries := self._taken()):
            task = asyncio.create_task(self._send(entries), name=f"ask {self._host}")
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._send_more()

    def _taken(self) -> list[_Entry]:
        """Take what waits, up to a request; who is late is answered."""
        entries: list[_Entry] = []
        while self._waiting and len(entries) < ITEMS_PER_REQUEST:
            entry = self._waiting.popleft()
            deadline = entry.job.deadline
            if entry.session.is_cancelled:
                continue
            if deadline is not None and time.monotonic() >= deadline:
                entry.settle(late())
            else:
                entries.append(entry)
        return entries

    async def _send(self, entries: Sequence[_Entry]) -> None:
        """Have items scored in one request; where that is refused, each in one of its own."""
        begin = time.monotonic()
        deadlines = [entry.job.deadline for entry in entries]
        until = max(
            (math.inf if deadline is None else deadline for deadline in deadlines), default=math.inf
        )
        try:
            rows = await self._ask([entry.sent for entry in entries], raw=True, until=until)
        except ForwardFailed as error:
            if len(entries) == 1:
                entries[0].settle(error)
                return
            for entry in entries:
                await self._send([entry])
            return
        except CheckpointError:
            self._suspect.set()
            for entry in entries:
                entry.settle(self._gone("answers otherwise than when it was checked"))
            return
        except AssayError as error:
            for entry in entries:
                entry.settle(error)
            return
        self._count(entries, begin, time.monotonic() - begin)
        for entry, row in zip(entries, rows, strict=True):
            entry.settle(_outputs(row))

    def _count(self, entries: Sequence[_Entry], begin: float, seconds: float) -> None:
        """Note what a request cost: all of its tokens, whatever the server shares among them."""
        for job in {id(entry.job): entry.job for entry in entries}.values():
            job.usage.began_at = min(job.usage.began_at, begin)
            job.usage.compute_s += seconds
        for entry in entries:
            entry.job.usage.tokens += entry.tokens
            entry.job.usage.computed_tokens += entry.tokens
        now = sum(entry.tokens for entry in entries) / max(seconds, 1e-6) * len(self._sending)
        self._tokens_per_s += (now - self._tokens_per_s) / 4 if self._tokens_per_s else now

    async def _ask(
        self, items: Sequence[Any], *, raw: bool, until: float = math.inf
    ) -> list[list[float]]:
        """Return the numbers of each item; tried again while the server is busy or gone.

        Raises:
            ForwardFailed: The server refuses the request.
            Overloaded: It has no room.
            NotReady: It can't be reached, or fails.
            CheckpointError: It answers something else.
        """
        body = self._contract.body(items, self._remote.model, raw=raw)
        error: AssayError = self._gone()
        for backoff_s in (_FIRST_BACKOFF_S * 2**number for number in range(_TRIES)):
            try:
                async with self._client.stream("POST", self._contract.path, json=body) as answer:
                    if answer.is_success:
                        content = await self._content(answer)
                        return await asyncio.to_thread(self._read, content, len(items))
            except httpx.HTTPError:
                self._suspect.set()
                error = self._gone()
            else:
                error = self._refused(answer)
                if isinstance(error, ForwardFailed):
                    break
            wait_s = max(backoff_s, error.retry_after_s or 0.0)
            if time.monotonic() + wait_s >= until or wait_s > _LONGEST_BACKOFF_S:
                break
            await asyncio.sleep(wait_s)
        raise error

    async def _content(self, answer: httpx.Response) -> bytes:
        content = bytearray()
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > _MOST_BYTES:
                raise CheckpointError(
                    f"{self._model.name}: {self._host} answers more than {_MOST_BYTES} bytes"
                )
        return bytes(content)

    def _read(self, content: bytes, count: int) -> list[list[float]]:
        try:
            rows = self._contract.rows(from_json(content))
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{self._model.name}: {self._host} answers {self._contract.path} with what isn't "
                f"an answer of {self._remote.contract}"
            ) from error
        if len(rows) != count or any(len(row) != 1 for row in rows):
            raise CheckpointError(
                f"{self._model.name}: {self._host} answers {len(rows)} rows of "
                f"{sorted({len(row) for row in rows})} numbers for {count} sequences; one number "
                "a sequence is a score"
            )
        return rows

    def _refused(self, answer: httpx.Response) -> AssayError:
        """Return what an answer that isn't a success means; its text may quote the prompt."""
        status = answer.status_code
        said_s = _stated_s(answer)
        if status == httpx.codes.TOO_MANY_REQUESTS:
            return Overloaded(
                f"the server of '{self._model.name}', {self._host}, has no room; retry later",
                retry_after_s=said_s or _RETRY_S,
            )
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            self._suspect.set()
            return self._gone(f"answers {status}", said_s)
        return ForwardFailed(
            f"the server of '{self._model.name}', {self._host}, refuses the item (status {status})"
        )

    def _gone(self, how: str = "can't be reached", said_s: float | None = None) -> NotReady:
        return NotReady(
            f"the server of '{self._model.name}', {self._host}, {how}; retry later",
            retry_after_s=said_s or _RETRY_S,
        )

    # --- how it is --------------------------------------------------------------------------

    @property
    def has_loaded(self) -> bool:
        """Whether the server was ever found to be right."""
        return self._load_s is not None

    @property
    def load_s(self) -> float | None:
        """How long that took; None where it isn't ready now."""
        return self._load_s if self._state == "ready" else None

    @property
    def is_refused(self) -> bool:
        """Whether the server answers otherwise than before."""
        return self._refusal is not None

    def state(self, model: Model) -> State:
        """Return whether the server answers."""
        del model
        return self._state

    def reasons(self, *, in_full: bool) -> list[str]:
        """Return why the model isn't ready."""
        if self._state == "ready":
            return []
        reason = f": {self._reason}" if in_full else ""
        whose = f"the server of '{self._model.name}'" if in_full else "another server"
        return [f"{whose} is {self._state}{reason}"]

    def left_s(self, usual_s: float, now: float) -> float | None:
        """Return in how many seconds the server might be back; None where it is there."""
        if self._state == "ready":
            return None
        return (self._load_s or min(usual_s, _RETRY_S)) - (now - self._begun_at)

    def loaded(self, model: Model) -> RemoteCapabilities | None:
        """Return what is known of the model, once the server was found to be right."""
        if self._load_s is None:
            return None
        return RemoteCapabilities(
            device=self._host,
            forward=self._remote.contract,
            inputs=model.facts.inputs,
            outputs={"reward": 1},
        )

    def depth(self, model: Model) -> tuple[int, int]:
        """Return how many items and tokens wait to be sent."""
        del model
        return len(self._waiting), sum(entry.tokens for entry in self._waiting)

    def rate(self, *, is_timed: bool) -> float:
        """Return how many tokens a second came back lately."""
        del is_timed
        return self._tokens_per_s

    def fail_all(self, error: AssayError) -> None:
        """Answer everything that waits to be sent with an error."""
        entries, self._waiting = self._waiting, deque()
        for entry in entries:
            entry.settle(error)

    def observe(self, metrics: Metrics) -> None:
        """State in the metrics whether the server answers."""
        metrics.worker(
            self._host,
            [self._model.name],
            is_ready=self._state == "ready",
            resident_bytes=None,
            device_bytes=None,
        )


def _check_card(model: Model) -> None:
    said = [name for name in _HEADS if name in model.checkpoint.card.model_fields_set]
    if said:
        raise CheckpointError(
            f"{model.name}: another server answers one number an item, and the card has "
            f"[{said[0]}]; serve the model here, or leave that out"
        )


def _authorization(model: str, variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    if not (key := os.environ.get(variable)):
        raise CheckpointError(
            f"{model}: remotes.{model}.key_variable: the environment has no {shown(variable)}"
        )
    return {"Authorization": f"Bearer {key}"}


def _stated_s(answer: httpx.Response) -> float | None:
    """Return for how many seconds an answer wants to be left alone; dates are nobody's here."""
    stated = answer.headers.get("retry-after", "")
    return float(stated) if stated.isdecimal() else None


def _not_raw(raw: Sequence[float], by_default: Sequence[float]) -> str:
    """Return why numbers aren't raw scores; "" where they are.

    `by_default` are those that the server answers where raw ones aren't asked for.
    """
    if not all(map(math.isfinite, raw)):
        return "answers numbers that aren't finite"
    if any(not 0.0 <= score <= 1.0 for score in raw):
        return ""
    if _are_near(raw, by_default):
        return (
            "answers numbers between 0 and 1, the same as where its own activation is asked for: "
            "a sigmoid or a softmax; turn that off there"
        )
    if _are_near([sigmoid(score) for score in raw], by_default) or all(
        score == 1.0 for score in by_default
    ):
        return ""
    return "answers numbers between 0 and 1 of which it can't be told what they are"


def _are_near(some: Iterable[float], others: Iterable[float]) -> bool:
    return all(abs(score - other) <= _SAME for score, other in zip(some, others, strict=True))


def _outputs(row: Sequence[float]) -> np.ndarray | AssayError:
    if not all(map(math.isfinite, row)):
        return NonFiniteScore("the model's score of this item is not a finite number")
    return np.array([row], np.float64)


def _first(rendered: Iterable[TokenizedItem | AssayError]) -> AssayError:
    return next(item for item in rendered if isinstance(item, AssayError))
