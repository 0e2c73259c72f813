"""What Assay's own processes are started with, and those that are forked."""

import contextlib
import os
import signal

import psutil
import pytest

from assay import processes
from assay.errors import WorkerError
from assay.scheduling import workers
from assay.scheduling.policy import WARM_UP
from assay.scheduling.workers import Worker
from assay.worker_protocol import Refused, Start

LICENSE = "VENDOR_LICENSE_SERVER"
PLAIN = "tests.forks.plain"
START = Start("cpu", None, "off", (), WARM_UP)


@pytest.mark.parametrize(
    "name",
    [
        *("ASSAY_API_KEY", "ASSAY_KEYS", "ASSAY_MODELS", "HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"),
        *("OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "PGPASSWORD"),
        *("TORCH_HUB_TOKEN", "CUDA_LICENSE_KEY", "HTTPS_PROXY", "SSH_AUTH_SOCK", "TRITON_SECRETS"),
    ],
)
def test_no_secret_of_the_environment_is_passed_on(monkeypatch, name):
    """Nor what a proxy's URL may hold; unless the operator names it."""
    monkeypatch.setenv(name, "hush")

    assert name not in processes.environment()
    assert processes.environment([name])[name] == "hush"


@pytest.mark.parametrize(
    "name", ["PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "PYTHONPATH", "LC_ALL"]
)
def test_what_a_library_needs_is_passed_on(monkeypatch, name):
    """Where to find things, and how much of the machine to take."""
    monkeypatch.setenv(name, "this")

    assert processes.environment()[name] == "this"


async def test_further_variables_reach_a_device_process(monkeypatch):
    """Those that the operator names; the others stay here."""
    monkeypatch.setenv("VENDOR_LICENSE_SERVER", "this")
    monkeypatch.setenv("ASSAY_API_KEY", "hush")
    async with Worker(START, "tests.environment", variables=["VENDOR_LICENSE_SERVER"]) as worker:
        said = await worker.receive()

    assert said == Refused("VENDOR_LICENSE_SERVER", "this")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64"),
        ("PYTORCH_ALLOC_CONF", "max_split_size_mb:64"),
        ("PYTORCH_HIP_ALLOC_CONF", "max_split_size_mb:64"),
        ("UNRELATED", "1"),
    ],
)
def test_a_gpus_memory_grows_in_place_unless_the_operator_says_how(monkeypatch, name, value):
    """torch takes one of the names: ours beside the operator's would win or lose by version."""
    for known in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(known, raising=False)
    monkeypatch.setenv(name, value)

    found = {key: said for key, said in workers._variables(()).items() if "ALLOC_CONF" in key}

    growing = "expandable_segments:True"
    ours = {"PYTORCH_CUDA_ALLOC_CONF": growing, "PYTORCH_ALLOC_CONF": growing}
    assert found == (ours if name == "UNRELATED" else {name: value})


@contextlib.contextmanager
def forking():
    """Keep a fork server of what says who its parent is."""
    with processes.ahead(PLAIN, workers._variables([LICENSE]), forks=True):
        yield


def forked() -> Worker:
    return Worker(START, PLAIN, variables=[LICENSE])


def ended(*pids: int) -> bool:
    """Whether these end soon; they aren't this process's children."""
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(there, timeout=30)[1]


async def test_a_process_is_forked_from_what_is_there(monkeypatch):
    """With its variables; it is known by its id, and ends where it is hung up on."""
    monkeypatch.setenv(LICENSE, "this")
    with forking():
        async with forked() as first, forked() as second:
            heard = [await one.receive() for one in (first, second)]
            pids = [first.pid, second.pid]

    parents = {said.model for said in heard}
    assert len(parents) == 1
    assert os.getpid() not in map(int, parents)
    assert {said.message for said in heard} == {"this"}
    assert ended(*pids)


async def test_a_killed_one_is_gone_and_the_next_is_there(monkeypatch):
    """From the same fork server."""
    with forking():
        async with forked() as worker:
            before = await worker.receive()
            worker.kill()
            with pytest.raises(WorkerError, match="gone"):
                await worker.receive()
        async with forked() as worker:
            after = await worker.receive()

    assert before == after


async def test_a_fork_server_that_died_is_started_again():
    """What it forked ends with it, as it does with the front."""
    with forking():
        async with forked() as worker:
            before = await worker.receive()
            os.kill(int(before.model), signal.SIGKILL)
            with pytest.raises(WorkerError, match="gone"):
                await worker.receive()
        async with forked() as worker:
            after = await worker.receive()

    assert after.model != before.model


async def test_what_a_fork_server_never_forks_can_be_killed():
    """Where it hangs while it imports: it is ended itself, and the next one is another."""
    with forking():
        server = processes._fork_servers[-1]._process
        os.kill(server.pid, signal.SIGSTOP)
        async with forked() as worker:
            assert worker.pid is None
            worker.kill()
            with pytest.raises(WorkerError, match="gone"):
                await worker.receive()
        async with forked() as worker:
            assert (await worker.receive()).model != str(server.pid)


async def test_a_process_with_other_variables_is_not_forked(monkeypatch):
    """It would have those that its fork server has."""
    monkeypatch.setenv(LICENSE, "this")
    with forking():
        monkeypatch.setenv(LICENSE, "that")
        server = processes._fork_servers[-1]
        assert not server.forks(PLAIN, workers._variables([LICENSE]))


async def test_a_block_within_a_block_uses_the_outer_ones_fork_server():
    """And leaves it running."""
    with forking():
        with forking():
            pass
        async with forked() as worker:
            heard = await worker.receive()

    assert ended(int(heard.model))


def test_where_a_gpu_shows_nothing_is_forked(monkeypatch):
    """A driver's state doesn't survive it; the first process is started ahead."""
    begun = []
    monkeypatch.setattr(workers.devices, "has_driver", lambda: True)
    monkeypatch.setattr(processes, "ahead", lambda *_, forks: begun.append(forks))
    workers.ahead()

    assert begun == [False]
