"""Property tests try the same examples on every machine, however slow it is."""

import os

import pytest
from hypothesis import settings

# Tests share the cores: threads of torch that wait by spinning took half of them from the others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile("assay", derandomize=True, deadline=None)
settings.load_profile("assay")


@pytest.fixture
def thread_count():
    """Return the function that sets how many threads torch has, until the test's end."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
