import json
import subprocess
import sys
from typing import get_type_hints

import pytest

import assay
from assay import wire
from assay.client import route, types

HEAVY = ["fastapi", "httpx", "numpy", "pydantic", "starlette", "torch", "transformers"]
IMPORT_S = 0.15


def fresh(program):
    """Run a program in a fresh interpreter; return what it prints as JSON."""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    return json.loads(ended.stdout)


def test_importing_assay_loads_nothing():
    """Under 150 ms, and the client's own packages wait until it is asked for."""
    program = (
        "import json, sys, time\nbegin = time.perf_counter()\nimport assay\n"
        "seconds = time.perf_counter() - begin\n"
        f"print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    seconds, loaded = min(fresh(program) for _ in range(3))
    assert loaded == []
    assert seconds < IMPORT_S


def test_importing_the_client_loads_no_server():
    """httpx and pydantic, not torch, fastapi or transformers."""
    program = (
        "import json, sys\nfrom assay import AsyncClient, Client\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    assert fresh(program) == ["httpx", "pydantic"]


def test_a_name_that_assay_lacks_is_said():
    """As of any module."""
    with pytest.raises(AttributeError, match="Clinet"):
        _ = assay.Clinet


@pytest.mark.parametrize(
    ("options", "one"),
    [
        (types.ScoreOptions, route.SCORE),
        (types.CompareOptions, route.COMPARE),
        (types.BestOfNOptions, route.BEST_OF_N),
    ],
)
def test_the_typed_options_are_the_wires(options, one):
    """A field that the wire gains is a keyword too."""
    short = {"inputs", "prompt", "response", "steps", "comparisons", "responses", "chosen"}
    short |= {"rejected", "groups", "chains"}
    known = wire.Options.model_fields.keys() | one.request.model_fields.keys()
    assert get_type_hints(options).keys() == known - short
