"""What a request costs the real predictor, trainer, monitor and training, for bench/capacity.py."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from bench.arena import Arena, cpu_seconds
from bench.years import Cost, make_store, train
from tests.harness.pipeline import Pipeline, wait_until
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
    training_us: float  # an observation more in a training
    training_bytes: float  # the same


def log_bytes(pipeline: Pipeline, topics: str = "*") -> int:
    """Return the size of the logs of Kafka's topics whose names match."""
    return sum(f.stat().st_size for f in pipeline.folder.glob(f"kafka/data/{topics}/*.log"))


def measure(pipeline: Pipeline, requests: int, rows: int) -> Costs:
    """Measure everything, one after the other; requests : of each case; rows : of a training."""
    arena, before = Arena(pipeline), log_bytes(pipeline)
    with arena.case(pipeline.folder / "models") as case:
        figures = case.measure([case.start("predictor.py").pid], requests)
        plain = (log_bytes(pipeline) - before) / requests
    loaded = Pipeline(pipeline.host, "load-", pipeline.folder, MLFLOW_TRACKING_URI="none")
    program = f"from bench.following import load; load({requests})"
    environment = os.environ | loaded.environment
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True)
    empty = Pipeline(pipeline.host, "empty-", pipeline.folder / "empty", **{
        **loaded.environment, "TOPIC_PREFIX": "empty-", "DATA_DIR": str(pipeline.folder / "empty"),
    })  # fmt: skip
    (pipeline.folder / "empty").mkdir()
    trainer, stored = ingest(loaded, requests)
    monitor = monitor_seconds(loaded) - monitor_seconds(empty)
    packed = log_bytes(pipeline, "load-*") / requests
    small, large = trainings(pipeline.folder, rows)
    return Costs(
        figures.cpu,
        figures.broker_cpu,
        trainer / requests * 1e6,
        monitor / requests * 1e6,
        plain,
        packed,
        stored / requests,
        (large.cpu_seconds - small.cpu_seconds) / (large.observations - small.observations) * 1e6,
        (large.megabytes - small.megabytes) / (large.observations - small.observations) * 2**20,
    )


def ingest(pipeline: Pipeline, requests: int) -> tuple[float, int]:
    """Let the trainer read everything; return its CPU seconds, and the bytes of its store."""
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
    return used, path.stat().st_size


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


def trainings(folder: Path, rows: int) -> list[Cost]:
    """Return the costs of a training of a quarter of these rows, and of all."""
    data, found = folder / "data", []
    for number in (rows // 4, rows):
        make_store(data, number)
        found.append(train(data, folder / "models", number, 0))
    return found
