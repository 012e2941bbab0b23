"""How long an answer takes, and the longest time without one, while other things happen."""

import json
import shutil
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from rich.table import Table
from tqdm import tqdm

from bench.arena import Arena, Case
from utils.model_store.registry import Registry

RELOAD_EVERY = 2.0  # seconds
WARM_UP = 2.0  # seconds of load that do not count


class Visitors:
    """Sends requests at a fixed rate and notes when each answer can be read by read_committed."""

    def __init__(self, case: Case, rate: float) -> None:
        self.sent: dict[str, float] = {}
        self.answered: dict[str, float] = {}
        self._case, self._rate = case, rate
        client = {"bootstrap.servers": case.host}
        self._producer = Producer(client | {"linger.ms": 0})
        self._consumer = Consumer(
            client | {"group.id": "visitors", "fetch.wait.max.ms": 500, "fetch.min.bytes": 1}
        )
        partitions = [TopicPartition(case.topic, n) for n in range(case.partitions)]
        for partition in partitions:
            partition.offset = self._consumer.get_watermark_offsets(partition)[1]
        self._consumer.assign(partitions)
        self._sending = threading.Event()

    def run(self, seconds: float, meanwhile: Callable[[float], object] | None = None) -> None:
        """Send for `seconds`, then wait for the last answer; meanwhile(seconds) runs beside it."""
        self._sending.set()
        threads = [
            threading.Thread(target=work, daemon=True)  # Ctrl-C does not wait for them
            for work in (self._send, self._observe)
        ]
        for thread in threads:
            thread.start()
        if meanwhile:
            meanwhile(seconds)
        else:
            time.sleep(seconds)
        self._sending.clear()
        for thread in threads:
            thread.join()
        self._consumer.close()

    def _send(self) -> None:
        rows, began, n = self._case.rows, time.monotonic(), 0
        while self._sending.is_set():
            request_id = f"visitor-{n}"
            value = json.dumps({"request_id": request_id, "data": rows[n % len(rows)]}).encode()
            self.sent[request_id] = time.monotonic()
            self._producer.produce(self._case.topic, value, partition=n % self._case.partitions)
            self._producer.poll(0)
            n += 1
            time.sleep(max(began + n / self._rate - time.monotonic(), 0))
        self._producer.flush()

    def _observe(self) -> None:
        deadline = float("inf")
        while self._sending.is_set() or len(self.answered) < len(self.sent):
            if not self._sending.is_set():
                deadline = min(deadline, time.monotonic() + 60)
            assert time.monotonic() < deadline, "requests without an answer"
            record = self._consumer.poll(0.05)  # consume() waits until it has several
            if record is None or b'"data"' in record.value():
                continue
            request_id = json.loads(record.value())["request_id"]
            assert request_id not in self.answered, "two answers"
            self.answered[request_id] = time.monotonic()

    def latencies(self) -> list[float]:
        """Return the milliseconds of each request after the warm-up, ascending."""
        begin = min(self.sent.values()) + WARM_UP
        taken = (self.answered[i] - t for i, t in self.sent.items() if t > begin)
        return sorted(seconds * 1e3 for seconds in taken)

    def longest_gap(self) -> float:
        """Return the longest time between two answers after the warm-up, in milliseconds."""
        times = sorted(self.answered.values())
        times = [t for t in times if t > times[0] + WARM_UP]
        return max(b - a for a, b in pairwise(times)) * 1e3


