"""The command line: one command for each thing that is measured."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from loadtest import growth as group_growth
from loadtest import intrusion as intruding
from loadtest import neighbour, overhead, report
from loadtest import overload as overloading
from loadtest import pair as pairing
from loadtest import server as servers
from loadtest import sweep as sweeping
from loadtest.connection import Origin
from loadtest.contracts import DIALECTS
from loadtest.pair import Round, Source
from loadtest.render import Renderer
from loadtest.subjects import Http, Setup, Subject, subject
from loadtest.texts import Generated, Recorded
from loadtest.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FLOAT32_TOLERANCE = 1e-4  # rounding of sums in another order, through every layer
out = Console(soft_wrap=True, highlight=False)
wide = Console(width=max(out.width, 200), highlight=False)  # a table's rows are one line each


class _RunByDefault(TyperGroup):
    """Options without a command are those of `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `run` in front where an option comes first."""
        if args and args[0].startswith("-") and args[0] not in {"--help", "-h"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunByDefault,
    help="Load tests of Assay and its peers. Without a command: `run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


class Dtype(StrEnum):
    """What models compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def _dialect(name: str) -> str:
    if name not in DIALECTS:
        raise typer.BadParameter(f"known are {', '.join(DIALECTS)}")
    return name


def _workload(name: str) -> str:
    if name not in WORKLOADS:
        raise typer.BadParameter(f"known are {', '.join(WORKLOADS)}")
    return name


Dialect = Annotated[str, typer.Option(parser=_dialect, metavar="NAME", help="How --url is asked.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Folder with weights and tokenizer; default a random model of 13M."),
]
DtypeOption = Annotated[Dtype, typer.Option("--dtype", help="Of servers started here.")]
Threads = Annotated[
    int, typer.Option(min=1, help="Of servers started here.", show_default="all cores")
]
Workloads = Annotated[
    list[str],
    typer.Option(
        "--workload",
        "-w",
        parser=_workload,
        metavar="NAME",
        help="Several times for several workloads.",
    ),
]
OneWorkload = Annotated[str, typer.Option("--workload", "-w", parser=_workload, metavar="NAME")]
Repetitions = Annotated[int, typer.Option("--repetitions", "-n", min=1)]
Scale = Annotated[float, typer.Option(min=0.001, help="Part of a workload's items to send.")]
Pairs = Annotated[
    Path | None, typer.Option(exists=True, help="JSONL of real text; default generated text.")
]
Seed = Annotated[
    int, typer.Option(help="Of the text: fresh in every run.", show_default="the clock")
]
TimeoutS = Annotated[float, typer.Option(min=0.1, help="Of a request, in seconds.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="File for every reading.")]
Rate = Annotated[
    float | None, typer.Option(help="Requests a second of open-loop workloads; default see these.")
]
Server = Annotated[
    str,
    typer.Option(help="assay, assay@FOLDER, plain, vllm, transformers, cross-encoder, or D=URL."),
]
CORES = os.cpu_count() or 1
NOW = int(time.time())


@dataclass(frozen=True, slots=True)
class _Options:
    """What all commands share."""

    checkpoint: Path | None
    dtype: str = "float32"
    threads: int = CORES
    pairs: Path | None = None
    seed: int = NOW
    scale: float = 1.0
    timeout_s: float = 900.0

    def setup(self) -> Setup:
        return Setup(self.checkpoint, self.dtype, self.threads, self.timeout_s)

    def source(self) -> Source:
        texts = Recorded(self.pairs, self.seed) if self.pairs else Generated(self.seed)
        renderer = Renderer(self.checkpoint) if self.checkpoint is not None else None
        return Source(texts, renderer, self.scale)

    def record(self, **more: object) -> dict[str, object]:
        shared = {name: getattr(self, name) for name in self.__slots__}
        return {**shared, **more, "command": sys.argv[1:]}


@app.callback()
def main() -> None:
    """Load tests of Assay and its peers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers end with us


