"""Everything at once: every route, bad bodies, callers who leave, workers that die, hang, change.

And who means ill: a template that takes everything, a checkpoint that hangs while it is loaded,
callers who never read their answers, and nobody who reads the log.

A quiet server gives the right answers first. Then every answer must be that or a documented error
that may pass, `/health/ready` must tell the truth, and nothing may be left behind at the end. What
is asked, when, and what befalls the server follow from the seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import psutil
import uvloop

from loadtest.census import Census, readers, workers
from loadtest.connection import Connection, Origin
from loadtest.questions import GREEDY, Answer, Hostile, Kind, Question, judge, short

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.server import Server

CALLERS = 8
LEAVES_SHARE = 0.2
SHARES: dict[Kind, float] = {"malformed": 0.05, "oversize": 0.02, "nan": 0.01, "state": 0.05}
TIMEOUT_S = 90.0
PROBE_S = 0.1
NOTICE_S = 0.5  # a worker's death shows within
RACE_S = 1.0  # a worker takes longer to come back
END_S = 60.0
PAUSE_S = 0.25  # after a refusal; a caller that heeded Retry-After would miss what comes between
LONGEST_STAY_S = 0.05
GROWTH_SHARE = 0.1
MINUTE_S = 60.0
SHOWN_FAILURES = 20
POOL_THREADS = min(32, (os.cpu_count() or 1) + 4)  # asyncio's grow to so many and stay
ADMIN_KEY = "chaos-admin-key-of-32-characters"
SLOW_READERS = 200
SLOW_ADDRESS = "127.0.0.2"  # theirs: another caller's than that of all the others
SLOW_ITEMS = 12_000  # of an answer that no socket's buffers hold
SLOW_AT_ONCE = 50  # requests for such that gather while a worker that was frozen comes back
SLOW_STAY_S = (60.0, 300.0)  # the first are there for as long as the server lets them
LOAD_TIMEOUT_S = 20.0
READY = Question("probe", "/health/ready", "state")
Deed = Literal["kill", "stop", "reload", "greed", "hang"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, and what befalls the server when."""

    seconds: float = 600.0
    kill_every_s: float = 45.0
    reload_every_s: float = 60.0
    stop_at_s: float = 70.0  # SIGSTOP, once
    greed_every_s: float = 25.0  # an item over which a process that renders ends
    hang_every_s: float = 150.0  # a load that doesn't come to an end
    watchdog_s: float = 3.0
    seed: int = 0

    def deeds(self) -> list[tuple[float, Deed]]:
        """Return what is done when, in order."""
        made: list[tuple[float, Deed]] = [(self.stop_at_s, "stop")]
        every: tuple[tuple[Deed, float], ...] = (
            ("kill", self.kill_every_s),
            ("reload", self.reload_every_s),
            ("greed", self.greed_every_s),
            ("hang", self.hang_every_s),
        )
        for deed, period in every:
            made += [(period * turn, deed) for turn in range(1, 1 + int(self.seconds / period))]
        return sorted(one for one in made if one[0] < self.seconds)


@dataclass(slots=True)
class Probe:
    """`/health/ready` and, right after one that is, a `/score`."""

    begin: float
    end: float  # of the first
    is_ready: bool
    is_refused: bool = False  # the second: not_ready


