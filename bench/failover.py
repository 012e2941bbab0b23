"""How long Kafka and the predictor are silent when one of three brokers goes away.

    python -m bench.failover --session-timeout 9 --faults kill freeze stop

Starts three brokers and a predictor in a temporary folder, and sends 20 requests a second to each
of three partitions. Beside them, the same number of plain records goes to a topic with as many
partitions and copies, from an idempotent producer to a reader of committed records: what that one
has to wait for is Kafka's own time. The clients that measure are librdkafka's. Each broker in turn
is killed (kill -9), frozen for 20 s, or stopped (SIGTERM), and started again; it leads some of the
partitions, or coordinates transactions or the group. Prints for each fault the longest time between
two arrivals in a partition, and the longest time from the append of a request to the arrival of its
answer. A run takes about a minute for each broker and fault.
"""

import json
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from kafka import KafkaAdminClient
from rich.console import Console
from rich.table import Table

from tests.harness.brokers import QUICK, Cluster, initialize, running_cluster
from tests.harness.pipeline import Pipeline, wait_until
from utils.kafka_client.transaction_view import partition_of_group
from utils.script import command_line

PARTITIONS = 3
INTERVAL = 0.05  # seconds between two requests of a partition
FROZEN = 20  # seconds
QUIET = 5  # seconds of ordinary work before and after a fault
IMPATIENT = {  # what librdkafka needs to notice changes at once
    "reconnect.backoff.ms": 20,
    "reconnect.backoff.max.ms": 100,
    "retry.backoff.ms": 20,
    "topic.metadata.refresh.fast.interval.ms": 50,
    "socket.timeout.ms": 1_500,
    "log_level": 0,
}


class Traffic:
    """Sends requests and plain records, and notes when answers and plain records arrive."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._topics = {name: pipeline.prefix + name for name in ("app_messages", "plain")}
        self._rows = [json.dumps(row) for row in pipeline.rows[:1000]]
        self.sent = 0
        self._appended: dict[str, float] = {}  # by request id
        self.arrivals: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.waits: dict[int, list[tuple[float, float]]] = defaultdict(list)  # (arrival, seconds)
        self.answers: dict[str, int] = defaultdict(int)
        client = IMPATIENT | {"bootstrap.servers": pipeline.host}
        self._producer = Producer(client | {"enable.idempotence": True, "linger.ms": 1})
        reading = {"group.id": "watch", "isolation.level": "read_committed"}
        reading |= {"fetch.wait.max.ms": 50, "fetch.error.backoff.ms": 20}
        self._consumer = Consumer(client | reading | {"enable.auto.commit": False})
        self._consumer.assign(
            [TopicPartition(t, p, 0) for t in self._topics.values() for p in range(PARTITIONS)]
        )
        self._enough, self._over = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._send, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        while not self._enough.wait(max(began + self.sent * INTERVAL - time.monotonic(), 0)):
            row = self._rows[self.sent % len(self._rows)]
            for partition in range(PARTITIONS):
                name = f"{self.sent}-{partition}"
                request = f'{{"request_id": "{name}", "data": {row}}}'
                self._producer.produce(self._topics["app_messages"], request, partition=partition)
                self._producer.produce(self._topics["plain"], name, partition=partition)
            self.sent += 1
            self._producer.poll(0)

    def _read(self) -> None:
        while not self._over.is_set():
            for record in self._consumer.consume(500, 0.01):
                if not record.error():
                    self._note(record, time.time())

    def _note(self, record, now: float) -> None:
        partition = record.partition()
        if record.topic() == self._topics["plain"]:
            self.arrivals["plain", partition].append(now)
            return
        message = json.loads(record.value())
        request_id = message["request_id"]
        if "data" in message:
            self._appended[request_id] = record.timestamp()[1] / 1000
            return
        self.arrivals["answers", partition].append(now)
        self.waits[partition].append((now, now - self._appended[request_id]))
        self.answers[request_id] += 1

    def unanswered(self) -> int:
        """Return how many of the requests in the log have no answer."""
        return len(self._appended.keys() - self.answers.keys())

    def doubled(self) -> int:
        """Return how many requests have several answers."""
        return sum(number > 1 for number in self.answers.values())

    def gap(self, what: str, since: float, until: float) -> float:
        """Return the longest time between two arrivals in any partition, in a span of time."""
        gaps = [0.0]
        for partition in range(PARTITIONS):
            times = [t for t in self.arrivals[what, partition] if since <= t <= until]
            times = [since, *times, until]
            gaps += [b - a for a, b in zip(times, times[1:], strict=False)]
        return max(gaps)

    def longest_wait(self, since: float, until: float) -> float:
        """Return the longest time from a request's append to its answer, in a span of time."""
        found = [wait for each in self.waits.values() for at, wait in each if since <= at <= until]
        return max(found, default=0.0)

    def is_flowing(self) -> bool:
        """Return True if answers and plain records of all partitions have arrived just now."""
        now = time.time()
        keys = [(what, p) for what in ("plain", "answers") for p in range(PARTITIONS)]
        return all(self.arrivals[key] and now - self.arrivals[key][-1] < 0.5 for key in keys)

    def close(self) -> None:
        """End sending, wait for what is on its way, and close the clients."""
        self._enough.set()
        self._threads[0].join()
        self._producer.flush(60)
        wait_until(lambda: not self.unanswered(), what="an answer to every request")
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._consumer.close()


