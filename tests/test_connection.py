"""What counts as an answer of Kafka, and how long the scripts wait for one."""

import os
import shutil
import signal
import socket

import pytest

from tests.harness.brokers import running_broker
from tests.harness.pipeline import Pipeline, wait_until
from tests.harness.proxy import Proxy
from tests.test_pipeline import answered_once
from tools import local_kafka
from utils.kafka_client import connection, security
from utils.settings import Settings, settings


@pytest.fixture
def hung_host(monkeypatch):
    """A host that accepts connections and never answers."""
    monkeypatch.setattr(security, "ANSWER_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"localhost:{listener.getsockname()[1]}"


@pytest.fixture
def empty_proxy():
    """A proxy without a Kafka behind it."""
    proxy = Proxy(f"localhost:{local_kafka.free_port()}")
    yield proxy
    proxy.close()


@pytest.fixture
def kafka_host(monkeypatch):
    """A function that sets KAFKA_HOST."""
    return lambda *hosts: monkeypatch.setattr(
        connection, "settings", Settings(kafka_host=", ".join(hosts))
    )


def test_a_proxy_without_kafka_is_not_reachable(empty_proxy, kafka_host):
    kafka_host(empty_proxy.host)
    assert not connection.is_reachable()
    assert connection.is_listening()


def test_a_host_that_never_answers_is_not_reachable(hung_host, kafka_host):
    kafka_host(hung_host)
    assert not connection.is_reachable()


def test_clients_begin_with_the_hosts_that_answer(broker, hung_host, empty_proxy, kafka_host):
    nobody, real = f"localhost:{local_kafka.free_port()}", settings.kafka_host
    kafka_host(hung_host, nobody, empty_proxy.host, real)
    assert connection.is_reachable()
    assert connection.connection()["bootstrap_servers"] == [real]
    connection.make_admin().close()


def test_without_an_answer_clients_begin_with_all_hosts(hung_host, empty_proxy, kafka_host):
    kafka_host(hung_host, empty_proxy.host)
    assert not connection.is_reachable()
    assert connection.connection()["bootstrap_servers"] == [hung_host, empty_proxy.host]


@pytest.mark.slow
def test_an_outage_behind_a_proxy_is_waited_for(first_model, tmp_path):
    """Also by a predictor that was restarted, however often, and longer than BROKER_TIMEOUT."""
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    behind, folder = f"localhost:{local_kafka.free_port()}", tmp_path / "kafka"
    proxy = Proxy(behind)
    advertised = {"advertised.listeners": f"PLAINTEXT://{proxy.host}"}
    with running_broker(folder, behind, advertised):
        pipeline = Pipeline(proxy.host, "proxied-", tmp_path)
        first = pipeline.predictor(PREDICTOR_ID="first")
        request_ids = pipeline.requests(30)
        pipeline.wait_for_replies(30)
        os.kill(int((folder / "broker.pid").read_text()), signal.SIGKILL)
        environment = {"PREDICTOR_ID": "second", "BROKER_TIMEOUT": "1", "PIPELINE_RESTARTS": "5"}
        second = pipeline.start("predictor.py", **environment)
        pipeline.wait_for_output(first, "any more: waiting for it")
        pipeline.wait_for_output(second, "Waiting for Kafka at ")
        accepted = proxy.accepted
        wait_until(lambda: proxy.accepted > accepted + 50, what="connections")  # some seconds
        assert [first.poll(), second.poll()] == [None, None]
        local_kafka.start(behind, folder, properties=advertised)
        pipeline.wait_for_output(first, "Kafka answers again.")
        pipeline.wait_for_output(second, " answers with model ")
        request_ids += pipeline.requests(30)
        assert answered_once(request_ids, pipeline.wait_for_replies(60))
        pipeline.stop_all()
    proxy.close()
