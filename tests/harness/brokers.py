"""Real brokers on free ports of loopback, and pipelines that are ready to start on one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from tests.harness.pipeline import Pipeline, wait_until
from tools import local_kafka
from tools.kafka_node import Node
from utils.files import ROOT

QUICK = ("--max-evals", "1")  # for initialize.py: a first model in two seconds
START_TIMEOUT = 180  # seconds; a Kafka that starts slowly on a busy machine has not failed


@contextmanager
def running_broker(
    folder: Path, host: str = "", properties: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a Kafka whose data is in this folder; the value is its host, a free port if not given.

    properties : added to server.properties.
    """
    host = host or f"localhost:{local_kafka.free_port()}"
    local_kafka.start(host, folder, START_TIMEOUT, properties)
    try:
        yield host
    finally:
        local_kafka.stop(folder)


class Cluster:
    """Three real brokers in a folder; each is named by its number, from 1."""

    def __init__(self, folder: Path, properties: Mapping[str, str] | None = None) -> None:
        self.folder, self._properties = folder, properties
        self.host = ",".join(f"localhost:{local_kafka.free_port()}" for _ in range(3))
        self.nodes = {n: Node(folder / f"node-{n}", n) for n in (1, 2, 3)}

    def start(self) -> str:
        """Start the brokers that do not run, and return when all of them take part."""
        return local_kafka.start(self.host, self.folder, START_TIMEOUT, self._properties, brokers=3)

    def stop(self) -> None:
        """Stop all of them, frozen ones too."""
        for number in self.nodes:
            self.send(number, signal.SIGCONT)
        local_kafka.stop(self.folder)

    def send(self, number: int, what: signal.Signals) -> None:
        """Send a signal to a broker: SIGSTOP, SIGCONT, or one after which it ends."""
        self.nodes[number].send(what)
        if what in (signal.SIGKILL, signal.SIGTERM):
            wait_until(lambda: not self.nodes[number].pid, what=f"the end of broker {number}")

    def kill(self, number: int) -> None:
        """Kill a broker (kill -9)."""
        self.send(number, signal.SIGKILL)

    def restart(self, number: int) -> None:
        """Stop a broker as an administrator does, and return when it is back in the cluster."""
        self.send(number, signal.SIGTERM)
        self.start()

    def leader(self, topic: str, partition: int = 0) -> int:
        """Return the number of the broker that leads a partition."""

        def found() -> int | None:
            with suppress(KafkaError):  # the broker that was asked has just ended
                described = self._describe(topic)
                leaders = {p["partition_index"]: p["leader_id"] for p in described}
                leader = leaders.get(partition, -1)
                return leader if leader in self.nodes else None
            return None

        return wait_until(found, what=f"a leader of {topic}-{partition}")

    def is_in_sync(self) -> bool:
        """Return True if every broker has all records of every partition."""
        with suppress(KafkaError):
            return all(
                p["isr_nodes"] and len(p["isr_nodes"]) == len(p["replica_nodes"])
                for p in self._describe()
            )
        return False

    def _describe(self, *topics: str) -> list[dict]:
        with closing(KafkaAdminClient(bootstrap_servers=self.host)) as admin:
            described = admin.describe_topics([*topics] or None)
        return [partition for topic in described for partition in topic["partitions"]]


@contextmanager
def running_cluster(folder: Path, properties: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Run three brokers whose data are in this folder. properties : added to server.properties."""
    cluster = Cluster(folder, properties)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def initialize(folder: Path, *options: str, project: Path = ROOT, **environment: str) -> None:
    """Run the project's initialize.py; it makes data/ and models/ in the folder."""
    folders = {"DATA_DIR": str(folder / "data"), "MODELS_DIR": str(folder / "models")}
    log = folder / "initialize.log"
    with open(log, "wb") as file:
        ended = subprocess.run(
            [sys.executable, "initialize.py", *options],
            cwd=project,
            env=os.environ | folders | environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    assert ended.returncode == 0, log.read_text()


@contextmanager
def own_pipeline(
    folder: Path,
    prefix: str,
    *options: str,
    properties: Mapping[str, str] | None = None,
    cluster: bool = False,
) -> Iterator[Pipeline]:
    """A pipeline in this folder, with a first model, on a Kafka of its own in folder/kafka.

    options : those of initialize.py; properties : of the broker; cluster : three brokers, as
    pipeline.cluster. At the end its processes and Kafka are stopped.
    """
    initialize(folder, *options)
    with _kafka(folder / "kafka", properties, cluster) as (host, brokers):
        pipeline = Pipeline(host, prefix, folder)
        pipeline.cluster = brokers
        try:
            yield pipeline
        finally:
            pipeline.stop_all()


@contextmanager
def _kafka(
    folder: Path, properties: Mapping[str, str] | None, cluster: bool
) -> Iterator[tuple[str, Cluster | None]]:
    if cluster:
        with running_cluster(folder, properties) as brokers:
            yield brokers.host, brokers
    else:
        with running_broker(folder, properties=properties) as host:
            yield host, None