@app.command()
def run(
    url: Annotated[str | None, typer.Option(help="A server that runs already.")] = None,
    contract: Annotated[
        str, typer.Option(parser=_dialect, metavar="NAME", help="How it is asked.")
    ] = "assay",
    server: Annotated[str | None, typer.Option(help="Instead of --url: start one.")] = None,
    workload: Workloads = ["groups"],  # noqa: B006  typer's way
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    repetitions: Repetitions = 3,
    scale: Scale = 1.0,
    rate: Rate = None,
    pairs: Pairs = None,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
) -> None:
    """Measure one server. With --url and no --checkpoint, tokens are those of Assay's answers."""
    if (url is None) == (server is None):
        raise typer.BadParameter("give either --url or --server")
    spec = f"{contract}={url}" if server is None else server
    with _served(checkpoint, [spec]) as folder:
        options = _Options(folder, dtype, threads, pairs, seed, scale, timeout_s)
        _measure([spec], options, workload, repetitions, rate, json)


@app.command()
def pair(
    a: Annotated[str, typer.Option("--a", help="What is compared; see --server of `sweep`.")] = (
        "assay"
    ),
    b: Annotated[str, typer.Option("--b", help="What it is compared with.")] = "plain",
    workload: Workloads = ["groups", "distinct"],  # noqa: B006  typer's way
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    repetitions: Repetitions = 5,
    scale: Scale = 1.0,
    rate: Rate = None,
    pairs: Pairs = None,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
) -> None:
    """Measure two in turn, A B A B, on the same fresh texts; check that their scores agree."""
    with _served(checkpoint, [a, b]) as folder:
        options = _Options(folder, dtype, threads, pairs, seed, scale, timeout_s)
        _measure([a, b], options, workload, repetitions, rate, json)


@app.command()
def sweep(
    server: Annotated[
        list[str],
        typer.Option(
            help="assay, assay@FOLDER, plain, vllm, or DIALECT=URL; several for several curves."
        ),
    ] = ["assay"],  # noqa: B006  typer's way
    workload: OneWorkload = "short",
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    scale: Scale = 1.0,
    pairs: Pairs = None,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
    png: Annotated[Path | None, typer.Option(help="File for the plot.")] = None,
) -> None:
    """Throughput against concurrency and latency against offered load, an item a request."""
    with _served(checkpoint, server) as folder:
        options = _Options(folder, dtype, threads, pairs, seed, scale, timeout_s)
        source = options.source()
        curves = []
        for place, spec in enumerate(server):
            suffix = f"-{place + 1}" if server.count(spec) > 1 else ""
            with subject(spec, options.setup(), suffix=suffix) as one:
                if not one.has_requests:
                    raise typer.BadParameter(f"{spec} takes no single requests")
                curves.append(sweeping.sweep(one, workload, source, out.print))
    if json is not None:
        recorded = {"settings": options.record(), "machine": report.machine()}
        report.write(json, {**recorded, "curves": [curve.record() for curve in curves]})
    if png is not None:
        from loadtest import plot  # noqa: PLC0415  matplotlib is optional

        plot.draw(curves, f"{workload}, {dtype}, {threads} threads", png)


@app.command()
def client(
    items: Annotated[int, typer.Option(help="Items of each way of asking.")] = 100_000,
) -> None:
    """Measure the Python client's own cost against a stub that answers at once."""
    for one in overhead.rates(items):
        out.print(f"{one.way}: {one.items_per_s:,.0f} items/s ({one.items:,} items)")


@app.command()
def roofline(
    server: Server = "assay",
    workload: OneWorkload = "distinct",
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    repetitions: Repetitions = 3,
    scale: Scale = 1.0,
    pairs: Pairs = None,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
) -> None:
    """Share of the measured matrix-product rate that a server reaches on a workload."""
    from loadtest import roofline as roof  # noqa: PLC0415  torch is slow to import

    with _served(checkpoint, [server]) as folder:
        options = _Options(folder, dtype, threads, pairs, seed, scale, timeout_s)
        if folder is None:
            raise typer.BadParameter("--checkpoint is needed: its shapes are what is counted")
        operations = roof.Operations.of(folder)
        with subject(server, options.setup()) as one:
            machine = roof.Machine(dtype, threads)
            shares = roof.shares(
                one, operations, machine, workload, options.source(), repetitions, out.print
            )
    if json is not None:
        report.write(
            json,
            {
                "settings": options.record(server=server, workload=str(workload)),
                "machine": report.machine(),
                "operations_per_token": operations.per_token,
                "runs": shares,
            },
        )


