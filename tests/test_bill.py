"""The software bill of materials that `make check` writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
HERE = sysconfig.get_paths()["purelib"]  # setuptools, once imported, adds its own to the path
Bill = dict[str, Any]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def bill(tmp_path_factory: pytest.TempPathFactory) -> Bill:
    """The bill of this environment; its schema is checked by `make check`, which takes longer."""
    file = tmp_path_factory.mktemp("bill") / "bill.json"
    makefile = (ROOT / "Makefile").read_text()
    (options,) = re.findall(r"cyclonedx-py (environment .*) --output-file", makefile)
    command = [sys.executable, "-m", "cyclonedx_py", *options.split(), "--no-validate", "-o", file]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    made: Bill = json.loads(file.read_text())
    return made


@pytest.fixture(scope="module")
def needed(bill: Bill) -> dict[str, str]:
    """What Assay and its tests stand on, with versions: all that the root leads to."""
    leads = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    waiting = [bill["metadata"]["component"]["bom-ref"]]
    reached = set(waiting)
    while waiting:
        new = set(leads[waiting.pop()]) - reached
        reached |= new
        waiting += new
    return {
        canonical(one["name"]): one["version"]
        for one in bill["components"]
        if one["bom-ref"] in reached
    }


def test_the_bill_is_assays(bill: Bill) -> None:
    """In a format that scanners read."""
    assert bill["bomFormat"] == "CycloneDX"
    assert bill["metadata"]["component"]["name"] == "assay-rm"


def test_all_that_is_installed_is_on_the_bill(bill: Bill) -> None:
    """With a version, and a reference by which scanners look up what is known of it."""
    installed = {canonical(one.metadata["Name"]) for one in distributions(path=[HERE])} - {
        "assay-rm"
    }
    listed = {canonical(one["name"]): one for one in bill["components"]}

    assert set(listed) >= installed
    assert all(one["purl"].startswith("pkg:pypi/") for one in listed.values())


def test_what_serving_needs_is_among_what_assay_leads_to(needed: dict[str, str]) -> None:
    """The bill says why a package is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["serve"]]
    names = {canonical(re.split(r"[<>=;\[ ]", one)[0]) for one in wanted}

    assert names - set(needed) == set()
    assert len(needed) > len(names)


def test_every_version_is_the_pinned_one(needed: dict[str, str]) -> None:
    """CI and people install the same; a build of PyTorch for the CPU is its version, too."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonical(name): version for name, _, version in (one.partition("==") for one in lines)}
    found = {name: version.partition("+")[0] for name, version in needed.items()}
    found.pop("pip", None)  # Python brings it

    assert {name: version for name, version in found.items() if pins.get(name) != version} == {}


def test_the_audit_is_of_the_pinned_versions_and_fails_on_what_it_cannot_look_up() -> None:
    """A package that wasn't looked up isn't a safe one."""
    makefile = (ROOT / "Makefile").read_text()
    ours, image = re.findall(r"pip-audit ((?:.*\\\n)*.*)", makefile)

    assert "--strict" in ours
    assert "--requirement constraints.txt" in ours
    assert "--strict" in image
    assert "--requirement deploy/requirements.txt" in image
    assert ".ci/audit" in makefile
