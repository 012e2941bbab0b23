"""How long one answer takes, and the longest time without one, whatever happens meanwhile."""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition
from rich.table import Table
from tqdm import tqdm

from bench.arena import Arena, Case, cpu_seconds
from tests.chaos.soak import memory
from tests.harness.pipeline import wait_until
from utils.files import ROOT

RELOAD_EVERY = 2.0  # seconds
WARM_UP = 2.0  # seconds of load that do not count


class Visitors:
    """Sends requests at a fixed rate and notes when each answer can be read (read_committed)."""

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
        """Send for so many seconds, then wait for the last answer; meanwhile(seconds) may help."""
        self._sending.set()
        threads = [
            threading.Thread(target=work, daemon=True)  # Ctrl-C waits for neither
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
            record = self._consumer.poll(0.05)  # consume() would wait for a number of them
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
        return max(b - a for a, b in zip(times, times[1:], strict=False)) * 1e3


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
def pipeline(arena: Arena, models, partitions: int = 1, **environment: str) -> Iterator[Case]:
    """A case whose trainer may write: with data and models of its own."""
    with arena.case(models, partitions, **environment) as case:
        own = arena.folder / case.prefix
        shutil.copytree(arena.folder / "data", own / "data")
        shutil.copytree(models, own / "models")
        case.environment |= {"DATA_DIR": str(own / "data"), "MODELS_DIR": str(own / "models")}
        case.create_topic("outcomes_topic")
        yield case


def calm(arena: Arena, models, rate: float, seconds: float) -> dict[str, float]:
    """Nothing but requests."""
    with pipeline(arena, models) as case:
        case.predictor()
        visitors = Visitors(case, rate)
        visitors.run(seconds)
        return row(visitors)


def training(arena: Arena, models, rate: float, seconds: float) -> dict[str, float]:
    """The trainer tunes for the whole time on the same cores."""
    with pipeline(arena, models, RETRAIN_EVERY="10") as case:
        case.predictor()
        case.requests(10)
        trainer = case.start("trainer.py", "--max-evals", "1000")
        case.wait_for_output(trainer, "Retraining:")
        visitors = Visitors(case, rate)
        visitors.run(seconds)
        assert "champion" not in trainer.log.read_text(), "the training ended too early"
        trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
        return row(visitors)


def reloads(arena: Arena, models, rate: float, seconds: float) -> dict[str, float]:
    """A model is announced every two seconds."""
    with pipeline(arena, models) as case:
        folder = arena.folder / case.prefix / "models"
        card = json.loads((folder / "model_0.json").read_bytes())
        shutil.copy(folder / "model_0.p", folder / "model_1.p")
        (folder / "model_1.json").write_text(json.dumps(card | {"model_id": 1}))
        predictor = case.predictor()

        def announce(duration: float) -> None:
            for n in range(int(duration / RELOAD_EVERY)):
                time.sleep(RELOAD_EVERY)
                message = {"training_completed": True, "model_id": 1 - n % 2}
                case.send(message, topic="retrain_topic")
                case.producer.flush()

        visitors = Visitors(case, rate)
        visitors.run(seconds, announce)
        swaps = predictor.log.read_text().count("answers from now on")
        assert swaps >= int(seconds / RELOAD_EVERY) - 1, f"{swaps} reloads only"
        return row(visitors)


def rebalances(arena: Arena, models, rate: float, seconds: float) -> dict[str, float]:
    """A second predictor comes, and later leaves, on four partitions."""
    with pipeline(arena, models, 4) as case:
        case.predictor()

        def come_and_go(duration: float) -> None:
            time.sleep(duration / 3)
            second = case.predictor(PREDICTOR_ID="predictor-1")
            time.sleep(duration / 3)
            second.send_signal(signal.SIGTERM)
            second.wait(30)
            time.sleep(duration / 3)

        visitors = Visitors(case, rate)
        visitors.run(seconds, come_and_go)
        return row(visitors)


SITUATIONS = (
    ("50/s", calm, 50),
    ("50/s, the trainer trains", training, 50),
    ("500/s", calm, 500),
    ("500/s, the trainer trains", training, 500),
    ("500/s, a reload every 2 s", reloads, 500),
    ("500/s, a second predictor comes and goes", rebalances, 500),
)


def latency_table(arena: Arena, models, rounds: int, seconds: float = 10) -> Table:
    """Return the medians of all rounds; the ratio is that of p99 to the same rate undisturbed."""
    found = {name: [] for name, _, _ in SITUATIONS}
    for name, situation, rate in tqdm(
        SITUATIONS * rounds, unit="run", disable=not sys.stderr.isatty()
    ):
        found[name].append(situation(arena, models, rate, seconds))
    table = Table("latency, ms", "p50", "p99", "max", "longest gap", "p99, ratio to calm")
    base = {rate: found[name] for name, situation, rate in SITUATIONS if situation is calm}
    for name, _, rate in SITUATIONS:
        runs = found[name]
        figures = [f"{statistics.median(run[key] for run in runs):.1f}" for key in runs[0]]
        ratios = [run["p99"] / calm["p99"] for run, calm in zip(runs, base[rate], strict=True)]
        table.add_row(name, *figures, f"{statistics.median(ratios):.2f}")
    return table


def start_table(arena: Arena, models, rounds: int) -> Table:
    """Return how long a predictor takes from its start to its first answer, and its memory."""
    imports = {
        "import numpy, lightgbm": "import numpy, lightgbm",
        "the same without pandas, scikit-learn": "import utils.quick_start",
    }
    found = {name: [] for name in (*imports, "first answer")}
    cpu, rest = [], []
    for _ in range(rounds):
        for name, code in imports.items():
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
            found[name].append(time.monotonic() - began)
        with arena.case(models) as case:
            case.send_until(1)
            began = time.monotonic()
            process = case.start("predictor.py")
            wait_until(lambda case=case: case.answered())
            found["first answer"].append(time.monotonic() - began)
            cpu.append(cpu_seconds(process.pid))
            rest.append(memory(process.pid))
    table = Table("start", "seconds")
    for name, values in found.items():
        table.add_row(name, f"{statistics.median(values):.2f}")
    *_, bare, first = found.values()
    beyond = statistics.median(a - b for a, b in zip(first, bare, strict=True))
    table.add_row("first answer, beyond the bare imports", f"{beyond:.2f}")
    table.add_row("CPU up to the first answer", f"{statistics.median(cpu):.2f}")
    table.add_row("memory at rest, MB", f"{statistics.median(rest):.0f}")
    return table
