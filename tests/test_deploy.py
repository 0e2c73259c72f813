"""What the container files name must exist; nothing here needs a container engine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assay.api import keys
from assay.settings import Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
YAML_FILES = sorted(
    [ROOT / "docker-compose.yml", ROOT / ".pre-commit-config.yaml", *DEPLOY.rglob("*.yml")]
)


def compose():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def overlay(name):
    """Return a compose file that is given beside the first."""
    return yaml.safe_load((DEPLOY / name).read_text())


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


def stages():
    """Return what the build stage and the image are made by."""
    _, build, image = dockerfile().split("\nFROM ")
    return build, image


def installed(stage):
    """Return the Debian packages of a stage."""
    return re.search(r"--no-install-recommends (.*) \\$", stage, re.MULTILINE)[1].split()


def locked(name):
    """Return a list's packages: their versions and the hashes of their files."""
    text = (DEPLOY / name).read_text().replace(" \\\n", " ")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    pins = [(line[0].partition("=="), line[1:]) for line in lines]
    return {canonicalize_name(name): (version, hashes) for (name, _, version), hashes in pins}


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
    assert all(re.search(r":v?\d+\.\d+\.\d+\${[A-Z]+_DIGEST:-}$", image) for image in foreign)


def test_compose_bounds_memory_and_processes():
    """Of each container: one that leaks or forks takes no other down."""
    for service in compose()["services"].values():
        assert service["pids_limit"] > 0
        assert re.fullmatch(r"(\${ASSAY_MEMORY:-)?\d+g}?", service["mem_limit"])


def test_compose_builds_on_the_image_that_the_dockerfile_names():
    """With a digest where there is one."""
    named = compose()["services"]["assay"]["build"]["args"]["CUDA_IMAGE"]

    assert f"ARG CUDA_IMAGE={named.removesuffix('${CUDA_DIGEST:-}')}\n" in dockerfile()
    assert named.endswith("${CUDA_DIGEST:-}")


