"""What bench/performance.py measures in: a broker, models, topics full of requests, clocks."""

import json
import lzma
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
from tools import local_kafka
from utils.datasets import dataset
from utils.files import ROOT
from utils.model_store.card import Card
from utils.model_store.model import Model, save
from utils.model_store.registry import Registry

CHUNK = 250  # requests in a row for one partition
TIMEOUT = 580  # seconds for a run
TUNING = 10  # evaluations
TICKS = os.sysconf("SC_CLK_TCK")
WINDOW = (0.2, 0.8)  # the part of a run that counts: no start, no straggler


@dataclass
class Sample:
    """What was done up to a moment."""

    moment: float  # seconds
    done: int  # requests
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
        registry = Registry(folder)
        card = Card(
            model_id=0, rows=len(outcomes), hyper="none", evaluations=0, experiment="", seed=1,
            parameters=parameters, tuning_logloss=0.0,
        )  # fmt: skip
        save(Model(tools.encoder_, optimizer.fit(parameters), card), registry)
        registry.promote(0)
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
    def _values(self) -> list[bytes]:
        requests = enumerate(self.rows)
        return [json.dumps({"request_id": f"{n:036}", "data": row}).encode() for n, row in requests]

    def send_until(self, total: int) -> None:
        """Send requests until there are so many, spread over the partitions."""
        for n in range(self._sent, total):
            value = self._values[n % len(self._values)]
            self._load.produce(self.topic, value, partition=n // CHUNK % self.partitions)
            if n % CHUNK == 0:
                while len(self._load) > 100_000:
                    self._load.poll(0.05)
        self._load.flush()
        self._sent = max(self._sent, total)

    def answered(self) -> int:
        """Return how many records the topic has beside the requests, up to an open transaction:
        replies, and the markers of transactions, one for hundreds of them."""
        with suppress(KafkaException):  # a broker is just starting
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
        """Watch how so many requests are answered; a sixth of them, or `waiting`, wait meanwhile.

        So the answerer reads about as many of its replies as there are requests, as it does at
        work. What starts and ends the run does not count, see WINDOW.
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
        last = next(s for s in samples if s.done >= WINDOW[1] * requests and s.done > first.done)
        done, seconds = last.done - first.done, last.moment - first.moment
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
