"""The manifests are valid, agree with each other, and with the image and the server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import promql_parser as promql
import pytest
import yaml

from assay import __version__
from assay.api import keys
from assay.errors import SettingsError
from assay.settings import Settings, load
from assay.telemetry import reference
from assay.telemetry.metrics import Metrics
from tests.deploy import queries

FOLDER = queries.DEPLOY / "kubernetes"
ROOT = queries.DEPLOY.parent
APART = {"kustomization.yml", "adapter-values.yml"}  # no objects of the cluster
OBJECTS = sorted({path.name for path in FOLDER.glob("*.yml")} - APART)
KINDS = {
    *("Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "PodMonitor"),
    "NetworkPolicy",
}
VERSIONS = ("1.30", "1.37")  # the oldest that is supported at this writing, and the newest known


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def deployment():
    return read("deployment.yml")["spec"]


@pytest.fixture(scope="module")
def pod(deployment):
    return deployment["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (one,) = pod["containers"]
    return one


def dockerfile():
    return (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", [one for one in OBJECTS if one != "pod-monitor.yml"])
def test_an_object_is_of_its_schema(name, version):
    """Kubernetes' own, and no field beside it."""
    kubernetes_validate.validate(read(name), version, strict=True)


def test_there_is_one_of_each_kind_and_kustomize_takes_all():
    """Everything is applied with one command."""
    assert sorted(read("kustomization.yml")["resources"]) == OBJECTS
    assert {read(name)["kind"] for name in OBJECTS} == KINDS


def test_the_image_is_of_this_version():
    """The name that the deployment has is replaced by one with a tag."""
    (image,) = read("kustomization.yml")["images"]

    assert image["name"] == "assay"
    assert image["newTag"] == __version__


