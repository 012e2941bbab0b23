"""What it costs the predictor to be observed: metrics and monitor on, against off, in turn.

    python -m bench.observed --rounds 5
    python -m bench.observed --keep-up 5000000    # does the monitor keep up, and what does it use?

Starts a broker of its own and the real predictor.py with the model that initialize.py makes. On
means METRICS_PORT, scraped every second, and monitor.py with its page, archive and all else that it
does by default, once it has logged the model. The ratios are made within each round. Linux only
(/proc).
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.arena import Arena, Case, cpu_seconds
from bench.telemetry import scraped
from bench.visitors import Visitors
from tests.harness.brokers import own_pipeline
from tests.harness.pipeline import memory, wait_until
from tests.harness.scraping import get
from tools.local_kafka import free_port
from utils.script import command_line

RATE = 500  # requests/s, for the latency
CAUGHT_UP = 60  # seconds after the last answer
WAITING = 10_000  # requests: a quarter of a second, so that the predictor never waits for one


class Observed(Case):
    """A case whose predictor is observed, or not."""

    def observe(self) -> None:
        """Start the monitor, and give the predictor a port."""
        self.page, self.metrics = free_port(), free_port()
        shutil.copytree(self.folder / "data", self.environment["DATA_DIR"])
        self.monitor = self.start("monitor.py", MONITOR_PORT=str(self.page))
        self.environment["METRICS_PORT"] = str(self.metrics)
        wait_until(self.snapshot, what="the monitor's page")
        # The model is logged to MLflow once, which is no part of what is measured here.
        logged = Path(self.environment["DATA_DIR"]) / "mlflow_logged.json"
        wait_until(logged.exists, what="the model in MLflow")

    def snapshot(self) -> dict | None:
        """Return what the monitor knows, None while it starts."""
        status, text = get(self.page, "/snapshot.json")
        return json.loads(text) if status == 200 else None


def run(arena: Arena, models: Path, number: int, on: bool, requests: int, seconds: float) -> dict:
    """Return rate, CPU and latencies of one run."""
    name = f"observed{number}-"
    case = Observed(arena, name, models, 1, {"DATA_DIR": str(arena.folder / name)})
    with case, observing(case) if on else nullcontext():
        predictor = case.start("predictor.py")
        figures = case.measure([predictor.pid], requests)
        if on:  # as in use, it has no backlog
            wait_until(lambda: case.snapshot()["flow"]["predictions"] >= requests, CAUGHT_UP)
        visitors = Visitors(case, RATE)
        visitors.run(seconds)
        latencies = visitors.latencies()
    p50, p99 = latencies[len(latencies) // 2], latencies[int(len(latencies) * 0.99)]
    return {"rate": figures.rate, "cpu": figures.cpu, "p50": p50, "p99": p99}


@contextmanager
def observing(case: Observed) -> Iterator[None]:
    """Observe a case in the block."""
    case.observe()
    with scraped(case.metrics):
        yield


def cost_table(arena: Arena, rounds: int, requests: int, seconds: float) -> Table:
    """Return the medians, and the ratios of on to off."""
    found: dict[bool, list[dict]] = {False: [], True: []}
    models = arena.folder / "models"
    for number in tqdm(range(2 * rounds), unit="run", disable=not sys.stderr.isatty()):
        # The second of a round is the first of the next: neither is always later.
        on = number % 4 in (1, 2)
        found[on].append(run(arena, models, number, on, requests, seconds))
    table = Table("observed", "requests/s", "us of CPU", "p50, ms", "p99, ms", title="medians")
    for on, runs in found.items():
        cells = (f"{statistics.median(each[name] for each in runs):,.1f}" for name in runs[0])
        table.add_row("on" if on else "off", *cells)
    pairs = list(zip(found[True], found[False], strict=True))
    ratios = [[on[name] / off[name] for on, off in pairs] for name in pairs[0][0]]
    table.add_row("on / off", *(f"{statistics.median(each):.3f}" for each in ratios))
    table.add_row("(range)", *(f"{min(each):.2f} to {max(each):.2f}" for each in ratios))
    return table


def keep_up(arena: Arena, requests: int) -> Table:
    """Return what the monitor uses while the predictor answers at its full rate."""
    own = {"DATA_DIR": str(arena.folder / "full")}
    case = Observed(arena, "full-", arena.folder / "models", 1, own)
    with case, observing(case):
        predictor, monitor = case.start("predictor.py"), case.monitor.pid
        figures = case.measure([predictor.pid], requests, WAITING)
        answered = time.monotonic()
        wait_until(lambda: case.snapshot()["flow"]["unanswered"] == 0, 600, "all read")
        wait_until(lambda: case.snapshot()["flow"]["predictions"] >= requests, 600, "all read")
        late, found = time.monotonic() - answered, case.snapshot()
        cpu, now, most = cpu_seconds(monitor), memory(monitor), memory(monitor, "VmHWM")
        case.monitor.terminate()
        case.monitor.wait(60)
        table = Table("the monitor at the predictor's full rate", "")
        for name, value in {
            "requests": f"{found['flow']['requests']:,}",
            "answered, requests/s": f"{figures.rate:,.0f}",
            "the monitor has read all after": f"{late:.1f} s",
            "its CPU": f"{cpu / requests * 1e6:.1f} us a request",
            "its memory": f"{now:,.0f} MB, at most {most:,.0f} MB",
            "its files": f"{sum(f.stat().st_size for f in files(arena)) / 1e6:,.0f} MB",
            "its notes": "; ".join(found["following"]["notes"]),
            "alone, it reads": f"{requests / seconds_to_read(case):,.0f} requests/s",
        }.items():
            table.add_row(name, value)
        return table


def seconds_to_read(case: Observed) -> float:
    """Return how long a monitor takes to read all of it while nothing else runs, with its start."""
    began = time.monotonic()
    case.start("monitor.py", "--once", DATA_DIR=str(case.folder / "again")).wait(600)
    return time.monotonic() - began


def files(arena: Arena) -> list[Path]:
    """Return the files of the monitor of keep_up()."""
    return [path for path in (arena.folder / "full").rglob("*") if path.is_file()]


def main() -> None:
    """Measure and print."""
    parser = command_line(__doc__, "bench.observed")
    parser.add_argument("--rounds", type=int, default=5, help="on and off, each so often (5)")
    parser.add_argument("--requests", type=int, default=100_000, help="of a run (100000)")
    parser.add_argument("--seconds", type=float, default=8, help="at 500 requests/s (8)")
    parser.add_argument("--keep-up", type=int, help="answer so many requests at full rate instead")
    chosen = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="observed-") as folder,
        own_pipeline(Path(folder), "observed-") as pipeline,
    ):
        arena = Arena(pipeline)
        if chosen.keep_up:
            table = keep_up(arena, chosen.keep_up)
        else:
            table = cost_table(arena, chosen.rounds, chosen.requests, chosen.seconds)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
