"""Property tests try the same examples on every machine, however slow it is."""

import os

import pytest
from hypothesis import settings

from assay import processes
from tests import forks
from tests.forks import front

# Tests share the cores: threads of torch that wait by spinning took half of them from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A front says so to its processes; those that fronts share have the same variables.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Files that take longest, most of it waiting: begun first, nothing else waits for them at the end.
LONG = (
    *(
        "fidelity/test_architectures",
        "engine/test_tree",
        "http/test_changes",
        "http/test_recovery",
        "http/test_holding",
    ),
    *("http/test_catalogue", "http/test_hostile", "http/test_stopping", "http/test_pressure"),
    *("http/test_keys", "http/test_remotes", "scheduling/test_admission", "scoring/test_trust"),
    *("http/test_caches", "guides/test_keys", "loadtest/test_drive", "deploy/test_prometheus"),
    *("client/test_restart", "fuzz/test_openapi", "scoring/test_waiting", "http/test_tls"),
    *("guides/test_restart", "guides/test_trl", "loadtest/test_cli", "fuzz/test_attacks"),
)
RANKS = {f"tests/{name}.py": rank for rank, name in enumerate(LONG)}


def pytest_collection_modifyitems(items):
    """Put the long files first; the order within a file stays."""
    items.sort(key=lambda item: RANKS.get(item.nodeid.partition("::")[0], len(LONG)))


settings.register_profile("assay", derandomize=True, deadline=None)
settings.load_profile("assay")


@pytest.fixture(scope="session", autouse=True)
def shared_forks():
    """Let what loads models in this process fork from what has imported torch."""
    processes._fork_servers.append(front.SharedForks(forks.given))


@pytest.fixture
def thread_count():
    """Return the function that sets how many threads torch has, until the test's end."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