@dataclass(frozen=True, slots=True)
class Absence:
    """From when the only worker died until another process was there."""

    since: float
    until: float


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    plan: Plan
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    deeds: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    questions: int = 0
    rerun: int = 0  # of them, those that were right again at the end
    before: Census | None = None
    after: Census | None = None
    largest_bytes: int = 0  # of the front
    low_water: list[int] = field(default_factory=list)  # of the front, bytes, minute by minute

    def misses(self) -> list[str]:
        """Return what was asked for and isn't so."""
        assert self.before is not None
        assert self.after is not None
        missed = list(self.failures[:SHOWN_FAILURES])
        if len(self.failures) > SHOWN_FAILURES:
            missed.append(f"… and {len(self.failures) - SHOWN_FAILURES} more")
        missed += untruths(self.probes, self.absences)
        if self.rerun != self.questions:
            missed.append(f"{self.rerun} of {self.questions} were right again at the end")
        if self.after.workers != 1:
            missed.append(f"{self.after.workers} workers at the end")
        if self.after.files > self.before.files:
            missed.append(f"{self.after.files} files at the end, {self.before.files} before")
        if self.after.threads > self.before.threads + POOL_THREADS:
            missed.append(f"{self.after.threads} threads at the end, {self.before.threads} before")
        if self.after.front_bytes > (1 + GROWTH_SHARE) * self.before.front_bytes:
            missed.append("the front's memory grew")
        third = len(self.low_water) // 3
        if third and min(self.low_water[-third:]) > (1 + GROWTH_SHARE) * min(
            self.low_water[-2 * third : -third]
        ):
            missed.append("the front's memory still grew at the end")
        return missed

    @staticmethod
    def _in_mb(numbers: Sequence[int]) -> str:
        return ", ".join(f"{number / 1e6:,.0f}" for number in numbers)

    def lines(self) -> list[str]:
        """Return it for people."""
        unready = sum(not one.is_ready for one in self.probes)
        return [
            f"{sum(self.kinds.values())} requests of {self.questions} kinds: {dict(self.kinds)}",
            f"answers: {dict(self.outcomes)}",
            f"done to the server: {dict(self.deeds)}",
            f"{len(self.probes)} probes, {unready} not ready, {len(self.absences)} times no worker",
            f"before: {self.before}",
            f"after:  {self.after}; front at most {self.largest_bytes / 1e6:,.0f} MB",
            f"front's least in each minute: {self._in_mb(self.low_water)} MB",
            f"right again at the end: {self.rerun} of {self.questions}",
            *(f"MISSED: {one}" for one in self.misses()),
        ]

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "plan": {name: getattr(self.plan, name) for name in self.plan.__slots__},
            "requests": dict(self.kinds),
            "answers": dict(self.outcomes),
            "deeds": dict(self.deeds),
            "failures": self.failures,
            "probes": len(self.probes),
            "not_ready": sum(not one.is_ready for one in self.probes),
            "absences": [(one.since, one.until) for one in self.absences],
            "right_again": [self.rerun, self.questions],
            "before": self.before and self.before.record(),
            "after": self.after and self.after.record(),
            "front_largest_bytes": self.largest_bytes,
            "front_low_water_bytes": self.low_water,
            "misses": self.misses(),
        }


def settings(plan: Plan) -> dict[str, object]:
    """Return what a server is set to."""
    return {
        "ensembles": '{"both": ["tiny", "bare"]}',
        "admin_key": ADMIN_KEY,
        "watchdog_s": plan.watchdog_s,
        "load_timeout_s": LOAD_TIMEOUT_S,
    }


