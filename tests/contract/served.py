"""A server of each kind of target that foreign contracts meet, which is soon overloaded."""

from __future__ import annotations

import contextlib
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.families import attributes, pairwise, process
from tests.http import checkpoints
from tests.http.processes import serving, until
from tests.http.texts import PROMPT, RESPONSES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.http.processes import Server

ITEMS = [{"prompt": PROMPT, "response": response} for response in RESPONSES]
MAX_QUEUED_TOKENS = 2_000
_FAT = [{"input_ids": [10 + number] * 49 + [7]} for number in range(50)]  # above it


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every kind of target."""
    with every_kind(
        tmp_path_factory.mktemp("contracts"),
        max_queued_tokens=MAX_QUEUED_TOKENS,
        batch_tokens=64,
    ) as server:
        yield server


@contextlib.contextmanager
def every_kind(root: Path, **settings: Any) -> Iterator[Server]:
    """Serve a model, an ensemble, and models of attributes, of steps and of comparisons."""
    tiny = checkpoints.build(root / "tiny")
    other = checkpoints.copy(tiny, root / "other")
    checkpoints.edit_weights(
        other, lambda tensors: tensors.update({"score.weight": -3 * tensors["score.weight"]})
    )
    layouts = {
        layout.name: layout
        for module in (attributes, pairwise, process)
        for layout in module.LAYOUTS
    }
    families = [
        checkpoints.build_family(root / name, layouts[own]).folder
        for name, own in (
            ("helpsteer", "helpsteer"),
            ("pairrm", "pairrm"),
            ("math", "qwen2.5-math-prm"),
        )
    ]
    ensembles = '{"crew": ["tiny", "other"]}'
    with serving(root / "run", tiny, other, *families, ensembles=ensembles, **settings) as server:
        yield server


def post(server: Server, path: str, **body: Any) -> Any:
    """Return what a body is answered with."""
    answer = server.http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def natively(server: Server, inputs: Any = ITEMS, **options: Any) -> list[float]:
    """Return the native scores of items."""
    return [one["score"] for one in post(server, "/score", inputs=inputs, **options)["data"]]


def rendered(server: Server, inputs: Any = ITEMS, **options: Any) -> list[str]:
    """Return what the template makes of items."""
    return [one["text"] for one in post(server, "/tokenize", inputs=inputs, **options)["data"]]


def sigmoid(score: float) -> float:
    """Return σ(score)."""
    if score >= 0:
        return 1 / (1 + math.exp(-score))
    return math.exp(score) / (1 + math.exp(score))


def descending(scores: list[float]) -> list[int]:
    """Return the places of scores, the highest first."""
    return sorted(range(len(scores)), key=lambda place: -scores[place])


@contextlib.contextmanager
def overloaded(server: Server) -> Iterator[None]:
    """Let nothing more be admitted meanwhile."""
    with ThreadPoolExecutor() as pool, server.held():
        waits = pool.submit(server.score, inputs=_FAT)
        until("the fat request waits", lambda: server.metric("assay_queue_items"))
        yield
    assert waits.result().status_code == 200


def refused(server: Server, path: str, **body: Any) -> httpx.Response:
    """Return the answer to a body that finds no room."""
    with overloaded(server):
        return server.http.post(path, json=body)
