"""The requests per second that predictor.py answers, beside those of bench/loops.py.

A round takes about two minutes with 100,000 requests and three models.
"""

import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from tqdm import tqdm

from bench.arena import Arena, Case, Figures, median

SLOW_REQUESTS = 1_500  # at most, for the usual way
PREDICTOR = "predictor.py"
ECHO = "(a) bare echo: kafka-python, no work"
USUAL = "(c) the usual way: one by one, pandas"
C_CLIENT = "(d) same work, confluent-kafka"
LOOPS = {ECHO: "echo", USUAL: "usual", C_CLIENT: "c-client"}  # their names in bench/loops.py
OWN_MODEL = "its own, 100 trees"


class Contender(NamedTuple):
    """What answers, with which model, on how many partitions, in how many processes."""

    program: str
    model: str
    partitions: int = 1
    processes: int = 1


def groups(models: dict[str, Path]) -> list[list[Contender]]:
    """Return the contenders; the ratios of a group refer to its first one.

    What does not use the model of a group is in all groups, and measured once.
    """
    alone = [Contender(ECHO, "none"), Contender(USUAL, OWN_MODEL)]
    compared = [[Contender(PREDICTOR, m), *alone, Contender(C_CLIENT, m)] for m in models]
    last = list(models)[-1]
    shared = [Contender(PREDICTOR, last, 4), Contender(PREDICTOR, last, 4, 2)]
    return [*compared, shared]


def start(case: Case, contender: Contender) -> list[int]:
    """Start the processes of a contender and return their pids."""
    loop = LOOPS.get(contender.program)
    command = ["-m", "bench.loops", loop] if loop else ["predictor.py"]
    names = [f"predictor-{n}" for n in range(contender.processes)]
    return [case.start(*command, PREDICTOR_ID=name).pid for name in names]


def contest(arena: Arena, models: Path, contender: Contender, requests: int) -> Figures:
    """Measure one contender, for which requests always wait."""
    requests = min(SLOW_REQUESTS, requests) if contender.program == USUAL else requests
    with arena.case(models, contender.partitions) as case:
        return case.measure(start(case, contender), requests)


def throughput_table(arena: Arena, models: dict[str, Path], rounds: int, requests: int) -> Table:
    """Return how many requests a second each contender answers, and the cost of one of them."""
    compared = groups(models)
    contenders = list(dict.fromkeys(contender for group in compared for contender in group))
    found: dict[Contender, list[Figures]] = {contender: [] for contender in contenders}
    for contender in tqdm(contenders * rounds, unit="run", disable=not sys.stderr.isatty()):
        folder = models.get(contender.model, next(iter(models.values()))) / "models"
        found[contender].append(contest(arena, folder, contender, requests))
    table = Table(
        "throughput", "model", "partitions", "processes", "requests/s", "us of CPU",
        "of Kafka's CPU", "cores", "first row / this row: rate", "CPU",
    )  # fmt: skip
    for group in compared:
        for contender in group:
            table.add_row(*map(str, contender), *cells(found[group[0]], found[contender]))
        table.add_section()
    return table


def cells(first: list[Figures], runs: list[Figures]) -> list[str]:
    """Return a contender's figures, and the ratios of the group's first one to them."""
    figures, pairs = median(runs), list(zip(first, runs, strict=True))
    return [
        f"{figures.rate:,.0f}",
        f"{figures.cpu:.1f}",
        f"{figures.broker_cpu:.1f}",
        f"{figures.cores:.2f}",
        f"{statistics.median(base.rate / run.rate for base, run in pairs):.2f}",
        f"{statistics.median(base.cpu / run.cpu for base, run in pairs):.2f}",
    ]
