"""Changes the outcomes half-way and compares the pipeline with a model that is never retrained.

    python -m bench.drift --requests 48000
    DATASET=shop python -m bench.drift --interval 0.005    # time for its slower trainings

Runs predictor.py, trainer.py and `sample_app.py --drift` with late outcomes on a broker of its own
and shows the progress; the page of its monitor, at MONITOR_PORT, shows it live. Then prints the
figures of the answers, one row for each RETRAIN_EVERY requests, beside those that the first model
would have given. For the shop, whose probabilities are known, it also prints the best ones that are
possible.
"""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from kafka import KafkaConsumer
from rich.console import Console
from rich.table import Table

from tests.harness.brokers import QUICK, own_pipeline
from tests.harness.pipeline import Pipeline
from utils.answers import IS_NUMBER, scores_of
from utils.console import say
from utils.datasets import dataset
from utils.messages import Prediction, decode_outcome, decode_reply
from utils.model_store.model import Model, load_champion
from utils.model_store.registry import Registry
from utils.script import command_line
from utils.settings import settings

BATCHES = 12  # RETRAIN_EVERY is this part of the requests
WINDOW = 1.5  # TRAIN_WINDOW is this times RETRAIN_EVERY
SHOW_EVERY = 5.0  # seconds
SHOWN = ("squared_error", "absolute_error") if IS_NUMBER else ("logloss", "accuracy")


class Follower:
    """Reads the topics of a pipeline while they grow."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.requests: dict[str, dict] = {}  # request_id -> data, in the order sent
        self.answers: dict[str, Prediction] = {}
        self.outcomes: dict[str, float] = {}
        self.announcements: list[dict] = []
        self.model_id = 0  # of the newest answer
        take = {
            "app_messages": self._take_app_message,
            "outcomes_topic": self._take_outcome,
            "retrain_topic": self._take_control,
        }
        self._take = {pipeline.prefix + topic: method for topic, method in take.items()}
        self._consumer = KafkaConsumer(
            *self._take,
            bootstrap_servers=pipeline.host,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )

    def read(self) -> None:
        """Take what has arrived since the last call."""
        for partition, records in self._consumer.poll(timeout_ms=500).items():
            for record in records:
                self._take[partition.topic](record.value)

    def _take_app_message(self, value: bytes) -> None:
        if reply := decode_reply(value):
            self.answers[reply.request_id] = reply
            self.model_id = reply.model_id
        else:
            message = json.loads(value)
            self.requests[message["request_id"]] = message["data"]

    def _take_outcome(self, value: bytes) -> None:
        request_id, outcome = decode_outcome(value)
        self.outcomes[request_id] = outcome

    def _take_control(self, value: bytes) -> None:
        if "retrain" not in (message := json.loads(value)):
            self.announcements.append(message)

    def covered(self) -> int:
        """Return how many retrain requests the trainings so far cover."""
        found = (m.get("retrain_requests_covered", 0) for m in self.announcements)
        return max(found, default=0)

    def progress(self) -> str:
        """Return one line about the run so far."""
        completed = sum("training_completed" in m for m in self.announcements)
        rejected = sum("training_rejected" in m for m in self.announcements)
        return (
            f"{len(self.requests):,} requests, {len(self.answers):,} answered; model "
            f"{self.model_id} answers; {completed} models promoted, {rejected} rejected"
        )

    def follow(self, until: Callable[[], bool], timeout: float) -> None:
        """Read, and show the progress, until the condition holds; SystemExit after `timeout` s."""
        deadline, shown = time.monotonic() + timeout, 0.0
        while not until():
            self.read()
            if time.monotonic() - shown > SHOW_EVERY:
                say(self.progress())
                shown = time.monotonic()
            if time.monotonic() > deadline:
                raise SystemExit(f"Not finished after {timeout:g} s: {self.progress()}")

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()


def run(pipeline: Pipeline, requests: int, interval: float) -> Follower:
    """Send all requests; return when they are answered and the trainings that are due are done."""
    every = max(requests // BATCHES, 1)
    pipeline.environment |= {"RETRAIN_EVERY": str(every), "TRAIN_WINDOW": str(int(every * WINDOW))}
    start_monitor(pipeline)
    pipeline.predictor()
    pipeline.trainer()
    follower = Follower(pipeline)
    options = ["--drift", "--outcome-delay", "1", "--messages", str(requests)]
    options += ["--interval", str(interval)]
    app = pipeline.start("sample_app.py", *options)
    follower.follow(lambda: app.poll() is not None, timeout=1_200)
    if app.returncode:
        raise SystemExit(app.log.read_text()[-500:])
    due = requests * 9 // 10 // every  # some outcomes never come

    def finished() -> bool:
        return follower.covered() >= due and len(follower.answers) >= requests

    follower.follow(finished, timeout=300)
    say(follower.progress())
    follower.close()
    return follower


def start_monitor(pipeline: Pipeline) -> None:
    """Start the monitor of the pipeline, and say where its page is, or why there is none."""
    if settings.monitor_port:
        monitor = pipeline.start("monitor.py", MONITOR_PORT=str(settings.monitor_port))
        pipeline.wait_for_output(monitor, " page")
        say(next(line for line in monitor.log.read_text().splitlines() if " page" in line), "bold")


def figures(found: Follower, first: Model, every: int) -> Table:
    """Return the table: for each `every` requests the answers' quality, and the first model's."""
    requests = list(found.requests)
    places = [place for place, each in enumerate(requests) if each in found.outcomes]
    truth = np.array([found.outcomes[requests[place]] for place in places])
    scores = {
        "": np.array([scores_of(found.answers[requests[place]]) for place in places]),
        "never retrained: ": first.predict([found.requests[requests[place]] for place in places]),
    }
    if dataset.name == "shop":
        scores["best possible: "] = best_scores(list(found.requests.values()))[places]
    columns = [who + name for who in scores for name in SHOWN]
    table = Table("requests with outcomes", "models", *columns)
    for start in range(0, len(places), every):
        part = slice(start, start + every)
        models = sorted({found.answers[requests[place]].model_id for place in places[part]})
        quality = [dataset.target.figures(truth[part], each[part]) for each in scores.values()]
        rows = f"{start + 1:,} to {start + len(truth[part]):,}"
        cells = (f"{each[name]:,.3f}" for each in quality for name in SHOWN)
        table.add_row(rows, ", ".join(map(str, models)), *cells)
    return table


def best_scores(rows: list[dict]) -> np.ndarray:
    """Return the shop's own probabilities for all requests of a run, in the order sent."""
    import pandas as pd

    from utils.datasets import shop

    season = shop.season(np.arange(len(rows)), drift_at=len(rows) // 2)
    frame = pd.DataFrame([dataset.defaults | row for row in rows])
    return dataset.true_scores(frame.assign(season=season))


def main() -> None:
    """Do one run and print its table."""
    parser = command_line(__doc__, "bench.drift")
    parser.add_argument("--requests", type=int, default=48_000, help="to send (48000)")
    parser.add_argument("--interval", type=float, default=0, help="seconds between them (0)")
    arguments = parser.parse_args()
    requests = arguments.requests
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    with (
        suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="drift-") as folder,
        own_pipeline(Path(folder), "drift-", *QUICK) as pipeline,
    ):
        first, _ = load_champion(Registry(Path(folder) / "models"))
        found = run(pipeline, requests, arguments.interval)
        for message in found.announcements:
            say(json.dumps(message)[:230])
        Console(width=130).print(figures(found, first, max(requests // BATCHES, 1)))
        return
    sys.exit(130)


if __name__ == "__main__":
    main()
