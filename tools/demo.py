"""Runs the whole pipeline once: Kafka, initialize, predictor, trainer, sample app, a summary.

    python -m tools.demo --messages 200 --interval 0.4 --predictors 1

Starts Kafka if none is running, makes the first model if there is none, and runs the Procfile's
processes. When every request is answered and every training that is due has ended, it stops what it
started. Exits with 1 when an answer is missing or nothing was learned.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError
from rich.console import Console

from tools import local_kafka
from tools.summary import Summary
from train.observations import STORE, Observations
from utils.console import say
from utils.files import ROOT
from utils.kafka_client.group import group_members
from utils.kafka_client.positions import read_from_now_on, records_up_to_now
from utils.kafka_client.security import Refused
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    PREDICTOR_GROUP,
    RETRAIN_TOPIC,
    prepare_topics,
)
from utils.messages import decode_control, decode_outcome
from utils.model_store.registry import Registry
from utils.settings import settings

READY_TIMEOUT = 60  # seconds in which the predictors have to join their group
TRAINING_TIMEOUT = 300  # seconds, after the last answer, in which the trainings due have to end


class Demo:
    """The processes of one run and what their topics say."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.summary = Summary()
        self.read: dict[TopicPartition, int] = {}  # up to which offset
        self.consumer = read_from_now_on(APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC)

    def run(self) -> None:
        """Start everything, watch until all is done; SystemExit with a sentence if it can't be."""
        with ExitStack() as processes:
            services = ["predictor", "trainer"]
            count = f"predictor={self.arguments.predictors}"
            running = processes.enter_context(Honcho("-c", count, *services))
            self._wait_for_predictors(running)
            sample_app = processes.enter_context(Honcho("sample_app"))
            self._watch(running, until=lambda: sample_app.ended() and self._complete(sample_app))
            if sample_app.failed():
                raise SystemExit("The sample app did not get its answers; see above.")
            say("All requests are answered; waiting for the trainings that are due.", "bold")
            with closing(Observations(STORE)) as store:
                self._watch(running, until=lambda: self._all_is_learned(store))
            for record in records_up_to_now(self.consumer):  # the last announcement may be there
                self._take(record)

    def _all_is_learned(self, store: Observations) -> bool:
        stored = store.offsets()
        return (
            all(stored.get(partition, 0) >= offset for partition, offset in self.read.items())
            and store.training_due(settings.retrain_every) is None
            and store.unfinished_training() is None
        )

    def _complete(self, sample_app: "Honcho") -> bool:
        return sample_app.failed() or not self.summary.unanswered

    def _wait_for_predictors(self, running: "Honcho") -> None:
        deadline, members = time.monotonic() + READY_TIMEOUT, 0
        while members < self.arguments.predictors:
            time.sleep(0.2)
            if running.ended() or time.monotonic() > deadline:
                raise SystemExit("The predictor did not start; see above.")
            with suppress(KafkaError):  # a new broker has no coordinator for a moment
                members = len(group_members(PREDICTOR_GROUP))

    def _watch(self, running: "Honcho", until) -> None:
        deadline = (
            time.monotonic()
            + TRAINING_TIMEOUT
            + (self.arguments.messages * self.arguments.interval)
            + 2 * self.arguments.outcome_delay
        )
        while not until():
            for records in self.consumer.poll(timeout_ms=100).values():
                for record in records:
                    self._take(record)
            if running.ended() or time.monotonic() > deadline:
                raise SystemExit("The pipeline did not do its work; see above.")

    def _take(self, record: ConsumerRecord) -> None:
        self.read[TopicPartition(record.topic, record.partition)] = record.offset + 1
        if record.topic == APP_MESSAGES:
            self.summary.add_app_message(record.value, record.timestamp / 1000, time.time())
        elif record.topic == OUTCOMES_TOPIC:
            self.summary.add_outcome(decode_outcome(record.value))
        elif message := decode_control(record.value):
            self.summary.add_control_message(message)


class Honcho:
    """Some of the Procfile's processes, in a process group of their own; stopped at the end."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "honcho", "start", *arguments]
        self._process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)

    def __enter__(self) -> "Honcho":
        return self

    def __exit__(self, *_: object) -> None:
        ignore_signals()
        if not self.ended():
            self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def ended(self) -> bool:
        """True when its processes have ended."""
        return self._process.poll() is not None

    def failed(self) -> bool:
        """True when one of them has ended with an error."""
        return bool(self._process.poll())


def ignore_signals() -> None:
    """From here on things are stopped; a second Ctrl-C must not leave half of them running."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def demo(arguments: argparse.Namespace) -> int:
    """Run everything once and return the exit code."""
    if not Registry().ids():
        subprocess.run([sys.executable, "initialize.py"], cwd=ROOT, check=True)
    prepare_topics(read=(APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC, DEAD_LETTER_TOPIC))
    # The Procfile says "python": the one that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("messages", "interval", "outcome_delay"):
        os.environ[name.upper()] = str(getattr(arguments, name))
    run = Demo(arguments)
    try:
        run.run()
    finally:
        if run.summary.requests:
            Console().print(run.summary.table())
    trainings = run.summary.trainings
    if run.summary.unanswered or not trainings["completed"] + trainings["rejected"]:
        say("Not as promised: an answer is missing, or nothing was learned.", "bold red")
        return 1
    return 0


def main() -> None:
    """Run the demo, and stop what it started, also on Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=200, help="requests to send (200)")
    parser.add_argument("--interval", type=float, default=0.4, help="seconds between (0.4)")
    parser.add_argument("--outcome-delay", type=float, default=0, help="seconds (0: none)")
    parser.add_argument("--predictors", type=int, default=1, help="predictors to run (1)")
    arguments = parser.parse_args()
    if arguments.predictors < 1:
        parser.error("--predictors: expected a number above 0")
    for number in (signal.SIGTERM, signal.SIGHUP):  # whatever ends it, it cleans up after itself
        signal.signal(number, signal.default_int_handler)
    local = settings.kafka_security_protocol == "PLAINTEXT"  # none that we start has any other
    ours = local and not local_kafka.is_kafka(settings.kafka_host, timeout=2)
    try:
        if ours:
            say(local_kafka.start(settings.kafka_host, local_kafka.FOLDER))
        code = demo(arguments)
    except (local_kafka.BrokerError, Refused) as error:
        raise SystemExit(str(error)) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from None
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    finally:
        ignore_signals()
        if ours:
            say(local_kafka.stop(local_kafka.FOLDER))
    raise SystemExit(code)


if __name__ == "__main__":
    main()