def chaos(
    server: Server,
    questions: Sequence[Question],
    hostile: Hostile,
    plan: Plan,
    announce: Callable[[str], None],
) -> Outcome:
    """Let it happen to a running server of `questions.models` and the greedy one."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Chaos(server, questions, hostile, plan, announce).run())


def untruths(probes: Sequence[Probe], absences: Sequence[Absence]) -> list[str]:
    """Return where `/health/ready` was wrong by more than the race with one probe."""
    found = []
    for one, following in pairwise(probes):
        is_next = following.begin - one.end < RACE_S
        if one.is_ready and one.is_refused and following.is_ready and is_next:
            found.append(f"ready at {one.begin:.1f} s and after, and refused as not ready between")
    for gone in absences:
        during = [one for one in probes if one.begin >= gone.since and one.end <= gone.until]
        lied = [one for one in during if one.is_ready and one.begin >= gone.since + NOTICE_S]
        if lied:
            found.append(f"ready at {lied[0].begin:.1f} s, without a worker")
    return found


class _Chaos:
    """One run."""

    def __init__(
        self,
        server: Server,
        questions: Sequence[Question],
        hostile: Hostile,
        plan: Plan,
        announce: Callable[[str], None],
    ) -> None:
        assert server.pid is not None
        self._server = server
        self._pid = server.pid
        self._origin = Origin.of(server.url)
        self._questions = questions
        self._hostile = hostile
        self._requests = {one.name: self._request(one) for one in (*questions, READY)}
        self._pools = {
            kind: [one for one in questions if one.kind == kind] for kind in (*SHARES, "good")
        }
        self._right: dict[str, Any] = {}
        self._plan = plan
        self._announce = announce
        self._chance = random.Random(plan.seed)
        self._begin = time.monotonic()
        self._changing = asyncio.Lock()
        self._out = Outcome(plan, questions=len(questions))

    async def run(self) -> Outcome:
        """Ask the quiet server, let it happen, ask again."""
        await self._learn()
        await self._warm_up()
        out = self._out
        out.before = Census.of(self._pid)
        self._announce(f"{len(self._questions)} right answers; {out.before}")
        self._begin = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._befall())
            tasks.create_task(self._probe())
            tasks.create_task(self._weigh())
            for _ in range(SLOW_READERS):
                tasks.create_task(self._dawdle())
            for number in range(CALLERS):
                tasks.create_task(self._call(random.Random(f"{self._plan.seed} {number}")))
        await self._settle()
        out.rerun = await self._ask_all(self._questions)
        await self._empty()
        if "Traceback" in (log := self._server.output()):
            out.failures.append(f"the log has a traceback:\n{log[log.index('Traceback') :][:2000]}")
        return out

    def _request(self, question: Question) -> bytes:
        if question.body is None:
            return self._origin.get(question.path, {})
        headers = {"Content-Type": question.media_type}
        return self._origin.post(question.path, question.body, headers)

    async def _learn(self) -> None:
        """Take each question's right answer; asked twice, it must be the same."""
        connection = await Connection.open(self._origin)
        for _ in range(2):
            for one in self._questions:
                connection, answer = await self._exchange(connection, one)
                if answer.status in {502, 503, 504}:
                    raise SystemExit(f"{one.name}: the quiet server answered {answer.status}")
                told = answer.told(one)
                if one.kind != "state" and self._right.setdefault(one.name, told) != told:
                    self._fail(one, f"{short(told)} after {short(self._right[one.name])}")
        connection.close()

    async def _warm_up(self) -> None:
        """Ask all at once while a worker is away, and change what is served.

        Each deed is done before the front is weighed: what grows once has grown, and what is left
        of a peak is no leak.
        """
        for turn, deed in enumerate((self._stop, self._kill)):
            shuffled = self._chance.sample(self._questions, len(self._questions))
            await asyncio.gather(
                deed(),  # a worker that is asked nothing may sleep for ever
                *(self._ask_all(shuffled[place::CALLERS]) for place in range(CALLERS)),
                *(self._read_much() for _ in range(SLOW_AT_ONCE)),
            )
            await self._settle()
            await self._reload(turn)
        await self._ask_all(self._questions)
        await self._take_everything()  # a process that renders is started when it is first asked
        self._out.deeds.clear()
        self._out.absences.clear()
        await self._empty()

    async def _ask_all(self, questions: Sequence[Question]) -> int:
        """Ask one after the other; return how many answers were right."""
        connection = await Connection.open(self._origin)
        right = 0
        for one in questions:
            connection, answer = await self._exchange(connection, one)
            right += self._judged(one, answer) == "right"
        connection.close()
        return right

    async def _call(self, chance: random.Random) -> None:
        """Ask one question after the other; leave before some answers."""
        connection = await Connection.open(self._origin)
        while self._passed() < self._plan.seconds:
            question = self._drawn(chance)
            self._out.kinds[question.kind] += 1
            if chance.random() < LEAVES_SHARE:
                self._out.outcomes["left"] += 1
                await self._leave(question, chance)
                continue
            try:
                connection, answer = await self._exchange(connection, question)
            except OSError as error:
                self._fail(question, f"{type(error).__name__} {error}")
                connection.close()
                connection = await Connection.open(self._origin)
                continue
            outcome = self._judged(question, answer)
            self._out.outcomes[outcome] += 1
            await asyncio.sleep(0 if outcome == "right" else PAUSE_S)
        connection.close()

    def _drawn(self, chance: random.Random) -> Question:
        kind: Kind = "good"
        share = chance.random()
        for other, own in SHARES.items():
            if share < own:
                kind = other
                break
            share -= own
        return chance.choice(self._pools[kind])

    async def _exchange(
        self, connection: Connection, question: Question
    ) -> tuple[Connection, Answer]:
        """Send a question; return its answer and a connection for the next."""
        if not connection.is_open:
            connection = await Connection.open(self._origin)
        async with asyncio.timeout(TIMEOUT_S):
            status, body = await connection.send(self._requests[question.name])
        if connection.unasked:
            self._fail(question, "answered twice")
        return connection, Answer(status, connection.headers, body)

    async def _leave(self, question: Question, chance: random.Random) -> None:
        """Send some or all of a request and hang up, politely or not."""
        request = self._requests[question.name]
        sent = request if chance.random() < 0.7 else request[: chance.randrange(len(request))]
        try:
            _, writer = await asyncio.open_connection(self._origin.host, self._origin.port)
            writer.write(sent)
            await asyncio.sleep(chance.uniform(0, LONGEST_STAY_S))
        except OSError as error:
            self._fail(question, f"{type(error).__name__} before the caller left")
            return
        if chance.random() < 0.5:
            writer.transport.abort()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def _judged(self, question: Question, answer: Answer) -> str:
        try:
            return judge(question, self._right.get(question.name), answer)
        except (ValueError, KeyError, TypeError) as error:
            self._fail(question, f"{error}")
            return "wrong"

    def _fail(self, question: Question, text: str) -> None:
        self._out.failures.append(f"{self._passed():.1f} s, {question.name}: {text}")

    async def _befall(self) -> None:
        """Kill, stop and reload by the plan."""
        turns = 0
        async with asyncio.TaskGroup() as tasks:
            for at, deed in self._plan.deeds():
                await asyncio.sleep(max(0.0, at - self._passed()))
                match deed:
                    case "kill":
                        tasks.create_task(self._kill())
                    case "stop":
                        tasks.create_task(self._stop())
                    case "reload":
                        tasks.create_task(self._reload(turns))
                        turns += 1
                    case "greed":
                        tasks.create_task(self._take_everything())
                    case "hang":
                        tasks.create_task(self._load_what_hangs())

    async def _kill(self) -> None:
        """Kill a worker; where it was the only one, note how long there was none."""
        known = self._living()
        if not known:
            self._note("found no worker to kill")
            return
        victim = self._chance.choice(known)
        is_only = len(known) == 1 and not self._changing.locked()
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        since = self._passed()
        self._note("killed" if is_only else "killed while changing")
        if is_only:
            while not (others := [one for one in self._living() if one.pid != victim.pid]):
                await asyncio.sleep(PROBE_S)
                if self._passed() > since + END_S:
                    self._out.failures.append(f"{since:.1f} s: the killed worker didn't come back")
                    return
            until = min(one.create_time() for one in others) - time.time() + self._passed()
            if not self._changing.locked():
                self._out.absences.append(Absence(since, until))

    async def _stop(self) -> None:
        """Freeze the worker that serves: the watchdog must kill it."""
        async with self._changing:
            known = self._living()
        if not known:
            self._note("found no worker to freeze")
            return
        victim = known[0]
        with suppress(psutil.NoSuchProcess):
            victim.suspend()
        since = self._passed()
        while victim.pid in {one.pid for one in self._living()}:
            await asyncio.sleep(PROBE_S)
            if self._passed() > since + END_S:
                self._out.failures.append(f"{since:.1f} s: the frozen worker was left as it was")
                return
        self._note("froze, and it was killed")

    async def _take_everything(self) -> None:
        """Send an item over which a process that renders ends: the item alone is refused."""
        good, bad = ({"prompt": one, "response": "So."} for one in ("Why?", GREEDY))
        body = {"model": self._hostile.greedy.name, "inputs": [good, bad, good], "on_error": "item"}
        answer = await self._admin("/score", body)
        if answer is None:
            return
        status, said = answer
        self._note(f"greed: {status}")
        if status in {503, 504}:
            return
        errors = [(one.get("error") or {}).get("code") for one in said.get("data", [])]
        late = {"deadline_exceeded", "template_refused"}
        if status != 200 or errors[1] not in late or {errors[0], errors[2]} - {None, *late}:
            self._out.failures.append(f"{self._passed():.1f} s, greed: {status} {errors}")

    async def _load_what_hangs(self) -> None:
        """Load what doesn't come to an end: refused, and what is served still is."""
        async with self._changing:
            async with asyncio.TaskGroup() as tasks:
                loading = tasks.create_task(
                    self._admin("/admin/load", {"model": str(self._hostile.more)})
                )
                tasks.create_task(self._freeze_what_reads())
            answer = loading.result()
        if answer is None:
            return
        status, said = answer
        self._note(f"hang: {status}")
        if status != 409:
            self._out.failures.append(f"{self._passed():.1f} s, hang: {status} {said}")

    async def _freeze_what_reads(self) -> None:
        """Freeze the newest process that reads a checkpoint, as a file without end would."""
        known = set(readers(self._pid))
        end = time.monotonic() + LOAD_TIMEOUT_S
        while time.monotonic() < end:
            await asyncio.sleep(PROBE_S / 10)
            for one in readers(self._pid):
                if one not in known:
                    one.suspend()
                    return

    async def _admin(self, path: str, body: object) -> tuple[int, Any] | None:
        """Send JSON with the operator's key; None where there was no answer, which is a failure."""
        connection = await Connection.open(self._origin)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
        sent = self._origin.post(path, json.dumps(body).encode(), headers)
        try:
            async with asyncio.timeout(2 * END_S):
                status, said = await connection.send(sent)
        except OSError as error:
            self._out.failures.append(f"{self._passed():.1f} s, {path}: {type(error).__name__}")
            return None
        finally:
            connection.close()
        return status, json.loads(said)

    async def _read_much(self) -> None:
        """Ask for a large answer, and read it."""
        connection = await Connection.open(self._origin)
        await connection.send(self._much())
        connection.close()

    def _much(self) -> bytes:
        items = {"inputs": [{"text": ""}] * SLOW_ITEMS, "on_error": "item"}
        return self._origin.post("/score", json.dumps(items).encode(), {})

    async def _dawdle(self) -> None:
        """Ask for a large answer and never read it, hang up after a while, ask again."""
        while (left_s := self._plan.seconds - self._passed()) > 0:
            await asyncio.sleep(self._chance.uniform(0, left_s / 2))
            with suppress(OSError):
                _, writer = await asyncio.open_connection(
                    self._origin.host, self._origin.port, local_addr=(SLOW_ADDRESS, 0), limit=1
                )
                writer.write(self._much())
                self._out.deeds["answers that nobody reads"] += 1
                await asyncio.sleep(min(left_s, self._chance.uniform(*SLOW_STAY_S)))
                writer.transport.abort()

    async def _reload(self, turn: int) -> None:
        """Have everything read again, by the route or by SIGHUP."""
        async with self._changing:
            await (self._hang_up() if turn % 2 else self._post_reload())

    async def _post_reload(self) -> None:
        connection = await Connection.open(self._origin)
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        kills = self._kills()
        try:
            async with asyncio.timeout(2 * END_S):
                status, body = await connection.send(
                    self._origin.post("/admin/reload", b"", headers)
                )
        except OSError as error:
            self._out.failures.append(f"{self._passed():.1f} s, reload: {type(error).__name__}")
            return
        finally:
            connection.close()
        self._note(f"reload: {status}")
        if status != 200 and not (status in {409, 503} and self._kills() > kills):
            self._out.failures.append(f"{self._passed():.1f} s, reload: {status} {body!r}")

    async def _hang_up(self) -> None:
        """Send SIGHUP and wait until another worker serves, alone."""
        before = {one.pid for one in self._living()}
        kills, since = self._kills(), self._passed()
        os.kill(self._pid, signal.SIGHUP)
        while not (now := {one.pid for one in self._living()}) or now & before or len(now) > 1:
            await asyncio.sleep(PROBE_S)
            if self._kills() > kills:
                break  # this worker may have gone for another reason
            if self._passed() > since + 2 * END_S:
                self._out.failures.append(f"{since:.1f} s: SIGHUP changed nothing")
                return
        self._note("SIGHUP")

    def _note(self, deed: str) -> None:
        self._out.deeds[deed] += 1
        self._announce(f"{self._passed():6.1f} s: {deed}")

    def _kills(self) -> int:
        return sum(number for deed, number in self._out.deeds.items() if "killed" in deed)

    def _living(self) -> list[psutil.Process]:
        living = []
        for one in workers(self._pid):
            with suppress(psutil.NoSuchProcess):
                if one.status() != psutil.STATUS_ZOMBIE:
                    living.append(one)
        return living

    async def _probe(self) -> None:
        """Ask whether the server is ready, and for a score at once."""
        connection = await Connection.open(self._origin)
        async with asyncio.TaskGroup() as scores:
            while self._passed() < self._plan.seconds:
                begin = self._passed()
                connection, answer = await self._exchange(connection, READY)
                probe = Probe(begin, self._passed(), answer.status == 200)
                self._judged(READY, answer)
                self._out.probes.append(probe)
                if probe.is_ready:
                    scores.create_task(self._score(probe))
                await asyncio.sleep(PROBE_S)
        connection.close()

    async def _score(self, probe: Probe) -> None:
        """Ask for a score; it may take as long as a new worker takes to come."""
        question = next(one for one in self._pools["good"] if one.path == "/score")
        connection = await Connection.open(self._origin)
        try:
            connection, answer = await self._exchange(connection, question)
        except OSError as error:
            self._fail(question, f"{type(error).__name__} {error}")
            return
        outcome = self._judged(question, answer)
        self._out.outcomes[outcome] += 1
        probe.is_refused = outcome == "not_ready"
        connection.close()

    async def _weigh(self) -> None:
        while self._passed() < self._plan.seconds:
            held = psutil.Process(self._pid).memory_info().rss
            self._out.largest_bytes = max(self._out.largest_bytes, held)
            minute = int(self._passed() / MINUTE_S)
            self._out.low_water[minute:] = [min([held, *self._out.low_water[minute:]])]
            await asyncio.sleep(1)

    async def _settle(self) -> None:
        """Wait until the server is ready with one worker."""
        connection = await Connection.open(self._origin)
        end = time.monotonic() + 2 * END_S
        while time.monotonic() < end:
            connection, answer = await self._exchange(connection, READY)
            if answer.status == 200 and len(workers(self._pid)) == 1:
                break
            await asyncio.sleep(PROBE_S)
        else:
            self._out.failures.append("it wasn't ready with one worker after the end")
        connection.close()

    async def _empty(self) -> None:
        """Wait until what ends after a while has ended: connections, threads of the past."""
        end = time.monotonic() + END_S / 4
        before = self._out.before
        while time.monotonic() < end:
            await asyncio.sleep(1)
            self._out.after = now = Census.of(self._pid)
            if before and now.files <= before.files and now.threads <= before.threads:
                break

    def _passed(self) -> float:
        return time.monotonic() - self._begin
