"""Simulates a production day in an hour, and watches memory, disk, loss and latency.

    python -m tests.chaos.day                                 # 10 million requests, 60 minutes
    python -m tests.chaos.day --minutes 5 --requests 500000   # a shorter hour

The rate of requests rises and falls as over a day. Their outcomes are reported late, and some
never. Kafka deletes old messages, the store old observations. Runs a broker, a predictor and a
trainer of its own in a temporary folder; the load is a client that shares no code with them. The
exit code is 1 if a request was not answered exactly once, or if a process has ended.
"""

import json
import math
import shutil
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from operator import itemgetter
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from tests.chaos.traffic import HOURS, PARTITIONS, Traffic
from tests.harness.brokers import own_pipeline
from tests.harness.pipeline import Pipeline, memory
from utils.console import say
from utils.script import command_line

TICK = 0.05  # seconds
ANSWERS_TIMEOUT = 120  # seconds for the last answers
BROKER = {"log.retention.check.interval.ms": "5000"}
MESSAGES_KEPT = {"retention.bytes": str(2**30), "segment.bytes": str(2**27)}  # by partition

COLUMNS = (
    "hour|answered|p50 ms|p99 ms|model|logloss|above least|predictor MB|trainer|training|store"
)
COLUMNS += "|trials|models|Kafka"


class Day:
    """The processes of one simulated day, and its traffic."""

    def __init__(self, pipeline: Pipeline, options: Namespace) -> None:
        self._pipeline, self._options = pipeline, options
        pipeline.environment |= {
            "RETRAIN_EVERY": str(options.retrain_every),
            "TRAIN_WINDOW": str(options.window),
            "OBSERVATIONS_KEEP": str(options.keep),
            "PARTITIONS": str(PARTITIONS),
        }
        pipeline.create_topic("app_messages", PARTITIONS, configs=MESSAGES_KEPT)
        self._scripts = {"predictor": pipeline.predictor(), "trainer": pipeline.trainer()}
        self._peak = 0.0
        self.traffic = Traffic(pipeline, options.requests, options.minutes * 60 / HOURS)

    def run(self) -> None:
        """Send the day's requests, then wait for the last answers."""
        sizes_at = time.monotonic()
        for number in self._ticks():
            began, hour = time.monotonic(), self.traffic.hour
            self.traffic.send(number)
            if began >= sizes_at:
                self.traffic.hours[hour].sizes, sizes_at = self._sizes(), began + 2
            self.traffic.read(max(TICK - (time.monotonic() - began), 0.005))
            if self.traffic.hour != hour:
                self._peak = 0.0
        deadline = time.monotonic() + ANSWERS_TIMEOUT
        while not self.traffic.answers.all() and time.monotonic() < deadline:
            self.traffic.send(0)
            self.traffic.read(0.5)
        self.traffic.hours[-1].sizes = self._sizes()

    def _ticks(self) -> Iterator[int]:
        """Yield the number of requests of each tick: most in the evening, few at night."""
        total, seconds = self._options.requests, self._options.minutes * 60
        began, done = time.monotonic(), 0
        with tqdm(total=total, unit=" requests", disable=not sys.stderr.isatty()) as progress:
            while done < total:
                part = min((time.monotonic() - began) / seconds, 1.0)
                # The integral of 1 - 0.7 cos(2 pi part).
                due = round(total * (part - 0.7 * math.sin(2 * math.pi * part) / (2 * math.pi)))
                number = min(due - done, 20_000)
                progress.update(number)
                yield number
                done += number

    def _sizes(self) -> dict[str, float]:
        folder = self._pipeline.folder
        self._peak = max([self._peak, *(memory(p, "VmHWM") for p in self._pipeline.children())])
        sizes = {name: memory(script.pid) for name, script in self._scripts.items()}
        sizes["training"] = self._peak
        for name, pattern in (
            ("store", "data/observations.*"),
            ("trials", "data/trials.*"),
            ("models", "models/*"),
            ("Kafka", "kafka/data/**/*"),
        ):
            sizes[name] = _megabytes(folder, pattern)
        return sizes

    def violations(self) -> list[str]:
        """Return what should not have happened."""
        lost, doubled = (self.traffic.answers == 0).sum(), (self.traffic.answers > 1).sum()
        found = [f"{n} requests {what}" for n, what in ((lost, "lost"), (doubled, "doubled")) if n]
        for name, script in self._scripts.items():
            if script.poll() is not None or "Traceback" in script.log.read_text():
                found.append(f"the {name} failed: see {script.log}")
        return found

    def table(self) -> Table:
        """Return the figures of each simulated hour."""
        control = self._pipeline.messages("retrain_topic")
        kinds = ("training_completed", "training_rejected", "training_failed")
        ends = {kind: sum(kind in message for message in control) for kind in kinds}
        cards = self._pipeline.folder.glob("models/model_*.json")
        last = max(
            map(json.loads, (card.read_bytes() for card in cards)), key=itemgetter("model_id")
        )
        title = f"{self.traffic.sent:,} requests, {', '.join(f'{n} {k}' for k, n in ends.items())}"
        title += f"; the trainer missed {last.get('missed_records', 0):,} records"
        table = Table(*COLUMNS.split("|"), title=title)
        for hour, figures in enumerate(self.traffic.hours):
            if figures.answered or figures.sizes:
                table.add_row(*figures.row(hour))
        return table


def _megabytes(folder: Path, pattern: str) -> float:
    size = 0
    for path in folder.glob(pattern):
        try:
            size += path.stat().st_blocks * 512
        except FileNotFoundError:  # deleted a moment ago
            continue
    return size / 2**20


def parse_arguments() -> Namespace:
    """Return the options that the command line gives."""
    parser = command_line(__doc__, "tests.chaos.day")
    parser.add_argument("--minutes", type=float, default=60, help="of the simulated day (60)")
    parser.add_argument("--requests", type=int, default=10_000_000, help="(10000000)")
    parser.add_argument("--retrain-every", type=int, default=100_000, help="(100000)")
    parser.add_argument("--window", type=int, default=500_000, help="TRAIN_WINDOW (500000)")
    parser.add_argument("--keep", default="2000000", help="OBSERVATIONS_KEEP (2000000)")
    return parser.parse_args()


def run(options: Namespace) -> list[str]:
    """Simulate one day, print its table, and return the violations."""
    folder, violations = Path(tempfile.mkdtemp(prefix="day-")), ["it was not completed"]
    try:
        with own_pipeline(folder, "day-", properties=BROKER) as pipeline:
            day = Day(pipeline, options)
            with closing(day.traffic):
                day.run()
                violations = day.violations()
                Console(width=180).print(day.table())
    finally:
        if violations:
            say(f"Logs, data and models are kept in {folder}")
        else:
            shutil.rmtree(folder)
    for violation in violations:
        say(f"VIOLATION: {violation}", "bold red")
    return violations


if __name__ == "__main__":
    sys.exit(1 if run(parse_arguments()) else 0)
