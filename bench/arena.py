"""What bench/performance.py measures with: topics full of requests, clocks, figures."""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.harness.pipeline import Pipeline, wait_until

CHUNK = 250  # successive requests that go to one partition
TIMEOUT = 580  # seconds for a run
TICKS = os.sysconf("SC_CLK_TCK")
WINDOW = (0.2, 0.8)  # the part of a run that is measured: neither the start nor the last requests


@dataclass
class Sample:
    """The progress of a run at one moment."""

    moment: float  # seconds
    done: int  # requests
    cpu: float  # seconds, of the processes that answer
    broker_cpu: float  # seconds


@dataclass
class Figures:
    """How fast requests were answered, and the cost of one of them."""

    rate: float  # requests/s
    cpu: float  # us of CPU a request, of all processes that answer
    broker_cpu: float  # us of CPU a request
    cores: float  # that the processes used


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its threads have used; 0 if it has ended. Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Arena:
    """A broker and a folder; each case has topics of its own."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.folder, self.host = pipeline.folder, pipeline.host
        self.broker = int((self.folder / "kafka" / "broker.pid").read_text())
        self._cases = 0

    def case(self, models: Path | str, partitions: int = 1, **environment: str) -> "Case":
        """Return a pipeline with an empty topic, which answers with the champion of `models`."""
        self._cases += 1
        return Case(self, f"case{self._cases}-", models, partitions, environment)


class Case(Pipeline):
    """A pipeline whose predictors, or the programs they are compared with, are measured."""

    def __init__(
        self,
        arena: Arena,
        prefix: str,
        models: Path | str,
        partitions: int,
        environment: dict[str, str],
    ) -> None:
        super().__init__(arena.host, prefix, arena.folder)
        self.environment |= {"MODELS_DIR": str(models), "PARTITIONS": str(partitions)}
        self.environment |= {"RETRAIN_EVERY": "10000"} | environment
        self.topic, self.group = f"{prefix}app_messages", f"{prefix}predictors"
        self.partitions, self.broker = partitions, arena.broker
        for topic, number in (
            ("app_messages", partitions),
            ("retrain_topic", 1),
            ("dead_letter_topic", 1),
        ):
            self.create_topic(topic, number)
        self._observer = Consumer({"bootstrap.servers": self.host, "group.id": self.group})
        self._load = Producer(
            {
                "bootstrap.servers": self.host,
                "linger.ms": 20,
                "batch.size": 500_000,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        self._sent = self._answered = 0

    def __enter__(self) -> "Case":
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.close()
        self.stop_all()

    @cached_property
    def _data(self) -> list[bytes]:
        return [json.dumps(row).encode() for row in self.rows]

    def send_until(self, total: int) -> None:
        """Send requests, spread over the partitions, until `total` have been sent."""
        for n in range(self._sent, total):
            # No id comes twice: whoever joins by ids would have more to do than in use.
            value = b'{"request_id": "%036d", "data": %b}' % (n, self._data[n % len(self._data)])
            self._load.produce(self.topic, value, partition=n // CHUNK % self.partitions)
            if n % CHUNK == 0:
                while len(self._load) > 100_000:
                    self._load.poll(0.05)
        self._load.flush()
        self._sent = max(self._sent, total)

    def answered(self) -> int:
        """Return how many records the topic has besides the requests, up to an open transaction.

        These are the replies and the markers of transactions, one for hundreds of replies.
        """
        with suppress(KafkaException):  # a broker that is starting
            partitions = [TopicPartition(self.topic, number) for number in range(self.partitions)]
            ends = [self._observer.get_watermark_offsets(p, timeout=30)[1] for p in partitions]
            self._answered = sum(ends) - self._sent
        return self._answered

    def measure(
        self,
        pids: Iterable[int],
        requests: int,
        waiting: int | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Figures:
        """Measure how `requests` are answered, while `waiting` of them (a sixth) always wait.

        So the consumer reads about as many of its own replies as requests, as it does in use. Only
        the WINDOW of the run is measured.
        """
        waiting = waiting or requests // 6
        pids, samples = list(pids), []

        def all_is_answered() -> bool:
            meanwhile()
            self.send_until(min(self.answered() + waiting, requests))
            cpu = sum(map(cpu_seconds, pids))
            samples.append(Sample(time.monotonic(), self._answered, cpu, cpu_seconds(self.broker)))
            return self._answered >= requests

        wait_until(all_is_answered, TIMEOUT, "all requests answered")
        first = next(s for s in samples if s.done >= WINDOW[0] * requests)
        last = next((s for s in samples if s.done >= WINDOW[1] * requests), samples[-1])
        return _between(first, last if last.done > first.done else samples[-1])


def _between(first: Sample, last: Sample) -> Figures:
    done, seconds = last.done - first.done, last.moment - first.moment
    assert done > 0, "too few requests to measure: --requests"
    cpu, broker_cpu = last.cpu - first.cpu, last.broker_cpu - first.broker_cpu
    return Figures(done / seconds, cpu / done * 1e6, broker_cpu / done * 1e6, cpu / seconds)


def median(runs: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return Figures(
        *(
            statistics.median(values)
            for values in zip(*(vars(r).values() for r in runs), strict=True)
        )
    )