def test_everything_selects_the_pods(deployment):
    """The labels that objects select are the pod's."""
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        read("service.yml")["spec"]["selector"],
        read("disruption-budget.yml")["spec"]["selector"]["matchLabels"],
        read("pod-monitor.yml")["spec"]["selector"]["matchLabels"],
        read("network-policy.yml")["spec"]["podSelector"]["matchLabels"],
        *(
            one["labelSelector"]["matchLabels"]
            for one in deployment["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]

    assert all(selector and selector.items() <= labels for selector in selectors)


def test_ports_are_named_as_the_container_names_them(container):
    """Probes, service and monitor ask the port that the image exposes."""
    (port,) = container["ports"]
    exposed = re.search(r"^EXPOSE (\d+)$", dockerfile(), re.MULTILINE)
    (service,) = read("service.yml")["spec"]["ports"]
    (endpoint,) = read("pod-monitor.yml")["spec"]["podMetricsEndpoints"]
    probes = [container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]

    assert port["containerPort"] == int(exposed[1])
    assert {service["targetPort"], endpoint["port"], *(one["port"] for one in probes)} == {
        port["name"]
    }


def test_probes_ask_what_each_is_for(container):
    """A worker that restarts takes the pod out of the service, and isn't a reason to kill it."""
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"]
        for kind in ("startup", "readiness", "liveness")
    }

    assert paths == {
        "startup": "/health/ready",
        "readiness": "/health/ready",
        "liveness": "/health/live",
    }


def test_a_pod_may_drain_before_it_is_killed(pod, container):
    """The grace period holds the wait before SIGTERM, the drain, and what spans may take."""
    (_, wait_s) = container["lifecycle"]["preStop"]["exec"]["command"]
    (drain_s,) = [
        one["value"] for one in container["env"] if one["name"] == "ASSAY_DRAIN_TIMEOUT_S"
    ]

    assert pod["terminationGracePeriodSeconds"] >= int(wait_s) + float(drain_s) + 10


def test_the_environment_is_of_settings(container):
    """Each ASSAY_ variable is a setting with a value that it takes."""
    values = {
        one["name"].removeprefix("ASSAY_").lower(): one["value"]
        for one in container["env"]
        if one["name"].startswith("ASSAY_")
    }

    assert Settings(**values).host == "0.0.0.0"


def links_of(service):
    """Return the variables that Kubernetes sets in each pod of a service's namespace."""
    name = service["metadata"]["name"].upper().replace("-", "_")
    host = "10.0.0.11"
    variables = {f"{name}_SERVICE_HOST": host}
    for place, one in enumerate(service["spec"]["ports"]):
        port = str(one["port"])
        address = f"tcp://{host}:{port}"
        if place == 0:
            variables |= {f"{name}_SERVICE_PORT": port, f"{name}_PORT": address}
        variables |= {
            f"{name}_SERVICE_PORT_{one['name'].upper()}": port,
            f"{name}_PORT_{port}_TCP": address,
            f"{name}_PORT_{port}_TCP_PROTO": "tcp",
            f"{name}_PORT_{port}_TCP_PORT": port,
            f"{name}_PORT_{port}_TCP_ADDR": host,
        }
    return variables


@pytest.mark.parametrize("variable", links_of(read("service.yml")).items(), ids=lambda one: one[0])
def test_a_services_variable_is_no_setting(variable, monkeypatch):
    """A server that gets one doesn't start."""
    monkeypatch.setenv(*variable)

    with pytest.raises(SettingsError):
        load()


def test_the_pods_environment_can_be_loaded(pod, container, monkeypatch):
    """What the manifest sets, and what Kubernetes sets beside it unless it is told not to."""
    links = links_of(read("service.yml")) if pod.get("enableServiceLinks", True) else {}
    given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    for name, value in (links | given).items():
        monkeypatch.setenv(name, value)

    settings, _ = load()

    assert (settings.host, settings.port) == ("0.0.0.0", 8000)


def test_keys_have_rights_and_the_pod_only_knows_their_hashes(pod, container):
    """The pod is open to the cluster, so it has a key file, of a secret; Prometheus' own key is in
    another one, which the pod doesn't have.
    """
    variables = {one["name"]: one for one in container["env"]}
    file = Path(variables["ASSAY_KEY_FILE"]["value"])
    mounts = {one["mountPath"]: one for one in container["volumeMounts"]}
    mount = mounts[str(file.parent)]
    secrets = {one["name"]: one["secret"] for one in pod["volumes"] if "secret" in one}
    (endpoint,) = read("pod-monitor.yml")["spec"]["podMetricsEndpoints"]

    assert not {"ASSAY_API_KEY", "ASSAY_ADMIN_KEY"} & variables.keys()
    assert mount["readOnly"] is True
    assert "subPath" not in mount
    assert secrets == {mount["name"]: {"secretName": "assay-keys", "defaultMode": 0o440}}
    assert endpoint["authorization"]["credentials"]["name"] == "assay-metrics"
    assert "assay-metrics" not in json.dumps(pod)


def test_the_commands_of_the_documentation_make_the_keys(tmp_path):
    """Callers may score and not read metrics, Prometheus the other way round."""
    readme = (queries.DEPLOY / "README.md").read_text()
    makes = re.findall(r"^assay (key .*?)(?: +#.*)?$", readme, re.MULTILINE)
    for command in makes:
        subprocess.run(f"{sys.executable} -m assay {command}", shell=True, cwd=tmp_path, check=True)

    ring = keys.read(Settings(key_file=tmp_path / "keys.toml"))

    assert {one.name: one.rights for one in ring.keys} == {
        "trainer": {"score"},
        "prometheus": {"metrics"},
    }
    assert ring.find((tmp_path / "metrics-key").read_bytes().strip()).name == "prometheus"
    for secret in ("assay-keys --from-file=keys.toml", "assay-metrics --from-literal=key="):
        assert f"kubectl create secret generic {secret}" in readme


def test_only_callers_and_prometheus_get_in(container):
    """At the port that the container has; out, only to names and to the hub."""
    spec = read("network-policy.yml")["spec"]
    (inward,) = spec["ingress"]
    out = [
        (port["port"], "ipBlock" in to)
        for one in spec["egress"]
        for port in one["ports"]
        for to in one["to"]
    ]
    monitor = read("pod-monitor.yml")["spec"]["podMetricsEndpoints"][0]

    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert (
        inward["ports"] == [{"port": container["ports"][0]["name"]}] == [{"port": monitor["port"]}]
    )
    assert all(one["podSelector"]["matchLabels"] for one in inward["from"])
    assert set(out) == {(53, False), (443, True)}


def test_what_drains_a_node_leaves_a_pod(deployment, pod):
    """Two at least, on nodes of their own, of which one stays."""
    budget = read("disruption-budget.yml")["spec"]
    spread = {one["topologyKey"]: one for one in pod["topologySpreadConstraints"]}

    assert read("autoscaler.yml")["spec"]["minReplicas"] == 2
    assert budget["minAvailable"] == 1
    assert "maxUnavailable" not in budget
    assert spread["kubernetes.io/hostname"]["whenUnsatisfiable"] == "DoNotSchedule"
    assert all(one["maxSkew"] == 1 for one in spread.values())
    assert all(one["matchLabelKeys"] == ["pod-template-hash"] for one in spread.values())
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_pod_has_no_rights_that_it_doesnt_need(pod, container):
    """The image's own user, who isn't root; no way to write beside the volumes; no token."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", dockerfile(), re.MULTILINE)
    security = pod["securityContext"]

    assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False


def test_what_the_server_writes_lies_on_volumes(pod, container):
    """The user's home, with the caches, and the place for temporary files."""
    home = re.search(r"^WORKDIR (\S+)$", dockerfile().split("\nFROM ")[-1], re.MULTILINE)[1]
    mounts = {
        one["mountPath"]: one["name"]
        for one in container["volumeMounts"]
        if not one.get("readOnly")
    }
    volumes = {one["name"]: one for one in pod["volumes"]}

    assert mounts.keys() == {home, "/tmp"}
    assert all("emptyDir" in volumes[name] for name in mounts.values())
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_a_pod_has_a_gpu(pod, container):
    """And is let onto nodes that are kept for those who want one."""
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" in [one["key"] for one in pod["tolerations"]]


def test_the_autoscaler_goes_by_tokens_that_wait(deployment):
    """The metric is the one that the adapter makes of the server's; the deployment has no count."""
    spec = read("autoscaler.yml")["spec"]
    (metric,) = spec["metrics"]
    (rule,) = read("adapter-values.yml")["rules"]["custom"]
    known = {name for row in reference.rows(Metrics()) for name in row.series}
    target = read("deployment.yml")

    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert promql.parse(rule["seriesQuery"]).name in known
    assert re.fullmatch(rule["name"]["matches"], "assay_queue_tokens")
    assert "replicas" not in deployment
    assert spec["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"],
        "kind": target["kind"],
        "name": target["metadata"]["name"],
    }


def test_the_adapters_query_is_one_once_it_is_filled_in():
    """It groups by the labels that say whose it is."""
    (rule,) = read("adapter-values.yml")["rules"]["custom"]
    filled = (
        rule["metricsQuery"]
        .replace("<<.Series>>", "assay_queue_tokens")
        .replace("<<.LabelMatchers>>", 'namespace="default",pod="assay-0"')
        .replace("<<.GroupBy>>", "pod")
    )

    assert promql.parse(filled).modifier.labels == ["pod"]
    assert rule["resources"]["overrides"].keys() == {"namespace", "pod"}


def test_the_monitors_job_is_the_one_that_alerts_are_for(deployment):
    """The label that names the job says what rules.yml asks for."""
    monitor = read("pod-monitor.yml")
    labels = deployment["template"]["metadata"]["labels"]
    jobs = set(re.findall(r'job="(\w+)"', queries.RULES.read_text()))

    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert jobs == {labels[monitor["spec"]["jobLabel"]]}
    assert monitor["spec"]["podMetricsEndpoints"][0]["path"] == "/metrics"
