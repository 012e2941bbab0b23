"""The files of deploy/: each as its own linter or schema wants it, all with the same settings."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from kubernetes_validate import validate

from utils.files import ROOT
from utils.settings import Settings

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = ("initialize", "predictor-0", "predictor-1", "trainer", "monitor")
OBJECTS = [
    each
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for each in yaml.safe_load_all(path.read_text())
]
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# Environment variables that other programs than ours read.
FOREIGN = re.compile("AWS_[A-Z_]+|PATH|HOME|PYTHONUNBUFFERED")


def loads(monkeypatch, environment: dict[str, str]) -> Settings:
    """Return the settings of a script in this environment; a name that is none is an error."""
    names = {name.upper() for name in Settings.model_fields}
    assert {name for name in environment if not FOREIGN.fullmatch(name)} <= names
    for name in names:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+(:\?[^}]*)?\}", "0123456789abcdef" * 4, value))
    return Settings()


def tool(name: str, *arguments: str | Path) -> None:
    """Run a checker of files; AssertionError if it has anything to say."""
    command = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    ended = subprocess.run([command, *arguments], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, ""), ended


def named(kind: str, name: str) -> dict:
    [found] = [o for o in OBJECTS if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def pods() -> Iterator[dict]:
    """Yield the object that makes pods, of each that does."""
    yield named("StatefulSet", "predictor")
    yield named("Deployment", "trainer")


def containers(owner: dict) -> list[dict]:
    spec = owner["spec"]["template"]["spec"]
    return spec.get("initContainers", []) + spec["containers"]


def test_the_dockerfile_has_no_findings():
    tool("hadolint", DEPLOY / "Dockerfile")


def test_the_image_has_the_settings_of_a_script(monkeypatch):
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    pairs = re.search(r"^ENV (.*)$", text, re.MULTILINE)[1].split()
    settings = loads(monkeypatch, dict(pair.split("=", 1) for pair in pairs))
    assert (settings.listen_host, settings.metrics_port) == ("0.0.0.0", 9000)  # noqa: S104


def test_the_compose_file_follows_its_schema():
    schema = "--builtin-schema=vendor.compose-spec"
    tool("check-jsonschema", "--quiet", schema, DEPLOY / "compose.yaml")


@pytest.mark.parametrize("name", OURS)
def test_a_script_in_compose_has_settings_that_exist(monkeypatch, name):
    environment = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    settings = loads(monkeypatch, environment)
    brokers = {f"{each}:19092" for each in SERVICES if each.startswith("kafka-")}
    assert {*settings.kafka_host.split(",")} == brokers


@pytest.mark.parametrize("name", OURS)
def test_a_script_in_compose_can_change_nothing_but_its_volumes(name):
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]


def test_compose_gives_secrets_to_those_only_who_need_them():
    having = {name for name in OURS if "POSTGRES_PASSWORD" in str(SERVICES[name]["environment"])}
    assert having == {"initialize", "trainer"}
    example = (DEPLOY / "env.example").read_text()
    needed = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert needed == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_compose_opens_ports_on_loopback_only_and_limits_memory():
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert service["mem_limit"]
        assert service["restart"] in ("always", "on-failure")


def test_predictors_have_names_of_their_own():
    ids = [SERVICES[name]["environment"]["PREDICTOR_ID"] for name in OURS if "predictor" in name]
    assert ids == ["predictor-0", "predictor-1"]


def test_three_brokers_differ_by_what_must_differ():
    brokers = [service["environment"] for name, service in SERVICES.items() if "kafka-" in name]
    own = {"KAFKA_NODE_ID", "KAFKA_ADVERTISED_LISTENERS"}
    assert {frozenset(each.items() - {(k, each[k]) for k in own}) for each in brokers} == {
        frozenset((k, v) for k, v in brokers[0].items() if k not in own)
    }
    assert [each["KAFKA_NODE_ID"] for each in brokers] == [1, 2, 3]


def test_systemd_accepts_the_units(tmp_path):
    for unit in UNITS:  # it demands that the programs exist
        text = unit.read_text().replace("=/opt/pipeline/.venv/bin/python", f"={sys.executable}")
        (tmp_path / unit.name).write_text(text.replace("=/opt/pipeline\n", f"={ROOT}\n"))
    tool("systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir()))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_has_settings_that_exist(monkeypatch, unit):
    pairs = re.findall(r"^Environment=(.*)$", unit.read_text(), re.MULTILINE)
    environment = dict(pair.split("=", 1) for line in pairs for pair in line.split())
    loads(monkeypatch, {name: value.replace("%i", "p") for name, value in environment.items()})


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*/*.env")), ids=lambda path: path.name)
def test_an_example_of_settings_has_those_that_exist(monkeypatch, path):
    pairs = re.findall(r"^#?(\w+)=(.*)$", path.read_text(), re.MULTILINE)
    assert pairs
    loads(monkeypatch, {name: value.replace("change-me", "k" * 32) for name, value in pairs})


def test_the_scripts_and_tools_of_a_host_have_the_same_folders():
    folders = re.compile("(DATA_DIR|MODELS_DIR)=/var/lib/pipeline/")
    assert len(folders.findall((DEPLOY / "systemd" / "pipeline.env").read_text())) == 2
    for unit in UNITS:
        assert "EnvironmentFile=/etc/pipeline.env" in unit.read_text()
        assert not folders.search(unit.read_text())


def test_each_secret_of_the_pods_has_an_example():
    named_in_pods = {
        source["secretRef"]["name"]
        for owner in pods()
        for container in containers(owner)
        for source in container["envFrom"]
        if "secretRef" in source
    }
    examples = {f"pipeline-{path.stem}" for path in (DEPLOY / "kubernetes").glob("*.env")}
    assert named_in_pods == examples
    comment = (DEPLOY / "kubernetes" / "config.yaml").read_text()
    assert set(re.findall(r'"(pipeline[a-z-]*)"', comment)) == examples


def test_the_units_are_hardened_alike():
    assert len({unit.read_text().partition("# The three units have")[2] for unit in UNITS}) == 1
    tool_says = ["systemd-analyze", "security", "--offline=true", "--threshold=15", *UNITS]
    assert subprocess.run(tool_says, capture_output=True).returncode == 0  # 1.5 of 10


@pytest.mark.parametrize("each", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_kubernetes_accepts_the_manifests(each):
    if each["kind"] == "ScaledObject":
        read = ScaledObject.model_validate(each).model_dump(
            by_alias=True, exclude_unset=True, mode="json"
        )
        assert read == each  # it drops what it does not know
    else:
        validate(each, "1.37", strict=True)


def test_pods_have_settings_that_exist(monkeypatch):
    shared = named("ConfigMap", "pipeline")["data"]
    for owner in pods():
        for container in containers(owner):
            own = {
                each["name"]: each.get("value", "predictor-0") for each in container.get("env", [])
            }
            settings = loads(monkeypatch, shared | own)
            assert settings.partitions == int(shared["PARTITIONS"])


def test_selectors_select_the_pods():
    labels = {o["metadata"]["name"]: o["spec"]["template"]["metadata"]["labels"] for o in pods()}
    for owner in pods():
        assert owner["spec"]["selector"]["matchLabels"] == labels[owner["metadata"]["name"]]
    budget = named("PodDisruptionBudget", "predictor")
    assert budget["spec"]["selector"]["matchLabels"] == labels["predictor"]
    assert named("Service", "predictor")["spec"]["selector"] == labels["predictor"]
    assert named("Service", "monitor")["spec"]["selector"] == labels["trainer"]


def test_probes_ask_the_port_of_the_metrics():
    for owner in pods():
        for container in owner["spec"]["template"]["spec"]["containers"]:
            ports = {each["name"]: each["containerPort"] for each in container["ports"]}
            own = {each["name"]: each.get("value") for each in container.get("env", [])}
            probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in PATHS}
            assert {kind: probe["path"] for kind, probe in probes.items()} == PATHS
            for probe in probes.values():
                assert ports[probe["port"]] == int(own["METRICS_PORT"])


PATHS = {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}


def test_pods_may_do_little():
    for owner in pods():
        spec = owner["spec"]["template"]["spec"]
        # A Service "monitor" would set MONITOR_PORT=tcp://10.0.0.1:8501.
        assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"]
        for container in containers(owner):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_a_predictors_id_is_the_name_of_its_pod():
    [container] = containers(named("StatefulSet", "predictor"))
    own = {each["name"]: each.get("valueFrom") for each in container.get("env", [])}
    assert own["PREDICTOR_ID"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_scaler_fits_the_pipeline():
    scaler, shared = named("ScaledObject", "predictor"), named("ConfigMap", "pipeline")["data"]
    [trigger] = scaler["spec"]["triggers"]
    assert trigger["metadata"]["bootstrapServers"] == shared["KAFKA_HOST"]
    assert scaler["spec"]["minReplicaCount"] == 1
    assert scaler["spec"]["maxReplicaCount"] <= int(shared["PARTITIONS"])
    target, owner = scaler["spec"]["scaleTargetRef"], named("StatefulSet", "predictor")
    assert (target["kind"], target["name"]) == (owner["kind"], owner["metadata"]["name"])
    assert "replicas" not in owner["spec"]
