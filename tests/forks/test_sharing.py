"""What servers of tests share."""

from pathlib import Path

import psutil
import pytest

from tests import forks
from tests.http import checkpoints
from tests.http.processes import called, family, serving


@pytest.mark.parametrize("shares_forks", [True, False])
def test_a_servers_processes_are_forked_from_what_is_shared(
    tmp_path: Path, shares_forks: bool
) -> None:
    """Or from fork servers of its own; either way they end with it."""
    tiny = checkpoints.build(tmp_path / "tiny")
    with serving(tmp_path / "run", tiny, compile="off", shares_forks=shares_forks) as server:
        (worker,) = called("assay-worker", server.process.pid)
        (loader,) = called("assay-loader", server.process.pid)
        parents = {worker.ppid(), loader.ppid()}
        everyone = family(server.process.pid)

    assert (parents == set(forks.pids())) is shares_forks
    assert not psutil.wait_procs(everyone, timeout=10)[1]
