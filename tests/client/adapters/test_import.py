"""Importing adapters imports no framework, and needs none."""

import json
import pkgutil
import subprocess
import sys

import pytest

from assay.client import adapters

MODULES = [one.name for one in pkgutil.iter_modules(adapters.__path__)]
FRAMEWORKS = [
    "areal",
    "its_hub",
    "numpy",
    "open_instruct",
    "openrlhf",
    "ray",
    "reward_hub",
    "sal",
    "slime",
    "swift",
    "torch",
    "transformers",
    "trl",
    "verifiers",
    "verl",
]
PROGRAM = """
import importlib, json, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {frameworks!r}:
            raise AssertionError(f"{{name}} was imported")

sys.meta_path.insert(0, Watch())
for name in {names!r}:
    importlib.import_module(f"assay.client.adapters.{{name}}")
print(json.dumps([name for name in {frameworks!r} if name in sys.modules]))
"""


@pytest.mark.parametrize("names", [[one] for one in MODULES] + [MODULES], ids=str)
def test_importing_adapters_imports_no_framework(names):
    """Each alone, and all together."""
    program = PROGRAM.format(frameworks=FRAMEWORKS, names=names)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert json.loads(ended.stdout) == []


def test_every_adapter_of_the_list_is_there():
    """One module a framework."""
    assert set(MODULES) == {
        *("connection", "environment", "function", "items", "reward"),
        *("areal", "its_hub", "open_instruct", "openrlhf", "reward_hub", "search_and_learn"),
        *("slime", "swift", "trl", "verifiers", "verl"),
    }
