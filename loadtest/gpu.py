"""What Assay does on a GPU, in under seven minutes, without a network: `make gpu`.

    python -m loadtest.gpu [--dry-run] [--json FILE] [STEP ...]

Each step has a deadline of its own and prints a line of JSON; one that fails, hangs or takes its
process with it is noted, and the next goes on in a new process. A table ends it. With `--dry-run`
the steps run on the CPU with tiny shapes, and those that need a GPU say so.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from loadtest.gpu_steps import Bench

ROOT = Path(__file__).parents[1]
_START_S = 90.0  # to import torch and find the GPU, beside a step's own deadline


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is measured or shown."""

    name: str
    deadline_s: float
    passes_at: str  # as the table says it


STEPS = (
    Step("machine", 10, "700 TFLOP/s and 3.5 TB/s; else it is a slow machine"),
    Step("attention", 40, "each kernel within its limit of float64"),
    Step("bits", 20, "attention, heads and invariant products have equal bits"),
    Step("fidelity", 30, "not in blocks; at most twice eager bfloat16's gap to float32"),
    Step("launches", 10, "nothing waits for the GPU"),
    Step("rate-0.6b", 45, "40 % of the matrix rate; groups 0.9 of that, 3 times padded"),
    Step("rate-8b", 70, "70 % of the matrix rate; groups 0.9 of that"),
    Step("layers", 30, "faster fused; invariant: equal bits in any batch, its cost is told"),
    Step("single", 15, "p50 of 4 ms at 0.6B, 15 ms at 8B"),
    Step("batches", 35, "scores as recomputed; at most 1 ms between batches"),
    Step("memory-full", 15, "right again in less than 2 s"),
    Step("device-lost", 30, "a new process gives the same scores"),
    Step("serve", 70, "90 % of the rate in process; 1,200 items/s of 300 tokens"),
)


class Child:
    """The process that runs steps, one after another; it keeps its models between them."""

    def __init__(self, *, is_dry: bool) -> None:
        told, ours = os.pipe()
        self._answers, theirs = os.pipe()
        self._requests: IO[str] = os.fdopen(ours, "w")
        command = [sys.executable, "-m", "loadtest.gpu", f"--child={told},{theirs}"]
        self._process = subprocess.Popen(
            command + ["--dry-run"] * is_dry,
            cwd=ROOT,
            pass_fds=(told, theirs),
            start_new_session=True,
            stdout=sys.stderr,
        )
        os.close(told)
        os.close(theirs)
        self._read = b""

    def run(self, step: Step, known: Mapping[str, Any], deadline_s: float) -> dict[str, Any] | None:
        """Return what a step says; None where it is over its deadline.

        Raises:
            EOFError: The process has ended.
        """
        try:
            print(json.dumps({"step": step.name, "known": known}), file=self._requests, flush=True)
        except BrokenPipeError as error:
            raise EOFError from error
        end = time.monotonic() + deadline_s
        while b"\n" not in self._read:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                return None
            part = os.read(self._answers, 1 << 16)
            if not part:
                raise EOFError
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def end(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._requests.close()
        os.close(self._answers)


def results(
    steps: Sequence[Step], start: Callable[[], Child], known: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield what each step says; `passed` is None where it wasn't run."""
    known = {} if known is None else known
    child: Child | None = None
    try:
        for step in steps:
            begin = time.monotonic()
            is_new = child is None
            child = child or start()
            try:
                said = child.run(step, known, step.deadline_s + _START_S * is_new)
                failure = "over its deadline" if said is None else ""
            except EOFError:
                said, failure = None, "its process ended"
            if said is None:
                child.end()
                child, said = None, {"passed": False, "why": failure}
            known |= said.get("known", {})
            shown = {key: value for key, value in said.items() if key != "known"}
            yield {"step": step.name, "seconds": round(time.monotonic() - begin, 1), **shown}
    finally:
        if child is not None:
            child.end()


def table(found: Sequence[Mapping[str, Any]]) -> Table:
    """Return the steps with what each gave, and what it passes at."""
    drawn = Table("step", "passed", "s", "found", "passes at")
    wanted = {step.name: step.passes_at for step in STEPS}
    for result in found:
        passed = {True: "yes", False: "NO", None: "not run"}[result["passed"]]
        rest = {k: v for k, v in result.items() if k not in {"step", "passed", "seconds"}}
        told = ", ".join(f"{key} {value}" for key, value in rest.items())
        name = result["step"]
        drawn.add_row(name, passed, str(result["seconds"]), told, wanted[name])
    return drawn


def _serve_requests(requests: int, answers: int, *, is_dry: bool) -> None:
    """Run the steps that are asked for, as a child; an error is an answer."""
    from loadtest import gpu_steps  # noqa: PLC0415  torch is for the child alone

    bench: Bench = gpu_steps.Bench(is_dry=is_dry)
    with os.fdopen(requests) as asked, os.fdopen(answers, "w") as said:
        for line in asked:
            request = json.loads(line)
            try:
                answer = gpu_steps.run(request["step"], bench, request["known"])
            except Exception as error:  # noqa: BLE001  the next step may do better
                answer = {"passed": False, "why": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(answer), file=said, flush=True)


def main() -> None:
    """Run the steps; the exit code is 1 where one didn't pass."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.gpu", description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="STEP", help="those alone; default: all")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        requests, answers = map(int, arguments.child.split(","))
        _serve_requests(requests, answers, is_dry=arguments.dry_run)
        return
    if unknown := set(arguments.steps) - {step.name for step in STEPS}:
        parser.error(f"no step is called {', '.join(sorted(unknown))}")
    steps = [step for step in STEPS if not arguments.steps or step.name in arguments.steps]
    found = []
    for result in results(steps, lambda: Child(is_dry=arguments.dry_run)):
        print(json.dumps(result), flush=True)
        found.append(result)
    Console(width=160).print(table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    raise SystemExit(any(result["passed"] is False for result in found))


if __name__ == "__main__":
    main()
