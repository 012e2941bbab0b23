"""METRICS_PORT: what is shown to Prometheus, and when a script is alive, ready or stuck."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.metrics import endpoint
from monitoring.metrics.exposition import Exposition, families
from monitoring.snapshot import (
    Alert,
    Drift,
    Flow,
    Latency,
    ModelState,
    Snapshot,
    Training,
)
from tests.harness.brokers import own_pipeline
from tests.harness.pipeline import wait_until
from tests.harness.scraping import get
from tools.local_kafka import free_port
from utils.files import ROOT
from utils.process import BETWEEN_CALLS, Health, health
from utils.telemetry import Answering, Histogram, Telemetry


@pytest.fixture(scope="module")
def server():
    """The endpoint of a predictor, in this process."""
    server = endpoint.start(("127.0.0.1", 0), Exposition("predictor"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def port(server) -> int:
    return server.server_address[1]


def test_without_a_port_nothing_of_it_is_imported():
    code = """
import sys
import initialize, predictor, sample_app, trainer
from monitoring.metrics.serve import serve_metrics

serve_metrics("predictor")
ours = {"monitoring.metrics.endpoint", "monitoring.metrics.exposition"}
unwanted = ours | {"prometheus_client", "http.server"}
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
import monitor

unwanted.remove("http.server")  # the monitor serves a page of its own
assert not unwanted & set(sys.modules), unwanted & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_port_in_use_stops_a_script_that_starts_but_not_one_that_restarts_itself(restarted):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        number = str(taken.getsockname()[1])
        environment = {"METRICS_PORT": number} | ({"PIPELINE_RESTARTS": "1"} if restarted else {})
        code = "from monitoring.metrics.serve import serve_metrics; serve_metrics('trainer')"
        ended = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
        )
    assert ended.returncode == (0 if restarted else 1)
    said = ended.stdout if restarted else ended.stderr
    problem = "can't listen on LISTEN_HOST=127.0.0.1: the port is in use, each script needs its own"
    assert said.startswith(f"METRICS_PORT={number}: {problem}")
    assert ("Going on without metrics" in said) == restarted
    assert len(said.splitlines()) == 1


def test_a_loop_is_stuck_when_its_next_beat_is_overdue():
    loop = Health()
    assert loop.overdue() == 0  # it has not begun
    loop.beat(within=60)
    assert loop.overdue() == 0
    loop.beat(within=0)
    assert wait_until(loop.overdue, 5) > 0
    loop.beat(within=60)
    assert loop.overdue() == 0


def test_healthz_and_readyz_say_what_is_wrong(port, monkeypatch):
    monkeypatch.setattr(health, "ready", True)
    monkeypatch.setattr(health, "_beat", (time.monotonic() - 90, 60))
    assert get(port, "/healthz") == (503, "The main loop has been stuck for 90 seconds.\n")
    assert get(port, "/readyz") == (200, "ok\n")
    health.beat(within=60)
    monkeypatch.setattr(health, "ready", False)
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (503, "It is not ready.\n")
    assert get(port, "/")[0] == 404


def test_a_histogram_is_that_of_prometheus():
    from prometheus_client import CollectorRegistry
    from prometheus_client import Histogram as Theirs

    values, bounds = np.random.default_rng(1).exponential(0.05, 5_000), (0.01, 0.05, 0.1, 0.25)
    values[:4] = bounds
    theirs, ours = Theirs("x", "x", buckets=bounds, registry=CollectorRegistry()), Histogram(bounds)
    for part in np.split(values, 10):
        ours.add(part)
        for value in part:
            theirs.observe(value)
    expected = [s.value for m in theirs.collect() for s in m.samples if "bucket" in s.name]
    assert ours.state[0].cumsum().tolist() == expected
    assert ours.state[1] == pytest.approx(values.sum(), 1e-12)


def test_a_timestamp_that_a_sender_made_up_spoils_no_sum():
    numbers = Answering()
    numbers.add(np.array([0, 2**62, time.time() * 1000]), 0, 0)
    counts, total = numbers.latency_seconds.state
    assert counts.sum() == 3
    assert 0 <= total < 3_700


def test_every_number_has_a_text_and_a_name_of_its_own():
    exposed = [m for script, each in vars(Telemetry()).items() for m in families(script, each)]
    assert len(exposed) > 20
    assert len({metric.name for metric in exposed}) == len(exposed)
    assert all(metric.documentation.endswith(".") for metric in exposed)


@pytest.fixture
def alive() -> None:
    """Forget what the loops of other tests have promised."""
    health.beat(within=600)


