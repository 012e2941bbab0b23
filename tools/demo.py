"""Runs the whole pipeline once: Kafka, initialize, predictor, trainer, sample app, a summary.

    python -m tools.demo --messages 200 --interval 0.4 --predictors 1 --brokers 1
    DATASET=shop python -m tools.demo

Starts Kafka if none is running, makes the first model if there is none, and runs the processes of
the Procfile. The monitor says where its page is: http://127.0.0.1:8501, unless MONITOR_PORT says
something else. When every request is answered and every training that is due has ended, it stops
what it started. The exit code is 1 if an answer is missing or no training has ended.
"""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError
from rich.console import Console

from tools import local_kafka
from tools.summary import Summary
from train.store.observations import Observations, open_store
from utils.console import say
from utils.datasets import dataset
from utils.files import ROOT
from utils.kafka_client.group import group_members
from utils.kafka_client.positions import read_from_now_on, records_up_to_now
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
from utils.script import command_line, run
from utils.settings import settings

READY_TIMEOUT = 60  # seconds in which the predictors have to join their group
LONGEST_DELAY = 5.0  # of outcomes by default, in seconds: nobody wants to wait for a summary
TRAINING_TIMEOUT = 300  # seconds, after the last answer, in which the trainings due have to end


class Demo:
    """One run of the pipeline, and what its topics contain."""

    def __init__(self, arguments: Namespace) -> None:
        self.arguments = arguments
        self.summary = Summary()
        self.read: dict[TopicPartition, int] = {}  # up to which offset
        self.consumer = read_from_now_on(APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC)

    def run(self) -> None:
        """Start all processes and watch the topics until all is done; SystemExit if it fails."""
        predictors = f"predictor={self.arguments.predictors}"
        with (
            honcho("monitor"),  # says where its page is; the demo goes on without it
            honcho("-c", predictors, "predictor", "trainer") as services,
            closing(self.consumer),
        ):
            self._wait_for_predictors(services)
            with honcho("sample_app") as sample_app:
                self._watch(services, until=lambda: self._is_answered(sample_app))
            if sample_app.returncode:
                raise SystemExit("The sample app did not get all answers; see above.")
            say("All requests are answered; waiting for the trainings that are due.", "bold")
            with closing(open_store()) as store:
                self._watch(services, until=lambda: self._is_learned(store))
            for record in records_up_to_now(self.consumer):  # the last announcement, perhaps
                self._add(record)

    def _wait_for_predictors(self, services: subprocess.Popen) -> None:
        deadline, members = time.monotonic() + READY_TIMEOUT, 0
        while members < self.arguments.predictors:
            time.sleep(0.2)
            if services.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The predictor did not start; see above.")
            with suppress(KafkaError):  # a new broker has no group coordinator for a moment
                members = len(group_members(PREDICTOR_GROUP))

    def _watch(self, services: subprocess.Popen, until: Callable[[], bool]) -> None:
        sending = self.arguments.messages * self.arguments.interval
        deadline = TRAINING_TIMEOUT + sending + 2 * self.arguments.outcome_delay + time.monotonic()
        while not until():
            for records in self.consumer.poll(timeout_ms=100).values():
                for record in records:
                    self._add(record)
            if services.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("A process ended, or took too long; see above.")

    def _is_answered(self, sample_app: subprocess.Popen) -> bool:
        code = sample_app.poll()
        return bool(code) or (code == 0 and not self.summary.unanswered)

    def _is_learned(self, store: Observations) -> bool:
        stored = {partition: position.offset for partition, position in store.positions().items()}
        return (
            all(stored.get(partition, 0) >= offset for partition, offset in self.read.items())
            and store.training_due(settings.retrain_every) is None
            and store.unfinished_training() is None
        )

    def _add(self, record: ConsumerRecord) -> None:
        self.read[TopicPartition(record.topic, record.partition)] = record.offset + 1
        if record.topic == APP_MESSAGES:
            self.summary.add_app_message(record.value, record.timestamp / 1000, time.time())
        elif record.topic == OUTCOMES_TOPIC:
            self.summary.add_outcome(decode_outcome(record.value))
        elif message := decode_control(record.value):
            self.summary.add_control_message(message)


@contextmanager
def honcho(*arguments: str) -> Iterator[subprocess.Popen]:
    """Run some of the Procfile's processes, in a session of their own, until the block ends."""
    command = [sys.executable, "-m", "honcho", "start", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        with signals_ignored():
            process.terminate()
            process.wait()


@contextmanager
def signals_ignored() -> Iterator[None]:
    """Ignore signals in the block: a second Ctrl-C must not leave processes running."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def demo(arguments: Namespace) -> bool:
    """Run everything once, print the summary, and return whether all went as promised."""
    if not Registry().ids():
        subprocess.run([sys.executable, "initialize.py"], cwd=ROOT, check=True)
    prepare_topics(read=(APP_MESSAGES, RETRAIN_TOPIC, OUTCOMES_TOPIC, DEAD_LETTER_TOPIC))
    # "python" in the Procfile is to be the Python that runs this.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("messages", "interval", "outcome_delay"):
        os.environ[name.upper()] = str(getattr(arguments, name))
    one_run = Demo(arguments)
    try:
        one_run.run()
    finally:
        if one_run.summary.requests:
            Console().print(one_run.summary.table())
    trainings = one_run.summary.trainings
    return not one_run.summary.unanswered and trainings["completed"] + trainings["rejected"] > 0


@contextmanager
def kafka(brokers: int = 1) -> Iterator[None]:
    """Run a local Kafka in the block, unless one is running; BrokerError if it does not start.

    Programs that are started in the block know all of its brokers.
    """
    plaintext = settings.kafka_security_protocol == "PLAINTEXT"  # as a local_kafka always is
    ours = plaintext and not local_kafka.is_kafka(settings.kafka_host, timeout=2)
    try:
        if ours:
            host, folder = settings.kafka_host, local_kafka.FOLDER
            say(local_kafka.start(host, folder, brokers=brokers))
            os.environ["KAFKA_HOST"] = local_kafka.hosts(folder) or host
        yield
    finally:
        if ours:
            with signals_ignored():
                say(local_kafka.stop(local_kafka.FOLDER))


def main() -> None:
    """Run the demo, and stop what it started, also on Ctrl-C."""
    parser = command_line(__doc__, "tools.demo")
    parser.add_argument("--messages", type=int, default=200, help="requests to send (200)")
    parser.add_argument("--interval", type=float, default=0.4, help="seconds between them (0.4)")
    delay = min(dataset.outcome_delay, LONGEST_DELAY)
    parser.add_argument("--outcome-delay", type=float, default=delay, help=f"seconds ({delay:g})")
    parser.add_argument("--predictors", type=int, default=1, help="predictors to run (1)")
    brokers = {"type": int, "choices": [1, local_kafka.CLUSTER], "default": 1}
    parser.add_argument("--brokers", **brokers, help="of the Kafka that it starts (1)")
    arguments = parser.parse_args()
    if arguments.predictors < 1:
        parser.error("--predictors: expected a number above 0")
    for number in (signal.SIGTERM, signal.SIGHUP):  # both clean up as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    try:
        with kafka(arguments.brokers):
            if not demo(arguments):
                raise SystemExit("An answer is missing, or no training has ended.")
    except local_kafka.BrokerError as error:
        raise SystemExit(str(error)) from None
    except subprocess.CalledProcessError as error:  # initialize.py has said why
        raise SystemExit(error.returncode) from None


if __name__ == "__main__":
    run(main)
