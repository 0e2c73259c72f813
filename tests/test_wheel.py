"""The wheel as a trainer's environment gets it: built, and installed bare into a new one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
ABSENT = ["fastapi", "numpy", "torch", "transformers"]
PROGRAM = f"""
import importlib, importlib.util, json, pkgutil
import assay
from assay import AsyncClient, Client
from assay.client import adapters
modules = [one.name for one in pkgutil.iter_modules(adapters.__path__)]
for one in modules:
    importlib.import_module("assay.client.adapters." + one)
present = [name for name in {ABSENT!r} if importlib.util.find_spec(name)]
print(json.dumps([modules, present, assay.__file__]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, by its own build system."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [*PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


def test_type_checkers_find_the_types(wheel: Path) -> None:
    """`py.typed` is in it, beside the client and the card of the default model."""
    names = zipfile.ZipFile(wheel).namelist()
    wanted = ["assay/py.typed", "assay/client/coalescing.py", "assay/models/starter/card.toml"]
    assert [name for name in wanted if name not in names] == []


def test_a_bare_install_has_the_client_and_every_adapter(wheel: Path, tmp_path: Path) -> None:
    """In an environment without torch, numpy, transformers or fastapi."""
    venv.create(tmp_path / "bare", symlinks=True)
    python = tmp_path / "bare" / "bin" / "python"
    install = [*PIP, "--python", python, "install", wheel]
    subprocess.run(install, check=True, capture_output=True)
    ended = subprocess.run(
        [python, "-I", "-c", PROGRAM], cwd=tmp_path, capture_output=True, check=True
    )
    modules, present, home = json.loads(ended.stdout)
    assert set(modules) == {one.stem for one in _adapters()}
    assert present == []
    assert Path(home).is_relative_to(tmp_path)


def _adapters() -> list[Path]:
    found = (ROOT / "service/assay/client/adapters").glob("*.py")
    return [one for one in found if one.stem != "__init__"]


def test_serving_brings_what_puts_weights_straight_on_a_gpu() -> None:
    """Without `accelerate` the host holds a whole model first, and wrong shapes are found late."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert "accelerate" in {re.split(r"[<>=;\[ ]", one)[0] for one in extras["serve"]}