@app.command("group-growth")
def growth(
    server: Server = "assay",
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    repetitions: Repetitions = 5,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 400,
    response_tokens: Annotated[int, typer.Option(min=1)] = 150,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
) -> None:
    """Time a group of n = 1, 2, 4, … 128 responses beside the prefix batch's distinct tokens."""
    with _served(checkpoint, [server]) as folder:
        if folder is None:
            raise typer.BadParameter("--checkpoint is needed: its tokens are what is counted")
        options = _Options(folder, dtype, threads, seed=seed, timeout_s=timeout_s)
        with subject(server, options.setup()) as one:
            grown = group_growth.grow(
                one,
                options.source(),
                repetitions=repetitions,
                prompt_tokens=prompt_tokens,
                response_tokens=response_tokens,
                announce=out.print,
            )
    wide.print(group_growth.table(grown))
    if json is not None:
        recorded = {"settings": options.record(server=server), "machine": report.machine()}
        report.write(json, {**recorded, "groups": group_growth.record(grown)})


@app.command()
def intrusion(
    server: Annotated[str, typer.Option(help="assay, assay@FOLDER or assay=URL.")] = "assay",
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    scale: Scale = 1.0,
    seed: Seed = NOW,
    timeout_s: TimeoutS = 900.0,
    json: JsonFile = None,
) -> None:
    """How long a short item waits that is sent while a `fat` request is being computed."""
    with _served(checkpoint, [server]) as folder:
        options = _Options(folder, dtype, threads, seed=seed, scale=scale, timeout_s=timeout_s)
        with subject(server, options.setup()) as one:
            if not isinstance(one, Http) or one.contract.name != "assay":
                raise typer.BadParameter("only Assay's answers say how long an item waited")
            source = options.source()
            one.measure(pairing.warm_up(source.load("fat")))
            result = intruding.intrude(one, source)
    for line in result.lines():
        out.print(line)
    if json is not None:
        recorded = {"settings": options.record(server=server), "machine": report.machine()}
        report.write(json, {**recorded, **result.record()})


@app.command()
def overload(
    multiple: Annotated[
        list[float], typer.Option("--multiple", "-m", help="Of the capacity; several for several.")
    ] = [1.0, 2.0, 5.0, 10.0],  # noqa: B006  typer's way
    seconds: Annotated[float, typer.Option(min=1, help="Of each multiple.")] = 60.0,
    capacity_s: Annotated[float, typer.Option(min=1, help="Of each capacity's measurement.")] = 20,
    max_wait_s: Annotated[float, typer.Option(min=1, help="The server's setting.")] = 10.0,
    items: Annotated[int, typer.Option(min=1, help="Of a request.")] = 8,
    tokens: Annotated[int, typer.Option(min=10, help="Of an item.")] = 200,
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    seed: Seed = NOW,
    json: JsonFile = None,
) -> None:
    """Offer multiples of the capacity in an open loop; exit with 1 where a promise isn't kept."""
    steps = []
    with _served(checkpoint, ["assay"]) as folder:
        assert folder is not None
        options = _Options(folder, dtype, threads, seed=seed)
        for one in multiple:
            server = servers.assay(
                folder, dtype, threads, max_wait_s=max_wait_s, **overloading.SETTINGS
            )
            with server:
                assert server.pid is not None
                requests = overloading.Requests(
                    Generated(seed), Origin.of(server.url), items=items, tokens=tokens
                )
                step = overloading.overload(
                    server.url,
                    server.pid,
                    requests,
                    one,
                    seconds=seconds,
                    capacity_s=capacity_s,
                    max_wait_s=max_wait_s,
                    seed=seed,
                )
            steps.append(step)
            out.print(f"{one:g} × {step.capacity:,.0f} tokens/s: {step.misses() or 'all is kept'}")
    wide.print(overloading.table(steps))
    if json is not None:
        recorded = {"settings": options.record(), "machine": report.machine()}
        report.write(json, {**recorded, "steps": [step.record() for step in steps]})
    if any(step.misses() for step in steps):
        raise typer.Exit(1)


