"""A real server of a model, an ensemble, attributes and steps; connections end with each test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from assay.client.adapters import connection, environment
from tests.families import attributes, process
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

MEAN, STD = 0.25, 2.0  # what the card of "tiny" states


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve "tiny", the default, "other", "crew" of both, "helpsteer" and "math"."""
    root = tmp_path_factory.mktemp("adapters")
    tiny = checkpoints.build(root / "tiny")
    (tiny / "card.toml").write_text(f"[statistics]\nmean = {MEAN}\nstd = {STD}\n")
    other = checkpoints.copy(tiny, root / "other")
    checkpoints.edit_weights(
        other, lambda tensors: tensors.update({"score.weight": -3 * tensors["score.weight"]})
    )
    layouts = {layout.name: layout for module in (attributes, process) for layout in module.LAYOUTS}
    families = [
        checkpoints.build_family(root / name, layouts[own]).folder
        for name, own in (("helpsteer", "helpsteer"), ("math", "qwen2.5-math-prm"))
    ]
    with serving(
        root / "run", tiny, other, *families, ensembles='{"crew": ["tiny", "other"]}'
    ) as server:
        yield server


@pytest.fixture
def url(server: Server) -> str:
    """Where it answers."""
    return server.url


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without options from the environment, end without connections."""
    for name in list(os.environ):
        if name.startswith(environment.PREFIX):
            monkeypatch.delenv(name)
    yield
    connection.close()
