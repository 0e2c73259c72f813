"""A server for the programs that the guides show, and what runs those programs.

A program of `docs/examples` finds the server's URL in ASSAY_URL or in its first argument, and the
last line that it prints is its result, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.contract.served import MAX_QUEUED_TOKENS
from tests.families import attributes, process
from tests.http import checkpoints
from tests.http.processes import environment, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.http.processes import Server

DOCS = Path(__file__).resolve().parents[2] / "docs"
EXAMPLES = DOCS / "examples"
MATH = "Qwen/Qwen2.5-Math-PRM-7B"  # the only name that reward_hub knows a server's model by
ALIASES = {"starter": "tiny", MATH: "math"}
KEY = "a-key"
LIMIT_S = 150.0  # a bound, not an expectation: the machine may be busy
_OFFLINE = {"HF_HUB_OFFLINE": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


class RunExample(Protocol):
    """Run a program of `docs/examples` to its end and return its result."""

    def __call__(self, name: str, *arguments: str, **variables: str) -> Any:
        """`name` is the file's; `variables` are of its environment, beside ASSAY_URL."""


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny checkpoints by name: one scalar (the default), one of attributes, one of steps."""
    root = tmp_path_factory.mktemp("guides")
    layouts = {one.name: one for module in (attributes, process) for one in module.LAYOUTS}
    made = {"tiny": checkpoints.build(root / "tiny")}
    for name, own in (("helpsteer", "helpsteer"), ("math", "qwen2.5-math-prm")):
        made[name] = checkpoints.build_family(root / name, layouts[own]).folder
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, families: dict[str, Path]) -> Iterator[Server]:
    """A real server of these checkpoints."""
    folder = tmp_path_factory.mktemp("server") / "run"
    with serving(folder, *families.values(), aliases=json.dumps(ALIASES)) as started:
        yield started


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory, families: dict[str, Path]) -> Iterator[Server]:
    """A server of the default checkpoint with a key, which is soon overloaded."""
    with serving(
        tmp_path_factory.mktemp("narrow") / "run",
        families["tiny"],
        aliases=json.dumps({"starter": "tiny"}),
        key=KEY,
        api_key=KEY,
        max_queued_tokens=MAX_QUEUED_TOKENS,
        batch_tokens=64,
    ) as started:
        yield started


@pytest.fixture
def run_example(server: Server, tmp_path: Path) -> RunExample:
    """What runs a program against the server, in an empty folder."""

    def run(name: str, *arguments: str, **variables: str) -> Any:
        finished = subprocess.run(
            [sys.executable, str(EXAMPLES / name), *arguments],
            cwd=tmp_path,
            env=environment(url=server.url) | _OFFLINE | variables,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
        return json.loads(finished.stdout.splitlines()[-1])

    return run


def natively(server: Server, inputs: Any, **options: Any) -> list[dict[str, Any]]:
    """Return the native entries of items."""
    answer = server.score(inputs=inputs, **options)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def scores(server: Server, inputs: Any, **options: Any) -> list[float]:
    """Return the native scores of items."""
    return [entry["score"] for entry in natively(server, inputs, **options)]