@pytest.mark.slow
@pytest.mark.usefixtures("alive")
def test_slow_and_hostile_clients_are_bounded(server, port, monkeypatch):
    monkeypatch.setattr(endpoint, "CONNECTION_TIMEOUT", 1.0)
    with ExitStack() as stack:
        for _ in range(3 * endpoint.MAX_CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")  # and never more
        wait_until(lambda: len(server._since) == endpoint.MAX_CONNECTIONS, 5)
        assert get(port, "/healthz") == (0, "")
        wait_until(lambda: get(port, "/healthz")[0] == 200, 10, "the slow ones are closed")
    assert wait_until(lambda: not server._since, 5)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", b" 501 "),
        (b"GET /" + b"a" * 70_000, b" 414 "),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b" 431 "),
        (b"\x00\xff\r\n\r\n", b" 400"),
    ],
)
@pytest.mark.usefixtures("alive")
def test_what_is_no_request_for_numbers_is_refused(port, sent, answer):
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as client:
        client.sendall(sent)
        assert answer in client.recv(200)
    assert get(port, "/healthz")[0] == 200


def test_a_snapshot_with_hostile_names_stays_a_page_that_can_be_parsed():
    names = ['a"b\n\\{}', "\ud800", "x" * 500 + "1", "x" * 500 + "2", *map(str, range(1_000))]
    snapshot = Snapshot(
        time=2.0,
        started=1.0,
        champion=3,
        flow=Flow(requests=5, group_lag=7, errors={f"r: bad, got {n!r}": 1 for n in names}),
        latency=Latency(0.1, 0.2, 9),
        training=Training(completed=2),
        models=[ModelState(n, "champion", figures={"loss": 0.5}) for n in range(1_000)],
        drift=[Drift(name, float(n), 0.2, 100) for n, name in enumerate(names)],
        alerts=[Alert(name, name, 1.0) for name in names + names[:1]],
    )
    exposition = Exposition("monitor")
    exposition.show(snapshot)
    server = endpoint.start(("127.0.0.1", 0), exposition)
    status, text = get(server.server_address[1], "/metrics")
    server.shutdown()
    server.server_close()
    assert status == 200
    found = {m.name: m.samples for m in text_string_to_metric_families(text)}
    assert found["pipeline_monitor_requests"][0].value == 5
    assert found["kafka_consumergroup_lag"][0].value == 7
    [reasons] = found["pipeline_monitor_dead_letters_by_reason"]
    assert (reasons.labels, reasons.value) == ({"reason": "r: bad"}, len(names))
    drift = {each.labels["feature"]: each.value for each in found["pipeline_monitor_drift_value"]}
    assert drift["x" * 100] == 2  # not the sum of two columns whose names are cut
    assert [each.value for each in found["pipeline_monitor_alerts_active"]][:2] == [2, 1]
    assert max(map(len, found.values())) <= 100
    assert len(text) < 100_000


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_predictor_is_alive_while_kafka_is_away_and_ready_when_it_is_back(tmp_path):
    from tools import local_kafka

    port = free_port()
    with own_pipeline(tmp_path, "t-", "--max-evals", "1") as pipeline:
        pipeline.predictor(METRICS_PORT=str(port))
        wait_until(lambda: get(port, "/readyz")[0] == 200, what="ready")
        local_kafka.stop(tmp_path / "kafka")
        away, alive = time.monotonic() + 150, []
        while time.monotonic() < away:  # longer than every time limit of the predictor
            alive.append(get(port, "/healthz"))
            time.sleep(0.5)
        # No answer: it restarts itself, as calls of the client have no time limit of their own.
        assert {status for status, _ in alive} <= {200, 0}, set(alive)
        assert sum(status == 0 for status, _ in alive) < 60
        assert get(port, "/readyz")[0] != 200
        local_kafka.start(pipeline.host, tmp_path / "kafka")
        wait_until(lambda: get(port, "/readyz")[0] == 200, what="ready again")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_predictor_that_hangs_is_not_alive(pipeline):
    """Its output is a pipe that nobody reads: the loop hangs when the pipe is full."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "predictor.py"],
        cwd=ROOT,
        env=os.environ | pipeline.environment | {"METRICS_PORT": str(port), "RETRAIN_EVERY": "1"},
        stdout=subprocess.PIPE,
        pipesize=4_096,
        start_new_session=True,
    )
    pipeline.processes.append(process)
    wait_until(lambda: get(port, "/readyz")[0] == 200, what="ready")

    def is_stuck() -> bool:
        pipeline.request(0)
        pipeline.producer.flush()
        return get(port, "/healthz")[0] == 503

    wait_until(is_stuck, BETWEEN_CALLS + 90, "the loop is stuck")
    assert "has been stuck for " in get(port, "/healthz")[1]
    reading = threading.Thread(target=process.communicate)  # somebody reads: it goes on
    reading.start()
    wait_until(lambda: get(port, "/healthz") == (200, "ok\n"), what="it goes on")
    process.send_signal(signal.SIGTERM)
    reading.join(timeout=60)
    assert process.returncode == 0