def roles(cluster: Cluster, pipeline: Pipeline) -> dict[int, str]:
    """Return what each broker does: partitions that it leads, and what it coordinates."""
    found = defaultdict(list)
    for partition in range(PARTITIONS):
        leader = cluster.leader(f"{pipeline.prefix}app_messages", partition)
        found[leader].append(f"partition {partition}")
    with KafkaAdminClient(bootstrap_servers=cluster.host) as admin:
        found[admin.describe_cluster()["controller_id"]].append("controller")
        name = f"{pipeline.prefix}predictors-predictor-0"
        described = admin.describe_transactions([name])[name]
        found[described.coordinator_id].append("transactions")
    group = partition_of_group(f"{pipeline.prefix}predictors", 4)
    found[cluster.leader("__consumer_offsets", group)].append("group")
    return {number: ", ".join(found[number]) for number in cluster.nodes}


def inflict(cluster: Cluster, fault: str, number: int) -> None:
    """Let a broker go away, and come back."""
    if fault == "kill":
        cluster.kill(number)
        time.sleep(FROZEN)
    elif fault == "freeze":
        cluster.send(number, signal.SIGSTOP)
        time.sleep(FROZEN)
        cluster.send(number, signal.SIGCONT)
    else:
        cluster.send(number, signal.SIGTERM)
        time.sleep(QUIET)
    cluster.start()


def measure(cluster: Cluster, pipeline: Pipeline, faults: list[str], table: Table) -> None:
    """Inflict each fault on each broker; add a row for each to the table."""
    traffic = Traffic(pipeline)
    for fault in faults:
        for number in cluster.nodes:
            wait_until(cluster.is_in_sync, 120, "all brokers in sync")
            wait_until(traffic.is_flowing, 60, "answers in all partitions")
            doing = roles(cluster, pipeline)[number]
            time.sleep(QUIET)
            began = time.time()
            inflict(cluster, fault, number)
            wait_until(traffic.is_flowing, 120, "answers in all partitions")
            time.sleep(QUIET)
            span = began, time.time()
            kafka, ours = traffic.gap("plain", *span), traffic.gap("answers", *span)
            figures = [kafka, ours, ours - kafka, traffic.longest_wait(*span)]
            row = [f"{fault} {number}", doing, *(f"{figure:.1f}" for figure in figures)]
            table.add_row(*row)
            print(*row, sep="; ", flush=True)
    traffic.close()
    lost = traffic.sent * PARTITIONS - len(traffic.answers)
    table.caption = (
        f"{traffic.sent * PARTITIONS} requests, {lost} lost, {traffic.doubled()} doubled"
    )


def main() -> None:
    """Measure, and print a table."""
    parser = command_line(__doc__, "bench.failover")
    parser.add_argument("--session-timeout", type=float, default=9, help="Kafka's default (9 s)")
    parser.add_argument("--faults", nargs="+", choices=["kill", "freeze", "stop"], default=["kill"])
    parser.add_argument("--predictor", default="predictor.py", help="the script (predictor.py)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    timeout = {"broker.session.timeout.ms": str(int(options.session_timeout * 1000))}
    table = Table("fault", "what the broker does", "Kafka, s", "answers, s", "more", "wait, s")
    with tempfile.TemporaryDirectory(prefix="failover-") as name:
        folder = Path(name)
        initialize(folder, *QUICK)
        with running_cluster(folder / "kafka", timeout) as cluster:
            pipeline = Pipeline(cluster.host, "failover-", folder, RETRAIN_EVERY="1000000")
            try:
                appended = {"configs": {"message.timestamp.type": "LogAppendTime"}}
                for topic in ("app_messages", "plain"):
                    pipeline.create_topic(topic, PARTITIONS, **appended)
                script = pipeline.start_and_wait(options.predictor, until=" answers with model ")
                measure(cluster, pipeline, options.faults, table)
                print(script.log.read_text())
            finally:
                pipeline.stop_all()
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