@app.command("busy-start")
def busy_start(
    seconds: Annotated[float, typer.Option(min=40, help="Of load after each start.")] = 90.0,
    cores: Annotated[int, typer.Option(min=1, help="That are busy until it is ready.")] = CORES,
    checkpoint: Checkpoint = None,
    dtype: DtypeOption = Dtype.float32,
    threads: Threads = CORES,
    seed: Seed = NOW,
    json: JsonFile = None,
) -> None:
    """Start beside busy cores, before and after it quietly; exit with 1 where it is the worse."""
    with _served(checkpoint, ["assay"]) as folder:
        assert folder is not None
        options = _Options(folder, dtype, threads, seed=seed)
        starts = []
        for name, burning in (("quiet", 0), ("busy", cores), ("quiet again", 0)):
            server = servers.assay(folder, dtype, threads)
            texts = Generated(seed + len(starts))
            starts.append(neighbour.measure(name, server, texts, cores=burning, seconds=seconds))
    wide.print(neighbour.table(starts))
    before, busy, after = starts
    missed = neighbour.misses(busy, (before, after))
    out.print("; ".join(missed) or "all is kept")
    if json is not None:
        recorded = {"settings": options.record(), "machine": report.machine()}
        report.write(json, {**recorded, "starts": [one.record() for one in starts]})
    if missed:
        raise typer.Exit(1)


@app.command()
def chaos(
    seconds: Annotated[float, typer.Option(min=5)] = 600.0,
    kill_every_s: Annotated[float, typer.Option(min=1, help="kill -9 of the worker.")] = 45.0,
    reload_every_s: Annotated[float, typer.Option(min=1, help="By route and SIGHUP.")] = 60.0,
    stop_at_s: Annotated[float, typer.Option(min=0, help="SIGSTOP of the worker, once.")] = 70.0,
    seed: Annotated[int, typer.Option(help="Of what is asked and done.")] = 0,
    json: JsonFile = None,
) -> None:
    """Mixed traffic, callers who leave, dying workers; exit with 1 where a promise isn't kept."""
    from loadtest import chaos as happening  # noqa: PLC0415  tests' tables import torch
    from loadtest import questions  # noqa: PLC0415

    plan = happening.Plan(seconds, kill_every_s, reload_every_s, stop_at_s, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        models = questions.models(Path(folder))
        asked = questions.questions(questions.poison_id(models[0]))
        hostile = questions.hostile(models[1], Path(folder))
        served = [*models, hostile.greedy]
        settings = happening.settings(plan)
        with servers.assay_of(served, is_unread=True, **settings) as server:
            outcome = happening.chaos(server, asked, hostile, plan, out.print)
    for line in outcome.lines():
        out.print(line)
    if json is not None:
        report.write(json, {"machine": report.machine(), **outcome.record()})
    if outcome.misses():
        raise typer.Exit(1)


def _measure(
    specs: Sequence[str],
    options: _Options,
    workloads: Sequence[str],
    repetitions: int,
    rate: float | None,
    json: Path | None,
) -> None:
    """Measure the subjects on each workload, print as it goes, and check what can be checked."""
    source = options.source()
    done: list[Round] = []
    with ExitStack() as stack:
        subjects = [stack.enter_context(one) for one in _subjects(specs, options)]
        for name in workloads:
            for one in pairing.rounds(
                subjects, name, source, repetitions, rate=rate, announce=out.print
            ):
                done.append(one)
                out.print(report.line(one))
    wide.print(report.table(done))
    differences = [one.difference for one in done if one.difference is not None]
    if differences:
        out.print(f"largest difference of a score: {max(differences):.3g}")
    if json is not None:
        report.write(json, report.record(done, options.record(subjects=list(specs))))
    if options.dtype == "float32" and differences and not max(differences) <= FLOAT32_TOLERANCE:
        out.print(f"the scores disagree by more than {FLOAT32_TOLERANCE}")
        raise typer.Exit(1)


@contextmanager
def _served(folder: Path | None, specs: Sequence[str]) -> Iterator[Path | None]:
    """Give the checkpoint's absolute path, or a small random one's while it is used.

    Where every server runs already there is nothing to serve, so no checkpoint is made.
    """
    if folder is not None or all("=" in spec for spec in specs):
        yield folder and folder.resolve()
        return
    from loadtest.checkpoint import given_or_random  # noqa: PLC0415  torch is slow to import

    with given_or_random(None) as made:
        yield made


def _subjects(specs: Sequence[str], options: _Options) -> list[Subject]:
    """Return the subjects; two of one kind are told apart as -a and -b."""
    kinds = [spec.partition("=")[0].partition("@")[0] for spec in specs]
    suffixes = ("-a", "-b") if len(set(kinds)) < len(kinds) else ("", "")
    return [
        subject(spec, options.setup(), suffix=suffix)
        for spec, suffix in zip(specs, suffixes, strict=False)
    ]
