"""Real brokers on free ports of loopback, and pipelines that are ready to start on one."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.harness.pipeline import Pipeline
from tools import local_kafka
from utils.files import ROOT

QUICK = ("--max-evals", "1")  # for initialize.py: a first model in two seconds


@contextmanager
def running_broker(
    folder: Path, host: str = "", properties: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a Kafka whose data is in this folder; the value is its host, a free port if not given.

    properties : added to server.properties.
    """
    host = host or f"localhost:{local_kafka.free_port()}"
    local_kafka.start(host, folder, properties=properties)
    try:
        yield host
    finally:
        local_kafka.stop(folder)


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
    folder: Path, prefix: str, *options: str, properties: Mapping[str, str] | None = None
) -> Iterator[Pipeline]:
    """A pipeline in this folder, with a first model, on a broker of its own in folder/kafka.

    options : those of initialize.py; properties : of the broker. At the end its processes and the
    broker are stopped.
    """
    initialize(folder, *options)
    with running_broker(folder / "kafka", properties=properties) as host:
        pipeline = Pipeline(host, prefix, folder)
        try:
            yield pipeline
        finally:
            pipeline.stop_all()
