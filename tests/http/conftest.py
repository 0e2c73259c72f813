"""Three servers for all HTTP tests, and their checkpoints: the starter, a narrow one, families."""

from __future__ import annotations

import json
import math
from statistics import median
from typing import TYPE_CHECKING

import pytest

from tests.families import attributes, contrast, pairwise, process
from tests.http import checkpoints
from tests.http.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.http.checkpoints import Family
    from tests.http.processes import Server

KEYS = ("first-key", "second-key")
MAX_BODY_BYTES = 65_536
MAX_QUEUED_TOKENS = 2_000
BATCH_TOKENS = 64
STEPS_LIMIT = 240  # tokens that the process reward model "whole" takes
OTHERWISE = -7.0  # what the composite "guarded" answers to items below its gate
CAREFUL = {
    "members": {"plain": "tiny", "quality": "odin"},
    "rule": "lower_bound",
    "penalty": 0.5,
}
PANEL = (  # a card of the same five numbers as members
    f'[ensemble]\nof = "outputs"\n[score]\noutputs = {json.dumps(list(attributes.HELPSTEER))}\n'
)
TOLERANCE = 0.5  # within which the first part of the composite "ordered" is alike
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
        hold_while_loading_s=0,
        unauthorized_per_minute=math.inf,
    ) as server:
        yield server


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    """Families that answer more than one number an item, by the names they are served under."""
    layouts = {
        layout.name: layout
        for module in (process, attributes, pairwise, contrast)
        for layout in module.LAYOUTS
    }
    root = tmp_path_factory.mktemp("families")
    served = {
        "math": "qwen2.5-math-prm",
        "skywork": "skywork-o1-prm",
        "helpsteer": "helpsteer",
        "armorm": "armorm",
        "odin": "odin",
        "pairrm": "pairrm",
        "general": "general-preference",
        "dpo": "dpo",
        "policy": "policy",
    }
    made = {
        name: checkpoints.build_family(root / name, layouts[own]) for name, own in served.items()
    }
    limits = f"[limits]\nmax_tokens = {STEPS_LIMIT}"
    made["urm"] = checkpoints.build_family(root / "urm", layouts["urm"])
    made["panel"] = checkpoints.build_family(root / "panel", layouts["helpsteer"])
    (made["panel"].folder / "card.toml").write_text(PANEL)
    made["whole"] = checkpoints.build_family(root / "whole", layouts["trl-prm"], split=limits)
    return made


@pytest.fixture(scope="session")
def bar(catalogue: dict[str, Family]) -> float:
    """What the composite "guarded" wants of ODIN's quality: half of the items have it."""
    expected = catalogue["odin"].expected(attributes.ITEMS)
    return median(one.attributes["quality"] for one in expected) - 1e-3


@pytest.fixture(scope="session")
def families(
    tmp_path_factory: pytest.TempPathFactory,
    catalogue: dict[str, Family],
    bar: float,
    tiny: Path,
) -> Iterator[Server]:
    """A server of those families, of an ensemble and of composites."""
    wordy = {"target": "helpsteer", "attribute": "verbosity", "weight": -0.25}
    quality = {"target": "odin", "attribute": "quality", "weight": 0.0}
    composites = {
        "mix": {
            "parts": {
                "helpful": {"target": "helpsteer", "attribute": "helpfulness", "weight": 0.5},
                "wordy": wordy,
                "plain": {"target": "tiny", "normalize": True, "weight": 2.0},
                "crew": {"target": "crew"},
            }
        },
        "guarded": {
            "parts": {"plain": {"target": "tiny"}, "quality": quality},
            "gate": {"part": "quality", "at_least": bar, "otherwise": OTHERWISE},
        },
        "worst": {
            "rule": "min",
            "parts": {
                "plain": {"target": "tiny", "normalize": True},
                "quality": quality | {"weight": 2.0},
                "unweighed": {"target": "crew", "weight": 0.0},
            },
        },
        "ordered": {
            "rule": "lexicographic",
            "parts": {
                "plain": {"target": "tiny", "tolerance": TOLERANCE},
                "long": {"target": "odin", "attribute": "length", "weight": 2.0},
            },
        },
        "sound": {"parts": {"steps": {"target": "math"}, "plain": {"target": "tiny"}}},
    }
    with serving(
        tmp_path_factory.mktemp("server") / "run",
        tiny,
        *(family.folder for family in catalogue.values()),
        ensembles=json.dumps({"crew": ["tiny", "odin"], "careful": CAREFUL}),
        composites=json.dumps(composites),
        batch_tokens=1024,
    ) as server:
        yield server
