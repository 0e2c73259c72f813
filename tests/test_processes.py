"""What Assay's own processes are started with."""

import pytest

from assay import processes
from assay.scheduling import workers
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
