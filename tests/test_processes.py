"""What Assay's own processes are started with."""

import pytest

from assay import processes
from assay.scheduling.policy import WARM_UP
from assay.scheduling.workers import Worker
from assay.worker_protocol import Refused, Start


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
    start = Start("cpu", None, "off", (), WARM_UP)
    async with Worker(start, "tests.environment", variables=["VENDOR_LICENSE_SERVER"]) as worker:
        said = await worker.receive()

    assert said == Refused("VENDOR_LICENSE_SERVER", "this")