def row(visitors: Visitors) -> dict[str, float]:
    """Return the figures of a run."""
    found = visitors.latencies()
    return {
        "p50": found[len(found) // 2],
        "p99": found[int(len(found) * 0.99)],
        "max": found[-1],
        "longest gap": visitors.longest_gap(),
    }


@contextmanager
def pipeline(arena: Arena, models: Path, partitions: int = 1, **environment: str) -> Iterator[Case]:
    """A case whose trainer may write: it has copies of the data and of the models."""
    with arena.case(models, partitions, **environment) as case:
        own = arena.folder / case.prefix
        shutil.copytree(arena.folder / "data", own / "data")
        shutil.copytree(models, own / "models")
        case.environment |= {"DATA_DIR": str(own / "data"), "MODELS_DIR": str(own / "models")}
        case.create_topic("outcomes_topic")
        yield case


def undisturbed(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """Requests, and nothing else."""
    with pipeline(arena, models) as case:
        case.predictor()
        visitors = Visitors(case, rate)
        visitors.run(seconds)
        return row(visitors)


def training(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """The trainer tunes a model all the time, on the same cores."""
    with pipeline(arena, models, RETRAIN_EVERY="10") as case:
        case.predictor()
        case.requests(10)
        trainer = case.start("trainer.py", "--max-evals", "1000")
        case.wait_for_output(trainer, "Retraining:")
        visitors = Visitors(case, rate)
        visitors.run(seconds)
        assert not case.covered(), "the training ended too early"
        trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
        return row(visitors)


def reloads(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """Another model is announced every RELOAD_EVERY seconds."""
    with pipeline(arena, models) as case:
        registry = Registry(arena.folder / case.prefix / "models")
        first, second = publish_a_copy(registry)
        predictor = case.predictor()

        def announce(duration: float) -> None:
            for n in range(int(duration / RELOAD_EVERY)):
                time.sleep(RELOAD_EVERY)
                message = {"training_completed": True, "model_id": (second, first)[n % 2]}
                registry.promote(message["model_id"])
                case.send(message, topic="retrain_topic")
                case.producer.flush()

        visitors = Visitors(case, rate)
        visitors.run(seconds, announce)
        swaps = predictor.log.read_text().count("answers from now on")
        assert swaps >= int(seconds / RELOAD_EVERY) - 1, f"{swaps} reloads only"
        return row(visitors)


def publish_a_copy(registry: Registry) -> tuple[int, int]:
    """Publish the champion a second time, with another id; return both ids."""
    card = registry.card(registry.champion_id())
    content, other = registry.content(card), registry.newest_id() + 1
    registry.publish(msgspec.structs.replace(card, model_id=other), content)
    return card.model_id, other


def rebalances(arena: Arena, models: Path, rate: float, seconds: float) -> dict[str, float]:
    """A second predictor joins, and later leaves, on four partitions."""
    with pipeline(arena, models, 4) as case:
        case.predictor()

        def join_and_leave(duration: float) -> None:
            time.sleep(duration / 3)
            second = case.predictor(PREDICTOR_ID="predictor-1")
            time.sleep(duration / 3)
            second.send_signal(signal.SIGTERM)
            second.wait(30)
            time.sleep(duration / 3)

        visitors = Visitors(case, rate)
        visitors.run(seconds, join_and_leave)
        return row(visitors)


SITUATIONS = (
    ("50 requests/s", undisturbed, 50),
    ("500/s", undisturbed, 500),
    ("500/s, the trainer trains", training, 500),
    ("500/s, a new model every 2 s", reloads, 500),
    ("500/s on 4 partitions, a second predictor joins and leaves", rebalances, 500),
)


def latency_table(arena: Arena, models: dict[str, Path], rounds: int, seconds: float) -> Table:
    """Return the medians of all rounds; the ratio is to the p99 of the same rate, undisturbed."""
    cases = [(name, situation) for name in models for situation in SITUATIONS]
    found: dict[tuple, list[dict[str, float]]] = {case: [] for case in cases}
    for case in tqdm(cases * rounds, unit="run", disable=not sys.stderr.isatty()):
        name, (_, situation, rate) = case
        found[case].append(situation(arena, models[name] / "models", rate, seconds))
    columns = "p50", "p99", "max", "longest time without an answer", "p99, ratio to undisturbed"
    table = Table("latency, ms", "model", *columns)
    base = {
        (name, rate): runs
        for (name, (_, situation, rate)), runs in found.items()
        if situation is undisturbed
    }
    for (name, (title, _, rate)), runs in found.items():
        figures = [f"{statistics.median(run[key] for run in runs):.1f}" for key in runs[0]]
        pairs = zip(runs, base[name, rate], strict=True)
        ratio = statistics.median(run["p99"] / calm["p99"] for run, calm in pairs)
        table.add_row(title, name, *figures, f"{ratio:.2f}")
    return table
