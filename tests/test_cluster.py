"""Three brokers: how topics are made there, and that no answer is lost or doubled with a broker."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import InvalidReplicationFactorError

from tests.harness.brokers import Cluster, running_cluster
from tests.harness.pipeline import Pipeline, wait_until
from tools import local_kafka
from tools.kafka_install import BrokerError
from utils.kafka_client import replication
from utils.kafka_client.replication import create_replicated, warn_of_few_copies
from utils.settings import settings

PARTITIONS = 3


def ask_for(copies: int, monkeypatch) -> None:
    changed = settings.model_copy(update={"replication": copies})
    monkeypatch.setattr(replication, "settings", changed)


def describe(admin: KafkaAdminClient, topic: str) -> tuple[set[int], str]:
    """Return the numbers of copies of a topic's partitions, and its min.insync.replicas."""
    (described,) = admin.describe_topics([topic])
    name = "min.insync.replicas"
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic, [name])]
    configs = admin.describe_configs(asked, config_filter="all")["topic"][topic]
    copies = {len(each["replica_nodes"]) for each in described["partitions"]}
    return copies, configs[name]["value"]


# -- One broker ---------------------------------------------------------------------------------


def test_on_one_broker_a_topic_has_one_copy_and_nothing_is_said(pipeline, capsys):
    with closing(KafkaAdminClient(bootstrap_servers=pipeline.host)) as admin:
        create_replicated(admin, f"{pipeline.prefix}x", {"num_partitions": 2})
        assert describe(admin, f"{pipeline.prefix}x") == ({1}, "1")
        warn_of_few_copies(admin, admin.describe_topics([f"{pipeline.prefix}x"]))
    assert capsys.readouterr().out == ""


def test_more_copies_than_brokers_are_refused(pipeline, monkeypatch):
    ask_for(3, monkeypatch)
    with (
        closing(KafkaAdminClient(bootstrap_servers=pipeline.host)) as admin,
        pytest.raises(InvalidReplicationFactorError, match="REPLICATION=3, but Kafka has fewer"),
    ):
        create_replicated(admin, f"{pipeline.prefix}x", {"num_partitions": 1})


def test_two_hosts_are_not_enough_for_three_brokers(tmp_path):
    host = ",".join(f"localhost:{local_kafka.free_port()}" for _ in range(2))
    with pytest.raises(BrokerError, match="KAFKA_HOST names 2 brokers, but 3 are asked for"):
        local_kafka.start(host, tmp_path, brokers=3)


def test_the_other_brokers_take_the_next_free_ports(tmp_path):
    first = local_kafka.free_port()
    nodes = local_kafka._cluster(tmp_path)
    chosen = local_kafka._choose_hosts(f"localhost:{first}", nodes)
    ports = [int(host.rpartition(":")[2]) for host in chosen]
    assert ports[0] == first
    assert ports == sorted(set(ports))
    controllers = dict(zip((1, 2, 3), range(3), strict=True))
    for node, host in zip(nodes, chosen, strict=True):
        node.configure(host, controllers, {})
    assert local_kafka._choose_hosts(f"localhost:{first}", nodes) == chosen


# -- Three brokers ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def on_three(cluster, first_model, tmp_path):
    """An initialized pipeline on three brokers, each of which leads a partition."""
    cluster.start()  # what an earlier test may have left away
    wait_until(cluster.is_in_sync, 120, "all brokers in sync")
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    settings_of_it = {"RETRAIN_EVERY": "100000", "PARTITIONS": str(PARTITIONS)}
    running = Pipeline(cluster.host, f"t{time.time_ns()}-", tmp_path, **settings_of_it)
    yield running
    running.stop_all()


