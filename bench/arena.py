"""What bench/performance.py measures in: a broker, models, topics full of requests, clocks."""

import json
import lzma
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.pipeline import Pipeline, wait_until
from utils import dataset, local_kafka, model_store
from utils.settings import ROOT

CHUNK = 1_000  # requests, then as many replies: what a topic with both looks like
REPLY = {"request_id": "", "prediction": 0.0, "probability": 0.123456789012, "model_id": 0}
TUNING = 10  # evaluations
TICKS = os.sysconf("SC_CLK_TCK")
WINDOW = (0.2, 0.9)  # the part of a backlog that counts: no start, no straggler


@dataclass
class Sample:
    """What was done up to a moment."""

    moment: float  # seconds
    done: int  # records whose offsets are committed
    cpu: float  # seconds, of the processes that do it
    broker_cpu: float  # seconds


@dataclass
class Figures:
    """How fast requests were answered, and what one of them cost."""

    rate: float  # requests/s
    cpu: float  # us of all its processes a request
    broker_cpu: float  # us a request
    cores: float  # how many the processes took


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have taken so far; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Arena:
    """A broker and models in a folder of their own; each case has topics of its own."""

    def __init__(self, folder: Path, host: str) -> None:
        self.folder, self.host = folder, host
        self._cases = 0
        for name in ("data", "kafka"):
            (folder / name).mkdir()
        for name in ("adult.data", "adult.test"):
            packed = (ROOT / "data" / f"{name}.xz").read_bytes()
            (folder / "data" / name).write_bytes(lzma.decompress(packed))
        (folder / "kafka" / "jars").symlink_to(ROOT / ".kafka" / "jars")
        (ROOT / ".kafka").mkdir(exist_ok=True)
        local_kafka.start(host, folder / "kafka")
        self.broker = int((folder / "kafka" / "broker.pid").read_text())

    def close(self) -> None:
        """Stop the broker."""
        local_kafka.stop(self.folder / "kafka")

    def add_model(self, name: str, **parameters) -> Path:
        """Fit a model of these parameters, tuned ones without any; return its folder."""
        from train.train_hyperopt import LGBOptimizer
        from utils.feature_tools import FeatureTools

        frame, outcomes = dataset.read_training(self.folder / "data")
        tools = FeatureTools(
            dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS, dataset.CROSSED_COLUMNS
        ).fit(frame)
        optimizer = LGBOptimizer(
            tools.transform(frame),
            outcomes,
            list(tools.get_feature_names_out()),
            tools.categorical_indices_,
        )
        folder = self.folder / name
        folder.mkdir()
        card = {"model_id": 0, "rows": len(outcomes), "parameters": parameters}
        model_store.save(model_store.Model(tools.encoder_, optimizer.fit(parameters), card), folder)
        model_store.promote(folder, 0)
        return folder

    def case(self, models: Path, partitions: int = 1, **environment: str) -> "Case":
        """Return a pipeline with an empty topic."""
        self._cases += 1
        return Case(self, f"case{self._cases}-", models, partitions, environment)


class Case(Pipeline):
    """A pipeline of its own whose predictors, or what is to be compared with them, are measured."""

    def __init__(
        self, arena: Arena, prefix: str, models: Path, partitions: int, environment: dict[str, str]
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
        self.ends, self._done = [0] * partitions, 0
        self.observer = Consumer({"bootstrap.servers": self.host, "group.id": self.group})

    def __enter__(self) -> "Case":
        return self

    def __exit__(self, *_: object) -> None:
        self.observer.close()
        self.stop_all()

    def fill(self, requests: int, replies: bool = True, padding: int = 0) -> None:
        """Put requests into the topic, among them as many replies as there are requests."""
        rows = [row | ({"note": "x" * padding} if padding else {}) for row in self.rows]
        values = [
            json.dumps({"request_id": f"{n:036}", "data": row}).encode()
            for n, row in enumerate(rows)
        ]
        reply = json.dumps(REPLY | {"request_id": "0" * 36}).encode()
        producer = Producer(
            {
                "bootstrap.servers": self.host,
                "linger.ms": 20,
                "batch.size": 500_000,
                "queue.buffering.max.messages": 1_000_000,
            }
        )
        for start in range(0, requests, CHUNK):
            partition = start // CHUNK % self.partitions
            number = min(CHUNK, requests - start)
            for n in range(start, start + number):
                producer.produce(self.topic, values[n % len(values)], partition=partition)
            for _ in range(number if replies else 0):
                producer.produce(self.topic, reply, partition=partition)
            self.ends[partition] += number * (2 if replies else 1)
            while len(producer) > 100_000:
                producer.poll(0.05)
        producer.flush()
        self.requests_per_record = 0.5 if replies else 1.0

    def done(self) -> int:
        """Return how many records of fill() are answered, or skipped, for good."""
        wanted = [TopicPartition(self.topic, number) for number in range(self.partitions)]
        with suppress(KafkaException):  # a new broker has no coordinator for a moment
            committed = self.observer.committed(wanted, timeout=30)
            self._done = sum(min(max(c.offset, 0), self.ends[c.partition]) for c in committed)
        return self._done

    def drain(
        self,
        pids: Iterable[int],
        timeout: float = 180,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Figures:
        """Watch how what fill() has written is answered."""
        pids, total, samples = list(pids), sum(self.ends), []

        def drained() -> bool:
            meanwhile()
            cpu = sum(map(cpu_seconds, pids))
            samples.append(Sample(time.monotonic(), self.done(), cpu, cpu_seconds(self.broker)))
            return samples[-1].done >= total

        wait_until(drained, timeout, "all requests answered")
        first = next(s for s in samples if s.done and s.done >= WINDOW[0] * total)
        last = next(s for s in samples if s.done >= WINDOW[1] * total and s.done > first.done)
        requests = (last.done - first.done) * self.requests_per_record
        seconds, cpu = last.moment - first.moment, last.cpu - first.cpu
        broker_cpu = last.broker_cpu - first.broker_cpu
        return Figures(
            requests / seconds, cpu / requests * 1e6, broker_cpu / requests * 1e6, cpu / seconds
        )


def median(runs: list[Figures]) -> Figures:
    """Return the median of each figure."""
    return Figures(
        *(
            statistics.median(values)
            for values in zip(*(vars(r).values() for r in runs), strict=True)
        )
    )
