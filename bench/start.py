"""How long a predictor takes to start, and how it works off a large backlog."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.table import Table

from bench.arena import Arena, cpu_seconds
from bench.models import copy_champion
from tests.harness.object_store import ObjectStore
from tests.harness.pipeline import memory, wait_until
from utils.files import ROOT
from utils.model_store.registry import Registry

IMPORTS = {
    "import numpy, lightgbm": "import numpy, lightgbm",
    "the predictor's import of them, without pandas and scikit-learn": (
        "import utils.model_store.model"
    ),
}
SHARES = (0.1, 0.5, 0.9)  # of a backlog, at which the memory is shown


def start_table(arena: Arena, models: dict[str, Path], rounds: int) -> Table:
    """Return the time from the start of a predictor to its first answer, and its memory."""
    table = Table("start", "seconds", "CPU seconds", "memory at rest, MB")
    for name, code in IMPORTS.items():
        seconds = statistics.median(seconds_to_run(code) for _ in range(rounds))
        table.add_row(name, f"{seconds:.2f}")
    for name, folder in models.items():
        add_row(table, name, [first_answer(arena, folder / "models") for _ in range(rounds)])
    with models_elsewhere(arena, next(iter(models.values())) / "models") as url:
        name = f"{next(iter(models))}, in an object store"
        add_row(table, name, [first_answer(arena, url) for _ in range(rounds)])
    return table


def add_row(table: Table, name: str, runs: list[tuple[float, float, float]]) -> None:
    """Add the medians of some runs."""
    seconds, cpu, resident = map(statistics.median, zip(*runs, strict=True))
    table.add_row(f"first answer, {name}", f"{seconds:.2f}", f"{cpu:.2f}", f"{resident:.0f}")


@contextmanager
def models_elsewhere(arena: Arena, models: Path) -> Iterator[str]:
    """Copy the champion into an object store on this machine; the value is its URL."""
    (arena.folder / "objects").mkdir()
    store, before = ObjectStore(arena.folder / "objects"), dict(os.environ)
    store.start()
    os.environ.update(store.environment)
    try:
        url = f"s3://{store.bucket}/start"
        copy_champion(Registry(models), Registry(url))
        yield url
    finally:
        store.kill()
        for name in store.environment.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def seconds_to_run(code: str) -> float:
    """Return the seconds that a new Python takes to run this code."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return time.monotonic() - began


def first_answer(arena: Arena, models: Path | str) -> tuple[float, float, float]:
    """Return seconds and CPU seconds to a predictor's first answer, and its memory then in MB."""
    with arena.case(models) as case:
        case.send_until(1)
        began = time.monotonic()
        process = case.start("predictor.py")
        wait_until(case.answered)
        return time.monotonic() - began, cpu_seconds(process.pid), memory(process.pid)


def backlog_table(arena: Arena, models: dict[str, Path], requests: int) -> Table:
    """Return how long requests take that wait when a predictor starts, and its memory meanwhile."""
    table = Table(
        f"backlog of {requests:,} requests", "seconds", "requests/s", "us of CPU a request",
        *(f"MB at {share:.0%}" for share in SHARES), "peak, MB",
    )  # fmt: skip
    for name, folder in models.items():
        table.add_row(name, *drain(arena, folder / "models", requests))
    return table


def drain(arena: Arena, models: Path, requests: int) -> list[str]:
    """Let a predictor answer a backlog; return the cells of the table."""
    with arena.case(models) as case:
        case.send_until(requests)
        began = time.monotonic()
        process = case.start("predictor.py")
        samples: list[tuple[float, float]] = []  # share that is answered, MB

        def sample() -> None:
            samples.append((case.answered() / requests, memory(process.pid)))

        figures = case.measure([process.pid], requests, waiting=requests, meanwhile=sample)
        seconds, peak = time.monotonic() - began, memory(process.pid, "VmHWM")
    samples.append((1.0, samples[-1][1]))
    resident = [next(mb for done, mb in samples if done >= share) for share in SHARES]
    cells = [f"{seconds:.0f}", f"{figures.rate:,.0f}", f"{figures.cpu:.1f}"]
    return [*cells, *(f"{mb:.0f}" for mb in (*resident, peak))]
