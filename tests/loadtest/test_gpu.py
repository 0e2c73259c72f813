"""`make gpu` without a GPU: every step by its dry run, and what becomes of one that fails."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from loadtest import carried, gpu

ROOT = Path(__file__).parents[2]
NEEDS_A_GPU = {"launches", "memory-full", "device-lost"}
# What the device process, the server and the steps import.
IMPORTS = """
import assay.engine.worker, assay.engine.batch_loop, assay.engine.loading
import assay.cli.app, assay.api.server, assay.prompts.process
import loadtest.gpu_steps
"""


@pytest.mark.timeout(170)
def test_a_dry_run_goes_through_every_step(tmp_path):
    """All but those that need a GPU pass, with tiny shapes; the file has what was printed."""
    file = tmp_path / "gpu.json"
    finished = subprocess.run(
        [sys.executable, "-m", "loadtest.gpu", "--dry-run", "--json", str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    found = json.loads(file.read_text())
    said = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert said == found
    assert [one["step"] for one in found] == [step.name for step in gpu.STEPS]
    wanted = [None if one["step"] in NEEDS_A_GPU else True for one in found]
    assert [one["passed"] for one in found] == wanted, finished.stdout + finished.stderr
    assert finished.returncode == 0


def test_all_steps_take_at_most_seven_minutes():
    """Though each takes as long as it may."""
    assert sum(step.deadline_s for step in gpu.STEPS) <= 7 * 60


class Child:
    """A process whose steps do as their names say."""

    def __init__(self, started):
        self.started = started
        started.append(self)
        self.is_over = False

    def run(self, step, known, deadline_s):
        if step.name == "attention":
            return None
        if step.name == "bits":
            raise EOFError
        return {"passed": True, "known": {step.name: 1}, "saw": sorted(known)}

    def end(self):
        self.is_over = True


def test_a_step_that_hangs_or_ends_its_process_costs_the_next_one_nothing():
    """Each of those gets a new process; what earlier steps found is passed on."""
    started = []

    found = list(gpu.results(gpu.STEPS[:5], lambda: Child(started)))

    assert [one["passed"] for one in found] == [True, False, False, True, True]
    assert [one.get("why") for one in found[1:3]] == ["over its deadline", "its process ended"]
    assert found[4]["saw"] == ["fidelity", "machine"]
    assert len(started) == 3
    assert all(child.is_over for child in started)


def test_a_step_that_hangs_is_left():
    """Its process is killed at its deadline, whatever it waits for."""
    child = gpu.Child(is_dry=True)
    try:
        assert child.run(gpu.STEPS[0], {}, 0.05) is None
    finally:
        child.end()
    assert child._process.returncode == -9


def test_a_table_says_what_passed():
    """And what wasn't run."""
    found = [
        {"step": "machine", "passed": True, "seconds": 1.0, "tflops": 790.1},
        {"step": "bits", "passed": False, "seconds": 2.0, "why": "over its deadline"},
        {"step": "serve", "passed": None, "seconds": 0.0, "why": "not run: no GPU"},
    ]

    drawn = gpu.table(found)

    assert list(drawn.columns[1].cells) == ["yes", "NO", "not run"]
    assert next(iter(drawn.columns[3].cells)) == "tflops 790.1"


def test_what_it_imports_is_carried_or_there(tmp_path):
    """With those packages alone; one that is new among Assay's fails here, not on the GPU."""
    for name in {*carried.PACKAGES, *carried.THERE}:
        try:
            files = metadata.distribution(name).files
        except metadata.PackageNotFoundError:  # of a GPU's machine alone
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (tmp_path / top).exists():
                (tmp_path / top).symlink_to(metadata.distribution(name).locate_file(top))
    paths = os.pathsep.join(map(str, (tmp_path, ROOT / "service", ROOT)))

    finished = subprocess.run(
        [sys.executable, "-S", "-W", "ignore", "-c", IMPORTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr


def test_what_is_carried_is_pinned_by_the_images_hashes():
    """So is what they ask for, but for what is there."""
    listed = carried.requirements(carried.LIST.read_text())

    names = [line.partition("==")[0] for line in listed.splitlines() if "==" in line]
    assert names == list(carried.PACKAGES)
    assert listed.count("--hash=sha256:") >= len(names)
    with pytest.raises(ValueError, match="doesn't name"):
        carried.requirements("torch==2.13.0 \\\n    --hash=sha256:0\n")
