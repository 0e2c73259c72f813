import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"

# What the bare install lacks: everything of the `serve` extra that isn't the client's.
SERVE_ONLY = [
    "fastapi",
    "huggingface_hub",
    "numpy",
    "prometheus_client",
    "pydantic_settings",
    "rich",
    "safetensors",
    "starlette",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
    "uvicorn",
]

BLOCKED = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def python(program):
    """Run a program in a fresh interpreter in the checkout."""
    return subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )


def loaded_by(statement):
    """Return which of the heavy packages a statement loads."""
    finished = python(
        f"import json, sys\n{statement}\n"
        f"print(json.dumps([name for name in {SERVE_ONLY!r} if name in sys.modules]))"
    )
    assert finished.stderr == ""
    return json.loads(finished.stdout)


def test_imports_run_one_way():
    """Every import rule of pyproject.toml is kept."""
    rules = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    count = len(rules["tool"]["importlinter"]["contracts"])
    finished = python(f"import sys; sys.argv = ['lint-imports', '--no-cache']\n{LINT_IMPORTS}")
    assert f"Contracts: {count} kept, 0 broken." in finished.stdout, finished.stdout
    assert finished.returncode == 0


def test_importing_assay_is_cheap():
    """`import assay` loads none of the server's packages."""
    assert loaded_by("import assay") == []


@pytest.mark.parametrize("module", ["assay.cli", "assay.api.app"])
def test_the_front_process_loads_no_torch(module):
    """Neither the command line nor the API brings the device's packages with it."""
    assert {"torch", "transformers"} & set(loaded_by(f"import {module}")) == set()


def test_the_bare_install_is_the_client():
    """The client, its requests and its errors need httpx and pydantic only."""
    finished = python(f"{BLOCKED.format(names=SERVE_ONLY)}\nimport assay.client.client")
    assert (finished.returncode, finished.stderr) == (0, "")


def test_the_bare_install_says_what_the_command_line_needs():
    """`assay` without the extra names what is missing and how to get it."""
    finished = python(f"{BLOCKED.format(names=['typer'])}\nfrom assay.__main__ import main\nmain()")
    assert finished.returncode == 1
    assert finished.stderr == (
        "assay: the command line needs 'typer'; install it with pip install 'assay-rm[serve]'\n"
    )
