"""What is measured, by name: a server we start, one that runs already, or a peer in a process.

`assay` is this tree's and `assay@FOLDER` the package in another folder (a checkout's `service`);
`plain` and `vllm` are servers too, started and stopped here. `transformers` and `cross-encoder`
have no HTTP: a process is asked over a pipe. `DIALECT=URL`, say `vllm=http://127.0.0.1:8001`, runs
already.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from loadtest import scrape, server
from loadtest.connection import Origin
from loadtest.contracts import DIALECTS
from loadtest.drive import Exchange, drive
from loadtest.memory import Watch
from loadtest.readings import Reading
from loadtest.workloads import Open

if TYPE_CHECKING:
    from types import TracebackType

    from loadtest.contracts import Dialect
    from loadtest.server import Server
    from loadtest.workloads import Load, Request

KEY_VARIABLE = "ASSAY_API_KEY"
_MODULES = {"transformers": "transformers_batches", "cross-encoder": "cross_encoder"}
_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Setup:
    """What a server that we start serves, and how."""

    checkpoint: Path | None
    dtype: str
    threads: int
    timeout_s: float


class Subject(Protocol):
    """Something that scores; a context manager, ready inside."""

    name: str

    def __enter__(self) -> Self:
        """Start it, if it is ours to start."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it, if it was started here."""
        ...

    @property
    def has_requests(self) -> bool:
        """Whether single requests can be sent to it, at a rate or a concurrency."""
        ...

    def measure(self, load: Load) -> Reading:
        """Put a load on it; one that failed and is ours is started anew afterwards."""
        ...


class Http:
    """A server over HTTP."""

    has_requests = True

    def __init__(
        self, name: str, contract: Dialect, timeout_s: float, *, url: str, started: Server | None
    ) -> None:
        self.name = name
        self.contract = contract
        self._timeout_s = timeout_s
        self._url = url
        self._server = started
        key = os.environ.get(KEY_VARIABLE, "").split(",")[0].strip()
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    @property
    def url(self) -> str:
        """Where it answers."""
        return self._server.url if self._server is not None else self._url

    @property
    def pid(self) -> int | None:
        """Its process, if it was started here."""
        return self._server.pid if self._server is not None else None

    def __enter__(self) -> Self:
        """Start it, if it is ours to start."""
        if self._server is not None:
            self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it, if it was started here."""
        if self._server is not None:
            self._server.stop()

    def request(self, origin: Origin, request: Request) -> bytes:
        """Return the bytes that ask for the scores of a request's items."""
        return origin.post(self.contract.path, self.contract.body(request), self.headers)

    def scrape(self) -> scrape.Scrape | None:
        """Return its metrics, if it is Assay and shows them."""
        return scrape.scrape(self.url, self.headers) if self.contract.name == "assay" else None

    def measure(self, load: Load) -> Reading:
        """Put a load on it; one that failed and is ours is started anew afterwards."""
        origin = Origin.of(self.url)
        phases = [[self.request(origin, request) for request in phase] for phase in load.phases]
        before = self.scrape()
        with Watch(self.pid) as watch:
            run = drive(origin, phases, load.arrival, timeout_s=self._timeout_s)
        after = self.scrape()
        reading = _read(self.name, self.contract, load, run.exchanges)
        reading.seconds, reading.late_s = run.seconds, run.late_s
        reading.client_cpu_s, reading.front_cpu_s = run.client_cpu_s, watch.front_cpu_s
        reading.before_bytes, reading.peak_bytes = watch.before_bytes, watch.peak_bytes
        if before is not None and after is not None:
            reading.note_metrics(after.since(before))
        if reading.errors and self._server is not None:
            fate = "answered with errors" if self._server.survives() else "died"
            print(f"{self.name} {fate} ({load.workload}): {dict(reading.errors)}; started anew")
            self._server.restart()
        return reading


