"""What the container files name must exist; nothing here needs a container engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAML_FILES = sorted(
    [ROOT / "docker-compose.yml", ROOT / ".pre-commit-config.yaml", *DEPLOY.rglob("*.yml")]
)


def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_every_yaml_file_parses(path):
    """A configuration file is a mapping."""
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_grafana_finds_the_dashboards_where_compose_mounts_them():
    """The provider's folder is a mount of the compose file."""
    file = DEPLOY / "grafana/provisioning/dashboards/assay.yml"
    (provider,) = yaml.safe_load(file.read_text())["providers"]
    targets = [volume.split(":")[1] for volume in compose()["services"]["grafana"]["volumes"]]

    assert provider["options"]["path"] in targets


def test_grafana_opens_on_a_dashboard_that_is_there():
    """The one of the service."""
    home = compose()["services"]["grafana"]["environment"][
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ]

    assert (DEPLOY / "grafana/dashboards" / Path(home).name).exists()


def test_compose_mounts_only_what_exists():
    """A bind mount has a source in the repository, any other volume is declared."""
    services = compose()["services"].values()
    sources = {volume.split(":")[0] for one in services for volume in one.get("volumes", [])}
    bound = {source for source in sources if source.startswith(".")}

    assert {source for source in bound if not (ROOT / source).exists()} == set()
    assert sources - bound == set(compose()["volumes"])


def test_compose_binds_to_loopback_and_pins_foreign_images():
    """No port is open to the network, and no image moves under its tag."""
    services = compose()["services"]
    ports = [port for one in services.values() for port in one["ports"]]
    foreign = [one["image"] for one in services.values() if "build" not in one]

    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in foreign)


def test_no_containers_log_fills_the_disk():
    """Each is rotated."""
    options = [one["logging"]["options"] for one in compose()["services"].values()]

    assert all({"max-size", "max-file"} <= one.keys() for one in options)


def test_prometheus_scrapes_the_compose_service():
    """The scrape target is the service's name and the port the image exposes."""
    (job,) = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    (targets,) = [one["targets"] for one in job["static_configs"]]
    exposed = re.search(r"^EXPOSE (\d+)$", dockerfile(), re.MULTILINE)

    assert targets == [f"assay:{exposed[1]}"]
    assert "assay" in compose()["services"]


def test_the_image_runs_as_an_unprivileged_user():
    """The last USER is a number, so that a cluster can tell that it isn't root."""
    users = re.findall(r"^USER (\S+)$", dockerfile(), re.MULTILINE)

    assert users
    assert int(users[-1].split(":")[0]) > 0


def test_the_container_writes_only_where_it_must():
    """Its own files can't be changed: two caches, which its user owns, and what is temporary."""
    service = compose()["services"]["assay"]
    mounts = [volume.split(":") for volume in service["volumes"]]
    writable = {mount[1] for mount in mounts if "ro" not in mount[2:]}
    made = re.search(r"--owner=assay .*\\\n(.*)$", dockerfile(), re.MULTILINE)

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert writable == {"/home/assay/.cache/assay", "/home/assay/.cache/huggingface"}
    assert writable < set(made[1].split())
    assert [one.split(":")[0] for one in service["tmpfs"]] == ["/tmp"]


def test_the_image_can_compile():
    """Blocks need a C++ compiler and the headers of the interpreter that runs the server."""
    final = dockerfile().split("\nFROM ")[-1]
    packages = re.search(r"--no-install-recommends (.*) \\$", final, re.MULTILINE)[1].split()

    assert {"g++", "python3", "python3-dev"} <= set(packages)


def test_the_image_is_healthy_when_it_can_score():
    """The health check asks for readiness, on whichever port is set."""
    check = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", dockerfile(), re.MULTILINE)
    command = json.loads(check[1])

    assert command[:2] == ["python", "-c"]
    assert "/health/ready" in command[2]
    assert "ASSAY_PORT" in command[2]
    compile(command[2], "HEALTHCHECK", "exec")


def test_the_image_copies_what_exists_and_holds_the_starter():
    """Every source of a COPY is in the repository and let through by .dockerignore."""
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile(), re.MULTILINE)
    sources = {source for copy in copies for source in copy.split()}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line.removeprefix("!") for line in ignored if line.startswith("!")}

    assert "models/starter" in sources
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert sources == let_through


def test_hooks_run_the_commands_of_make():
    """A hook before a commit runs a command of `make check` or `make fmt`, and nothing else."""
    makefile = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    commands = {line.strip() for line in makefile.splitlines()}

    assert {hook["entry"] for hook in local["hooks"]} - commands == set()
