"""A server for the foreign contracts' tests, and their golden exchanges.

A golden file has a route, a request that is documented and its answer, in which what differs from
run to run is a placeholder: "<id>", "<time>", "<tokens>", "<score>", "<seconds>", "<text>".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.served import served  # noqa: F401  a fixture
from tests.families import pairwise, process, scalar
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = {
    "math": (process, "qwen2.5-math-prm"),
    "ki": (process, "math-shepherd"),
    "sky": (process, "skywork-o1-prm"),
    "gpm": (pairwise, "general-preference"),
    "intern": (scalar, "internlm2"),
}
KINDS = {
    "<id>": str,
    "<text>": str,
    "<time>": int,
    "<tokens>": int,
    "<score>": float,
    "<seconds>": float,
}


@pytest.fixture(scope="session")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of a scalar model, an ensemble, process reward models and one that compares."""
    root = tmp_path_factory.mktemp("contracts")
    tiny = checkpoints.build(root / "tiny")
    bare = checkpoints.copy(tiny, root / "bare")
    checkpoints.edit_weights(
        bare, lambda tensors: tensors.update({"score.weight": -3 * tensors["score.weight"]})
    )
    made = []
    for name, (module, layout) in FAMILIES.items():
        layouts = {one.name: one for one in module.LAYOUTS}
        made.append(checkpoints.build_family(root / name, layouts[layout]).folder)
    ensembles = json.dumps({"both": ["tiny", "bare"]})
    with serving(root / "run", tiny, bare, *made, ensembles=ensembles) as server:
        yield server


def golden(name: str) -> dict[str, Any]:
    """Return a golden exchange."""
    exchange: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return exchange


def check(expected: Any, live: Any, where: str = "answer") -> None:
    """Compare an answer with a golden one: fields, their order, types, and what isn't masked."""
    kind = KINDS.get(expected) if isinstance(expected, str) else None
    if kind is not None:
        assert type(live) is kind, f"{where} is {live!r}, no {kind.__name__}"
    elif isinstance(expected, dict):
        assert isinstance(live, dict), where
        assert list(live) == list(expected), where
        for key, value in expected.items():
            check(value, live[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(live, list), where
        assert len(live) == len(expected), where
        for place, pair in enumerate(zip(expected, live, strict=True)):
            check(*pair, f"{where}[{place}]")
    else:
        assert live == expected, where


def exchanges(prefix: str) -> list[str]:
    """Return the names of a contract's golden exchanges."""
    found = sorted(path.stem for path in GOLDEN.glob(f"{prefix}-*.json"))
    assert found, f"no golden exchange is called {prefix}-*: a test of none would be skipped"
    return found


def replay(server: Server, name: str) -> None:
    """Send a golden request and compare the answer."""
    exchange = golden(name)
    method, path = exchange["route"].split(" ")
    answer = server.http.request(method, path, json=exchange.get("request"))
    assert answer.status_code == exchange.get("status", 200), answer.text
    check(exchange["answer"], answer.json())


def scores(server: Server, *items: dict[str, Any], model: str = "tiny") -> list[float]:
    """Return what the native `/score` answers."""
    return [entry["score"] for entry in entries(server, *items, model=model)]


def entries(server: Server, *items: dict[str, Any], model: str = "tiny") -> list[dict[str, Any]]:
    """Return the native entries."""
    answer = server.score(inputs=list(items), model=model)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data