class Load:
    """Sends requests to all partitions, in a thread, until it is stopped."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._over, self.sent = pipeline, threading.Event(), 0
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()

    def _send(self) -> None:
        for number in itertools.count():
            if self._over.wait(0.01):
                return
            self._pipeline.request(number, partition=number % PARTITIONS)
            self.sent += 1

    def stop(self) -> None:
        """End the load, and check that each request has exactly one answer."""
        self._over.set()
        self._thread.join()
        self._pipeline.producer.flush(120)
        replies = self._pipeline.wait_for_replies(self.sent, 120)
        requests = [m for m in self._pipeline.messages("app_messages") if "data" in m]
        asked = Counter(message["request_id"] for message in requests)
        assert Counter(reply["request_id"] for reply in replies) == asked
        assert len(asked) == self.sent


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_topics_get_three_copies_also_while_a_broker_is_away(cluster, monkeypatch, capsys):
    with closing(KafkaAdminClient(bootstrap_servers=cluster.host)) as admin:
        create_replicated(admin, "whole", {"num_partitions": 3})
        assert describe(admin, "whole") == ({3}, "2")
    away = cluster.leader("whole")
    cluster.kill(away)
    # Kafka has noticed it, and has a controller: the one that was killed may have been that.
    wait_until(lambda: cluster.leader("whole") != away, what="another leader")
    with closing(KafkaAdminClient(bootstrap_servers=cluster.host)) as admin:
        create_replicated(admin, "one-away", {"num_partitions": 1})
        assert describe(admin, "one-away") == ({3}, "2")
        cluster.start()
    with closing(KafkaAdminClient(bootstrap_servers=cluster.host)) as admin:
        ask_for(1, monkeypatch)
        create_replicated(admin, "poor", {"num_partitions": 1})
        ask_for(0, monkeypatch)
        warn_of_few_copies(admin, admin.describe_topics(["whole", "poor"]))
    said = " ".join(capsys.readouterr().out.split())
    assert "These topics have fewer than 3 copies: poor (1). What is on one broker" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_script_that_starts_with_the_brokers_waits_for_all_three(tmp_path):
    """One of them starts late: it would get no copies, and the topic could be lost with another."""
    late, log = Cluster(tmp_path), tmp_path / "script.log"
    starting = threading.Thread(target=late.start)
    with ended_script("examples.count_answers", late.host, log) as script:
        try:
            starting.start()
            wait_until(lambda: late.nodes[3].pid, 120, "the process of broker 3")
            late.send(3, signal.SIGSTOP)
            wait_until(lambda: "Waiting until Kafka knows 3 brokers" in log.read_text(), 120)
            late.send(3, signal.SIGCONT)
            assert script.wait(120) == 0, log.read_text()
            with closing(KafkaAdminClient(bootstrap_servers=late.host)) as admin:
                assert describe(admin, "app_messages") == ({3}, "2")
        finally:
            late.send(3, signal.SIGCONT)
            starting.join()
            late.stop()
    assert "fewer than" not in log.read_text()


@contextmanager
def ended_script(module: str, host: str, log: Path) -> Iterator[subprocess.Popen]:
    """A script that runs, and is killed at the end if it still does."""
    environment = os.environ | {"KAFKA_HOST": host, "BROKER_TIMEOUT": "180"}
    with open(log, "wb") as file:
        output = {"stdout": file, "stderr": subprocess.STDOUT}
        script = subprocess.Popen([sys.executable, "-m", module], env=environment, **output)
        try:
            yield script
        finally:
            script.kill()
            script.wait()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_no_answer_is_lost_or_doubled_with_a_broker(cluster, on_three, fault):
    """Killed, frozen, or stopped: each of the three in turn, with all that it coordinates."""
    on_three.predictor()
    load = Load(on_three)
    for number in cluster.nodes:
        cluster.send(number, fault)
        if fault == signal.SIGSTOP:
            time.sleep(8)  # four times as long as Kafka waits for it
            cluster.send(number, signal.SIGCONT)
        cluster.start()
        wait_until(cluster.is_in_sync, 120, "all brokers in sync")
    load.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_three_brokers_at_once(cluster, on_three):
    on_three.predictor()
    load = Load(on_three)
    wait_until(lambda: load.sent > 100)
    for number in cluster.nodes:
        cluster.kill(number)
    cluster.start()
    load.stop()