class InProcess:
    """A peer without HTTP: all of a phase's items at once, through a pipe."""

    has_requests = False

    def __init__(self, name: str, setup: Setup) -> None:
        self.name = name
        self.note = ""
        self._setup = setup
        self._process: subprocess.Popen[str] | None = None
        self._output: IO[str] | None = None

    def __enter__(self) -> Self:
        """Start it.

        Raises:
            SystemExit: It didn't start; its last words are shown.
        """
        setup = self._setup
        self._output = tempfile.TemporaryFile("w+")
        module = f"loadtest.peers.{_MODULES[self.name]}"
        command = [sys.executable, "-m", module, "--checkpoint", str(setup.checkpoint)]
        command += ["--dtype", setup.dtype, "--threads", str(setup.threads)]
        self._process = subprocess.Popen(
            command,
            cwd=server.ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
            start_new_session=True,
        )
        self.note = self._answer().get("ready", "")
        print(f"{self.name}: {self.note}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    def measure(self, load: Load) -> Reading:
        """Score the load's items, phase after phase; its own clock counts."""
        assert self._process is not None
        assert self._process.stdin is not None
        phases = [
            [(item.prompt, item.response, item.text) for request in phase for item in request]
            for phase in load.phases
        ]
        with Watch(self._process.pid) as watch:
            self._process.stdin.write(json.dumps({"phases": phases}) + "\n")
            self._process.stdin.flush()
            answer = self._answer()
        reading = Reading(self.name, load.workload, requests=len(load.phases))
        reading.tokens = [item.tokens for item in load.items]
        reading.scores = answer.get("scores") or [None] * len(load.items)
        reading.seconds = answer.get("seconds", 0.0)
        if "error" in answer:
            reading.errors[answer["error"]] += 1
        reading.before_bytes, reading.peak_bytes = watch.before_bytes, watch.peak_bytes
        return reading

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._output is not None
            self._output.seek(0)
            raise SystemExit(f"{self.name} ended:\n{self._output.read()[-_TAIL_CHARACTERS:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def subject(spec: str, setup: Setup, *, suffix: str = "") -> Subject:
    """Return what a name stands for; `suffix` tells two of one name apart.

    Raises:
        SystemExit: There is no such thing, or it needs a checkpoint and there is none.
    """
    kind, _, url = spec.partition("=")
    if url:
        if kind not in DIALECTS:
            raise SystemExit(f"'{kind}' is no contract; known are {', '.join(DIALECTS)}")
        if DIALECTS[kind].needs_text and setup.checkpoint is None:
            raise SystemExit(f"{kind} gets templated text, which needs --checkpoint")
        return Http(
            kind + suffix, DIALECTS[kind], setup.timeout_s, url=url.rstrip("/"), started=None
        )
    if setup.checkpoint is None:
        raise SystemExit(f"'{spec}' is started here, which needs --checkpoint")
    if kind in _MODULES:
        return InProcess(kind, setup)
    return _started(spec, setup, setup.checkpoint, suffix)


def _started(spec: str, setup: Setup, checkpoint: Path, suffix: str) -> Http:
    kind, _, folder = spec.partition("@")
    name = kind + suffix
    place = (checkpoint, setup.dtype, setup.threads)
    match kind:
        case "assay":
            source = Path(folder) if folder else None
            started = server.assay(*place, name=name, source=source)
        case "plain":
            started = server.plain(*place, name=name)
        case "vllm":
            started = server.vllm(*place, name=name)
        case _:
            known = "assay, plain, vllm, transformers, cross-encoder or DIALECT=URL"
            raise SystemExit(f"'{spec}' is nothing that can be measured; known are {known}")
    return Http(name, DIALECTS[kind], setup.timeout_s, url="", started=started)


def _read(name: str, contract: Dialect, load: Load, exchanges: list[Exchange]) -> Reading:
    """Take the scores of every answer; an answer that can't be read is an error of its kind."""
    reading = Reading(name, load.workload, requests=len(exchanges))
    reading.rate = load.arrival.rate if isinstance(load.arrival, Open) else None
    for request, exchange in zip(load.requests, exchanges, strict=True):
        tokens = [item.tokens for item in request]
        scores: list[float | None] = [None] * len(request)
        if exchange.body is None:
            reading.errors[exchange.error or "no answer"] += 1
        else:
            try:
                scored = contract.read(exchange.body)
                if len(scored.scores) != len(request):
                    raise ValueError("too few or too many scores")  # noqa: TRY301
            except (ValueError, KeyError, TypeError) as error:
                reading.errors[f"unreadable answer: {error}"] += 1
            else:
                scores, tokens = list(scored.scores), list(scored.tokens or tokens)
                reading.latencies_s.append(exchange.latency_s)
        reading.scores += scores
        reading.tokens += tokens
    return reading
