"""What a request costs the real predictor, trainer, monitor and training, for bench/capacity.py."""

import json
import os
import random
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from kafka import KafkaProducer

from bench.arena import Arena, cpu_seconds
from bench.years import Cost, make_store, train
from tests.harness.pipeline import Pipeline, wait_until
from utils.datasets import dataset
from utils.files import ROOT


class Costs(NamedTuple):
    """What was measured. us of CPU a request; bytes a request in Kafka, replication not counted."""

    predictor: float  # us
    broker: float  # us, with one replica
    trainer: float  # us, with its outcome
    monitor: float  # us, with its outcome
    plain: float  # bytes of request, reply, transaction
    packed: float  # bytes of request, reply and outcome, if all producers use lz4
    stored: float  # bytes an observation in the trainer's store
    trainings: tuple[Cost, Cost]  # of two numbers of observations

    def training(self, observations: int) -> tuple[float, float]:
        """Return CPU seconds and GB of a training, on the line through the two measured ones."""
        small, large = self.trainings
        steps = (observations - large.observations) / (large.observations - small.observations)
        seconds = large.cpu_seconds + steps * (large.cpu_seconds - small.cpu_seconds)
        return seconds, (large.megabytes + steps * (large.megabytes - small.megabytes)) / 1024


def log_bytes(pipeline: Pipeline, topics: str = "*") -> int:
    """Return the size of the logs of Kafka's topics whose names match."""
    return sum(f.stat().st_size for f in pipeline.folder.glob(f"kafka/data/{topics}/*.log"))


def measure(pipeline: Pipeline, requests: int, rows: int) -> Costs:
    """Measure everything, one after the other; requests : of each case; rows : of a training."""
    arena = Arena(pipeline)
    for _ in range(2):  # the first one warms Kafka up
        before = log_bytes(pipeline)
        with arena.case(pipeline.folder / "models") as case:
            figures = case.measure([case.start("predictor.py").pid], requests)
        plain = (log_bytes(pipeline) - before) / requests
    loaded = Pipeline(pipeline.host, "load-", pipeline.folder, MLFLOW_TRACKING_URI="none")
    program = f"from bench.following import load; load({requests})"
    environment = os.environ | loaded.environment
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    (none := pipeline.folder / "none").mkdir()
    empty = Pipeline(pipeline.host, "empty-", none, MLFLOW_TRACKING_URI="none")
    trainer, stored = ingest(loaded, requests)
    return Costs(
        figures.cpu,
        figures.broker_cpu,
        trainer / requests * 1e6,
        (monitor_seconds(loaded) - monitor_seconds(empty)) / requests * 1e6,
        plain,
        packed_bytes(pipeline),
        stored / requests,
        trainings(pipeline.folder, rows),
    )


def packed_bytes(pipeline: Pipeline) -> float:
    """Return the bytes of a request, its reply and its outcome in full batches of lz4."""
    rows, label = pipeline.rows, dataset.target.labels[0]
    options = {"compression_type": "lz4", "batch_size": 2**20, "linger_ms": 1_000}
    for topic in ("requests", "replies", "outcomes"):
        pipeline.create_topic(f"packed-{topic}")
    with closing(KafkaProducer(bootstrap_servers=pipeline.host, **options)) as producer:
        for row in rows:
            name, score = str(uuid.uuid4()), random.random()
            for topic, message in {
                "requests": {"data": row},
                "replies": {"prediction": round(score), "probability": score, "model_id": 7},
                "outcomes": {"outcome": label},
            }.items():
                value = json.dumps({"request_id": name} | message).encode()
                producer.send(f"{pipeline.prefix}packed-{topic}", value, partition=0)
    return log_bytes(pipeline, f"{pipeline.prefix}packed-*") / len(rows)


def ingest(pipeline: Pipeline, requests: int) -> tuple[float, int]:
    """Let the trainer read everything; return its CPU seconds, and the bytes in its store."""
    path = pipeline.folder / "data" / "observations.db"
    trainer = pipeline.trainer()

    def has_all() -> bool:
        with closing(sqlite3.connect(path)) as store:
            sql = "SELECT value FROM counters WHERE name = 'observations'"
            return store.execute(sql).fetchone()[0] >= requests

    began = cpu_seconds(trainer.pid)
    wait_until(has_all, 600, "all observations stored")
    used = cpu_seconds(trainer.pid) - began
    trainer.terminate()
    trainer.wait(60)
    with closing(sqlite3.connect(path)) as store:  # without the pages that are free again
        names = ("page_size", "page_count", "freelist_count")
        size, pages, free = (store.execute(f"PRAGMA {each}").fetchone()[0] for each in names)
    return used, size * (pages - free)


def monitor_seconds(pipeline: Pipeline) -> float:
    """Return the CPU seconds of a monitor that reads everything."""
    with open(os.devnull, "wb") as nothing:
        command = [sys.executable, "monitor.py", "--once", "--from-beginning"]
        environment = os.environ | pipeline.environment
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=nothing)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, "the monitor failed"
    return used.ru_utime + used.ru_stime


def trainings(folder: Path, rows: int) -> tuple[Cost, Cost]:
    """Return the costs of a training of a quarter of these rows, and of all."""
    found = []
    for number in (rows // 4, rows):
        make_store(folder / "data", number)
        found.append(train(folder / "data", folder / "models", number, 0))
    return found[0], found[1]
