"""Runs the real scripts against a real broker, each pipeline with its own topics and folders."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from pydantic import SecretStr

from train.store.place import FILE, Place, Server, schema_of
from utils.datasets.adult import read_test_requests
from utils.files import ROOT
from utils.kafka_client.batch import Batch
from utils.kafka_client.consumer import Consumer


def wait_until(condition: Callable, timeout: float = 60, what: str = ""):
    """Return the condition's first true value; AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"did not happen within {timeout} s: {what}"
        time.sleep(0.05)
    return value


def memory(pid: int, kind: str = "VmRSS") -> float:
    """Return a process's resident memory in MB (VmHWM: its peak); 0 if it has ended. Linux only."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024
    return 0.0


def next_batch(stream) -> Batch:
    """Return the next batch that has requests; batches of replies only are committed."""

    def requests() -> Batch | None:
        batch = stream.poll()
        if any(b'"data"' in record.value for record in batch.records):
            return batch
        stream.commit(batch)
        return None

    return wait_until(requests, what="a batch of requests")


def answer(batch: Batch) -> Batch:
    """Put a prediction for each request into the batch."""
    for record in batch.records:
        message = json.loads(record.value)
        if "data" in message:
            reply = {"request_id": message["request_id"], "prediction": 0.0}
            batch.reply(record, json.dumps(reply).encode())
    return batch


class Pipeline:
    """One pipeline: its scripts as processes, its topics as lists of messages.

    project : the folder of the scripts; environment : settings, beside those of the harness.
    """

    def __init__(
        self, host: str, prefix: str, folder: Path, project: Path = ROOT, **environment: str
    ) -> None:
        self.host, self.prefix, self.folder, self.project = host, prefix, folder, project
        self.cluster = None  # or the three brokers that it runs on, see brokers.py
        self.processes: list[subprocess.Popen] = []
        self.producer = KafkaProducer(bootstrap_servers=host, linger_ms=5)
        self.environment = {
            "KAFKA_HOST": host,
            "TOPIC_PREFIX": prefix,
            "DATA_DIR": str(folder / "data"),
            "MODELS_DIR": str(folder / "models"),
            "PYTHONUNBUFFERED": "1",
            "MONITOR_PORT": "0",  # 8501 may be taken, by a person's own monitor for example
        } | environment

    @cached_property
    def rows(self) -> list[dict]:
        """The rows of adult.test that requests are made of."""
        return read_test_requests(self.folder / "data")

    @property
    def place(self) -> Place:
        """Where the trainer's store is."""
        if url := self.environment.get("OBSERVATIONS_URL"):
            return Server(SecretStr(url), schema_of(self.prefix))
        return self.folder / "data" / FILE

    def start(self, *command: str, **options) -> subprocess.Popen:
        """Start a script with Python; options : see start_command()."""
        return self.start_command(sys.executable, *command, **options)

    def start_command(
        self,
        *command: str,
        before: tuple[str, ...] = (),
        project: Path | None = None,
        **environment: str,
    ) -> subprocess.Popen:
        """Start a program; its output goes to <name>-<n>.log in the pipeline's folder.

        before : what enters the host on which it is to run; project : if it is another one's.
        """
        log = self.folder / f"{Path(command[1]).stem}-{len(self.processes)}.log"
        with open(log, "wb") as file:
            process = subprocess.Popen(
                (*before, *command),
                cwd=project or self.project,
                env=os.environ | self.environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process.log = log
        self.processes.append(process)
        return process

    def run(self, module: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        """Run `python -m module` to its end; AssertionError if the exit code is another one."""
        ended = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=self.project,
            env=os.environ | self.environment,
            capture_output=True,
        )
        assert ended.returncode == code, ended.stderr.decode()
        return ended

    def start_and_wait(self, *command: str, until: str, **environment: str) -> subprocess.Popen:
        """Start a script and return when its output contains the text `until`."""
        process = self.start(*command, **environment)
        self.wait_for_output(process, until)
        return process

    def wait_for_output(self, process: subprocess.Popen, text: str, timeout: float = 60) -> None:
        """Return when the process has printed the text; AssertionError if it ends without."""

        def printed() -> bool:
            output = process.log.read_text()
            assert process.poll() is None or text in output, f"ended without {text!r}: {output}"
            return text in output

        wait_until(printed, timeout, f"{text!r} in {process.log.name}")

    def create_topic(self, topic: str, partitions: int = 1, **options) -> None:
        """Create a topic, before a script creates it."""
        admin = KafkaAdminClient(bootstrap_servers=self.host)
        # -1: as many copies as the broker has by default, three on three brokers.
        options = {"num_partitions": partitions, "replication_factor": -1} | options
        admin.create_topics({self.prefix + topic: options}, wait_for_metadata=True)
        admin.close()

    def predictor(self, **environment: str) -> subprocess.Popen:
        """Start a predictor that is ready."""
        return self.start_and_wait("predictor.py", until=" answers with model ", **environment)

    def trainer(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a trainer that is ready; one evaluation a training, unless the arguments differ."""
        command = ("trainer.py", "--max-evals", "1", *arguments)
        return self.start_and_wait(*command, until="waits for retrain requests", **environment)

    def children(self) -> list[int]:
        """Return the pids of training processes: their command names this pipeline's folder."""
        pattern = f"train.retrain.*{self.folder}"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True)
        return [int(pid) for pid in found.stdout.split()]

    def request(self, row: int = 0, request_id: str | None = None, **options) -> str:
        """Send a row of adult.test as a request and return its id."""
        request_id = request_id or str(uuid.uuid4())
        data = self.rows[row % len(self.rows)]
        self.send({"request_id": request_id, "data": data}, **options)
        return request_id

    def requests(self, number: int) -> list[str]:
        """Send this number of requests and return their ids."""
        request_ids = [self.request(row) for row in range(number)]
        self.producer.flush()
        return request_ids

    def send(self, message: dict | bytes, topic: str = "app_messages", **options) -> None:
        """Send a message as any client would."""
        value = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.producer.send(self.prefix + topic, value, **options)

    def records(self, topic: str) -> list:
        """Return all committed records of a topic, in each partition's order."""
        consumer = Consumer(
            bootstrap_servers=self.host,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        try:
            found = consumer.partitions_for_topic(self.prefix + topic) or ()
            partitions = [TopicPartition(self.prefix + topic, p) for p in sorted(found)]
            if not partitions:
                return []
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            records = []
            while any(consumer.position(p) < ends[p] for p in partitions):
                for batch in consumer.poll(timeout_ms=200).values():
                    records += batch
            return records
        finally:
            consumer.close()

    def messages(self, topic: str) -> list[dict]:
        """Return all committed messages of a topic that are JSON objects."""
        messages = []
        for record in self.records(topic):
            with suppress(ValueError, RecursionError):
                if isinstance(record.value, bytes):
                    messages.append(json.loads(record.value.decode()))
        return [message for message in messages if isinstance(message, dict)]

    def replies(self) -> list[dict]:
        """Return all predictions and error replies so far."""
        return [m for m in self.messages("app_messages") if "data" not in m]

    def wait_for_replies(self, number: int, timeout: float = 60) -> list[dict]:
        """Return all replies as soon as there are at least `number`."""

        def enough() -> list[dict] | None:
            replies = self.replies()
            return replies if len(replies) >= number else None

        return wait_until(enough, timeout, f"{number} replies")

    def covered(self) -> int:
        """Return how many retrain requests the trainings that have ended cover."""
        messages = self.messages("retrain_topic")
        return max((m.get("retrain_requests_covered", 0) for m in messages), default=0)

    def wait_for_control(self, condition: Callable[[list[dict]], bool], timeout: float = 90):
        """Return retrain_topic's messages when they satisfy the condition."""

        def satisfied() -> list[dict] | None:
            messages = self.messages("retrain_topic")
            return messages if messages and condition(messages) else None

        return wait_until(satisfied, timeout, "a message on retrain_topic")

    def stop_all(self) -> None:
        """Kill the processes that still run."""
        self.producer.close(timeout=5)
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
