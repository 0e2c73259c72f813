"""One starter server and one narrow server for all HTTP tests, and the checkpoint of the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.http.processes import Server

KEYS = ("first-key", "second-key")
MAX_BODY_BYTES = 65_536
MAX_QUEUED_TOKENS = 2_000
BATCH_TOKENS = 64
MEAN, STD = 0.25, 2.0  # what the tiny checkpoint's card states


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server of `assay serve` without arguments."""
    with serving(tmp_path_factory.mktemp("starter") / "run") as server:
        yield server


@pytest.fixture
def http(starter: Server) -> httpx.Client:
    """A client of the starter's server."""
    return starter.http


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random checkpoint."""
    folder = checkpoints.build(tmp_path_factory.mktemp("checkpoint") / "tiny")
    (folder / "card.toml").write_text(f"[statistics]\nmean = {MEAN}\nstd = {STD}\n")
    return folder


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The same checkpoint with another head and without a card."""
    folder = checkpoints.copy(tiny, tmp_path_factory.mktemp("checkpoint") / "bare")
    (folder / "card.toml").unlink()
    checkpoints.edit_weights(
        folder, lambda tensors: tensors.update({"score.weight": -3 * tensors["score.weight"]})
    )
    return folder


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory, tiny: Path, bare: Path) -> Iterator[Server]:
    """A server of two checkpoints and an ensemble of them, with keys and tight limits."""
    with serving(
        tmp_path_factory.mktemp("narrow") / "run",
        tiny,
        bare,
        ensembles='{"both": ["tiny", "bare"]}',
        key=KEYS[0],
        api_key=",".join(KEYS),
        max_body_bytes=MAX_BODY_BYTES,
        max_queued_tokens=MAX_QUEUED_TOKENS,
        batch_tokens=BATCH_TOKENS,
        prefix_cache_mb=0,  # an item costs its tokens each time
    ) as server:
        yield server
