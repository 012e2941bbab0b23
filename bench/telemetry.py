"""What METRICS_PORT costs: counting, a scrape, and the predictor's speed with it and without.

    python -m bench.telemetry                 # eight rounds: about ten minutes
    python -m bench.telemetry --rounds 4 --requests 50000

Starts a broker of its own in a temporary folder. In each round the predictor answers all requests
once without METRICS_PORT and once with it, scraped every second, in turn; ratios are made within
each round. Counting is always on, so its cost is measured alone. Linux only (/proc).
"""

import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace

from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from rich.table import Table

from bench.arena import Arena
from bench.latency import pipeline, row
from bench.visitors import Visitors
from monitoring.metrics.exposition import Exposition
from tests.harness.brokers import own_pipeline
from tests.harness.scraping import get
from tools.local_kafka import free_port
from utils.kafka_client.batch import Batch, SizeLimits
from utils.script import command_line, run

SCRAPE_EVERY = 1.0  # seconds
RATE = 200  # requests/s, where latency is measured


def counting_table() -> Table:
    """Return what counting a batch and answering a scrape take."""
    table = Table("cost", "us of CPU")
    for size in (1, 1_000, 4_000):
        batch = Batch({}, None, {}, SizeLimits())
        batch.answered = [SimpleNamespace(timestamp=time.time() * 1000) for _ in range(size)]
        table.add_row(f"counting a batch of {size:,}", f"{microseconds(batch.note_committed):.1f}")
    registry = CollectorRegistry()
    registry.register(Exposition("predictor"))
    table.add_row(
        "a scrape, without HTTP", f"{microseconds(lambda: generate_latest(registry)):.0f}"
    )
    return table


def microseconds(call: Callable[[], object]) -> float:
    """Return the CPU time of a call, the shortest of several measurements."""
    timer = timeit.Timer(call, timer=time.process_time)
    number, _ = timer.autorange()
    return min(timer.repeat(5, number)) / number * 1e6


@contextmanager
def scraped(port: int) -> Iterator[None]:
    """Scrape a script every second while the block runs; port 0: don't."""
    ended = Event()

    def scrape() -> None:
        while port and not ended.wait(SCRAPE_EVERY):
            get(port, "/metrics")

    thread = Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def throughput(arena: Arena, requests: int, port: int) -> dict[str, float]:
    """Return how fast a predictor answers; port 0: without metrics."""
    with arena.case(arena.folder / "models") as case, scraped(port):
        pid = case.start("predictor.py", METRICS_PORT=str(port)).pid
        figures = case.measure([pid], requests)
    return {"requests/s": figures.rate, "us of CPU a request": figures.cpu}


def latency(arena: Arena, seconds: float, port: int) -> dict[str, float]:
    """Return how long answers take at RATE."""
    with pipeline(arena, arena.folder / "models") as case, scraped(port):
        case.predictor(METRICS_PORT=str(port))
        visitors = Visitors(case, RATE)
        visitors.run(seconds)
        return {f"{name}, ms": value for name, value in row(visitors).items()}


def compared(name: str, measure: Callable[[int], dict[str, float]], rounds: int) -> Table:
    """Measure without and with metrics in turn; return medians, and those of the rounds' ratios."""
    off, on = [], []
    for number in range(rounds):  # the first of a pair may find a warmer machine: change the order
        for runs, port in ((off, 0), (on, free_port()))[:: 1 if number % 2 else -1]:
            runs.append(measure(port))
    table = Table(name, "METRICS_PORT off", "on", "on / off: median", "least", "most")
    for figure in off[0]:
        before, after = [each[figure] for each in off], [each[figure] for each in on]
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        values = statistics.median(before), statistics.median(after)
        shown = [f"{value:,.1f}" for value in values]
        shown += [f"{each:.3f}" for each in (statistics.median(ratios), min(ratios), max(ratios))]
        table.add_row(figure, *shown)
    return table


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__, "bench.telemetry")
    parser.add_argument(
        "--rounds",
        type=int,
        default=8,
        help="pairs of runs (8); even: each goes first equally often",
    )
    parser.add_argument("--requests", type=int, default=60_000, help="of a run (60000)")
    parser.add_argument("--seconds", type=float, default=8, help="of a latency run (8)")
    chosen = parser.parse_args()
    show = Console(width=120).print
    show(counting_table())
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        own_pipeline(Path(folder), "bench-") as made,
    ):
        arena, rounds = Arena(made), chosen.rounds
        show(compared("throughput", lambda port: throughput(arena, chosen.requests, port), rounds))
        title = f"latency at {RATE}/s"
        show(compared(title, lambda port: latency(arena, chosen.seconds, port), rounds))


if __name__ == "__main__":
    run(main)