def pinned(tmp_path, digest):
    """Run `deploy/digests` on a copy of the compose file, with a docker that says this digest."""
    (tmp_path / "deploy").mkdir(exist_ok=True)
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name in ("docker-compose.yml", "deploy/digests"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    docker = tmp_path / "bin/docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho {digest}\n')
    docker.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", tmp_path / "deploy/digests"],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_digests_are_asked_for_and_kept_for_compose(tmp_path):
    """Of every image that isn't ours; what else stands in .env stays."""
    digest = f"sha256:{'0' * 64}"
    (tmp_path / ".env").write_text("ASSAY_MODELS=starter\nGRAFANA_DIGEST=@sha256:old\n")

    done = pinned(tmp_path, digest)

    assert done.returncode == 0, done.stderr
    names = set(re.findall(r"\${(\w+_DIGEST):-}", (ROOT / "docker-compose.yml").read_text()))
    lines = (tmp_path / ".env").read_text().splitlines()
    asked = (tmp_path / "asked").read_text()
    assert set(lines) == {"ASSAY_MODELS=starter", *(f"{name}=@{digest}" for name in names)}
    assert len(lines) == 4
    assert "inspect --format {{.Manifest.Digest}} prom/prometheus:v" in asked
    assert "nvidia/cuda:" in asked


def test_what_is_no_digest_is_not_kept(tmp_path):
    """The file stays as it was."""
    (tmp_path / ".env").write_text("GRAFANA_DIGEST=@sha256:old\n")

    done = pinned(tmp_path, "unauthorized")

    assert done.returncode == 1
    assert "no digest, but 'unauthorized'" in done.stderr
    assert (tmp_path / ".env").read_text() == "GRAFANA_DIGEST=@sha256:old\n"
    assert {one.name for one in tmp_path.glob(".env*")} == {".env"}


def test_with_keys_prometheus_reads_metrics_and_callers_score(tmp_path):
    """The commands of deploy/README.md make both files, and the overlay mounts them."""
    services = overlay("keys.yml")["services"]
    mounts = dict(volume.split(":")[:2] for one in services.values() for volume in one["volumes"])
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus-with-key.yml").read_text())
    (job,) = config["scrape_configs"]
    file = Path(services["assay"]["environment"]["ASSAY_KEY_FILE"])
    (tmp_path / "keys/assay").mkdir(parents=True)
    (tmp_path / "keys/prometheus").mkdir()
    readme = (DEPLOY / "README.md").read_text()
    makes = re.findall(r"docker run --rm --entrypoint assay assay (key .* >> keys/\S+.*)", readme)
    for command in makes:
        subprocess.run(f"{sys.executable} -m assay {command}", shell=True, cwd=tmp_path, check=True)

    ring = keys.read(Settings(key_file=tmp_path / "keys/assay/keys.toml"))
    given = (tmp_path / "keys/prometheus/metrics-key").read_bytes().strip()
    assert ring.find(given).rights == {"metrics"}
    assert sorted(tuple(one.rights) for one in ring.keys) == [("metrics",), ("score",)]
    assert mounts["./keys/assay"] == str(file.parent)
    assert file.name == "keys.toml"
    credentials = Path(job.pop("authorization")["credentials_file"])
    assert mounts["./keys/prometheus"] == str(credentials.parent)
    assert credentials.name == "metrics-key"
    assert config == yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    assert mounts["./deploy/prometheus/prometheus-with-key.yml"] == "/etc/prometheus/prometheus.yml"


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
    made = re.search(r"--owner=assay .* --mode=0700 \\\n(.*)$", dockerfile(), re.MULTILINE)

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert writable == {"/home/assay/.cache/assay", "/home/assay/.cache/huggingface"}
    assert writable < set(made[1].split())
    assert [one.split(":")[0] for one in service["tmpfs"]] == ["/tmp"]


def test_the_image_has_a_kernel_and_no_compiler():
    """It is compiled in the build stage, and lies where the installation looks for it."""
    build, image = stages()

    assert "g++" in installed(build)
    assert installed(image) == ["libgomp1", "python3"]
    assert "/opt/assay/bin/python -m assay.engine.attention.library kernels" in build
    assert "cp --recursive /build/kernels /opt/assay/share/assay/" in image


def test_every_file_that_the_image_installs_has_a_known_hash():
    """No step fetches what no list names; the last one has no index to fetch from."""
    build, image = stages()
    commands = re.findall(r"bin/pip (.*?)(?: \\)?$", build, re.MULTILINE)
    fetched = [one for one in commands if one.startswith("install")]

    assert re.search(r"^ENV .*(\n .*)*PIP_REQUIRE_HASHES=1$", build, re.MULTILINE)
    assert fetched == [
        "install --requirement requirements.txt",
        "install --requirement build-requirements.txt",
    ]
    assert [one for one in commands if one not in fetched] == [
        "wheel --no-build-isolation --wheel-dir wheels ."
    ]
    assert re.findall(r"bin/pip .*", image) == [
        "bin/pip install --no-deps --no-cache-dir --no-index /build/wheels/*.whl \\"
    ]


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_what_is_locked_is_what_is_pinned(name):
    """Each package has hashes of its files, names no index, and is of the version in
    constraints.txt; CUDA's libraries are those that PyTorch asks for.
    """
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(one): pin for one, _, pin in (line.partition("==") for line in lines)}
    packages = locked(name)
    unpinned = {one for one in packages if one not in pins}

    assert packages
    for one, (version, hashes) in packages.items():
        assert version == pins.get(one, version), one
        assert hashes, one
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), one
    assert all(re.match(r"nvidia-|cuda-|triton$", one) for one in unpinned)


def test_everything_that_the_image_needs_is_locked():
    """What is asked for, and what that asks for, on the image's Python: after a change of
    pyproject.toml it is time for `make requirements`.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *extras["serve"], *extras["tracing"]]

    assert needed(asked) - locked("requirements.txt").keys() == set()
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} <= locked("requirements.txt").keys()
    (builds,) = [Requirement(one) for one in project["build-system"]["requires"]]
    assert builds.name in locked("build-requirements.txt")


def needed(asked):
    """Return the names of what is needed, as far as what is installed here says."""
    image = {"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""}
    found, left = set(), [Requirement(one) for one in asked]
    while left:
        one = left.pop()
        name = canonicalize_name(one.name)
        extras = {"", *one.extras}
        if one.marker is not None and not one.marker.evaluate(image):
            continue
        for text in importlib.metadata.requires(name) or () if name not in found else ():
            inner = Requirement(text)
            if inner.marker is None or any(
                inner.marker.evaluate(image | {"extra": extra}) for extra in extras
            ):
                inner.marker = None
                left.append(inner)
        found.add(name)
    return found


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
