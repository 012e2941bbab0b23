"""Metrics of a running pipeline, and the queries of dashboard and rules on a real Prometheus."""

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest

from tests.harness.pipeline import Pipeline, wait_until
from tests.harness.scraping import CONFIG, Prometheus, families, get, running_prometheus, samples
from tools.local_kafka import free_port
from utils.files import ROOT
from utils.settings import settings

DASHBOARD = ROOT / "monitoring" / "grafana" / "dashboard.json"
SCRIPTS = {
    "predictor": ("predictor.py",),
    "trainer": ("trainer.py", "--max-evals", "1"),
    "sample_app": ("sample_app.py", "--messages", "100000", "--interval", "0.05")
    + ("--outcome-delay", "0.2"),
    "monitor": ("monitor.py",),
}
OURS = re.compile(r"\b(?:pipeline|kafka)_\w+")
COMPARISON = re.compile(r" (==|!=|<=|>=|<|>) ")

HAS_PROMETHEUS = shutil.which("prometheus") and shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(
    not HAS_PROMETHEUS, reason="needs prometheus and promtool on PATH"
)

pytestmark = pytest.mark.timeout(400)


class Observed(NamedTuple):
    """A pipeline that works, the ports and the processes of its scripts, and who scrapes them."""

    pipeline: Pipeline
    ports: dict[str, int]
    running: dict[str, subprocess.Popen]
    prometheus: Prometheus | None


@pytest.fixture(scope="module")
def observed(broker, first_model, tmp_path_factory):
    """A pipeline that works, and Prometheus if it is installed."""
    folder = tmp_path_factory.mktemp("observed")
    shutil.copytree(first_model, folder, dirs_exist_ok=True)
    prefix = f"t{os.urandom(4).hex()}-"
    pipeline = Pipeline(settings.kafka_host, prefix, folder, RETRAIN_EVERY="5", MONITOR_PORT="0")
    ports = {script: free_port() for script in SCRIPTS}
    with ExitStack() as stack:
        stack.callback(pipeline.stop_all)
        prometheus = None
        if HAS_PROMETHEUS:  # first, as it finds no target before 5 s are over
            prometheus = stack.enter_context(running_prometheus(folder, targets(ports)))
        yield Observed(pipeline, ports, start(pipeline, ports), prometheus)


def targets(ports: dict[str, int]) -> dict[str, str]:
    """Return the targets of the project's configuration, and those of these ports."""
    shipped = {"predictor": 9100, "trainer": 9110, "sample_app": 9111, "monitor": 9112}
    return {f"127.0.0.1:{shipped[each]}": f"127.0.0.1:{port}" for each, port in ports.items()}


def start(pipeline: Pipeline, ports: dict[str, int]) -> dict[str, subprocess.Popen]:
    """Start the scripts, wait until they are ready, and send what they can't understand."""
    running = {}
    # The monitor last: it asks for the group's lag when it starts, and then after 10 s.
    for scripts in ({*SCRIPTS} - {"monitor"}, {"monitor"}):
        for each in scripts:
            running[each] = pipeline.start(*SCRIPTS[each], METRICS_PORT=str(ports[each]))
        for each in scripts:
            wait_until(lambda port=ports[each]: get(port, "/readyz")[0] == 200, what=each)
    pipeline.send(b'{"request_id": "no data"}')
    pipeline.send(b"no JSON")
    pipeline.send(b"no outcome", topic="outcomes_topic")
    return running


def queries() -> set[str]:
    """Return the queries of the dashboard, with its variables set."""
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    found = {each["expr"] for each in [*targets, *dashboard["annotations"]["list"]]}
    return {query.replace("$__rate_interval", "10s") for query in found}


@needs_prometheus
def test_every_query_of_dashboard_and_rules_has_series(observed):
    prometheus = observed.prometheus
    rules = prometheus.rules()
    assert len(rules) > 10
    # A comparison has no series while it is false; with bool it has 0 or 1.
    missing = {COMPARISON.sub(r" \1 bool ", each) for each in [*queries(), *rules.values()]}

    def all_have_series() -> bool:
        missing.difference_update([q for q in missing if prometheus.series(q)])
        return not missing

    with suppress(AssertionError):
        wait_until(all_have_series, timeout=150)  # some after a training: it has the last turn
    assert not missing
    assert [up["value"][1] for up in prometheus.series("up")] == ["1"] * 4


def test_every_metric_that_is_asked_for_exists_and_says_what_it_is(observed):
    exposed = [family for port in observed.ports.values() for family in families(port)]
    names = {sample.name for family in exposed for sample in family.samples}
    asked = {name for query in queries() for name in OURS.findall(query)}
    assert {
        name for name in asked - names if "monitor" not in name and "kafka_" not in name
    } == set()
    assert {family.name for family in exposed if not family.documentation} == set()


def test_scripts_that_work_are_alive_and_ready(observed):
    for port in observed.ports.values():
        assert get(port, "/healthz") == (200, "ok\n")
        assert get(port, "/readyz") == (200, "ok\n")


def test_the_numbers_are_those_of_the_topics(observed):
    """The last one: it ends the sample app."""
    pipeline, ports = observed.pipeline, observed.ports
    before = samples(ports["sample_app"])
    observed.running["sample_app"].send_signal(signal.SIGTERM)
    observed.running["sample_app"].wait(timeout=30)

    def of_topics() -> dict[str, float]:
        predictions = sum("prediction" in reply for reply in pipeline.replies())
        control = pipeline.messages("retrain_topic")
        retrain = sum("retrain" in message for message in control)
        return {
            "pipeline_predictor_requests_total": predictions + 2,
            "pipeline_predictor_predictions_total": predictions,
            "pipeline_predictor_latency_seconds_count": predictions,
            "pipeline_predictor_batch_requests_sum": predictions,
            "pipeline_predictor_error_replies_total": 1,
            "pipeline_predictor_dead_letters_total": 2,
            "pipeline_predictor_retrain_requests_total": retrain,
            "pipeline_predictor_transactions_failed_total": 0,
            "pipeline_trainer_dead_letters_total": 1,
            "pipeline_trainer_requests_total": predictions,
            "pipeline_trainer_retrain_requests": retrain,
            "pipeline_trainer_trainings_promoted_total": len(control) - retrain,
            "pipeline_trainer_trainings_rejected_total": 0,
            "pipeline_trainer_trainings_failed_total": 0,
        }

    def shown() -> dict[str, float]:
        return samples(ports["predictor"]) | samples(ports["trainer"])

    wait_until(lambda: of_topics().items() <= shown().items(), what="equal numbers")
    found = shown()
    assert found["pipeline_trainer_trainings_promoted_total"] >= 1
    assert found["pipeline_predictor_model_id"] == found["pipeline_predictor_reloads_total"] >= 1
    assert 0 < found["pipeline_trainer_training_cpu_seconds_total"] < 100
    waiting = found["pipeline_trainer_waiting_requests"] + found["pipeline_trainer_observations"]
    assert waiting == found["pipeline_trainer_requests_total"]
    assert before["pipeline_sample_app_requests_answered_total"] > 0
    assert before["pipeline_sample_app_outcomes_reported_total"] > 0


@needs_prometheus
def test_promtool_accepts_configuration_and_rules(tmp_path):
    subprocess.run(["promtool", "check", "config", CONFIG], check=True, capture_output=True)
    tests = ROOT / "tests" / "prometheus_rules.yml"
    ended = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
