"""Property tests try the same examples on every machine, however slow it is."""

import pytest
from hypothesis import settings

settings.register_profile("assay", derandomize=True, deadline=None)
settings.load_profile("assay")


@pytest.fixture
def thread_count():
    """Return the function that sets how many threads torch has, until the test's end."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
