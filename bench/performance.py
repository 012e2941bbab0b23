"""Every figure about speed in one run, side by side on one broker, as tables with ratios.

    python -m bench.performance                      (make bench; a quarter of an hour)
    python -m bench.performance --only throughput split --rounds 3

Starts a broker of its own in a temporary folder and runs the real predictor.py there, in turns with
what it is compared with (bench/loops.py). All figures are medians of the rounds; ratios are made in
each round, as the speed of a machine drifts. Needs the packages of requirements-bench.txt; Linux
only (/proc).
"""

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.harness.brokers import free_port
from tqdm import tqdm

from bench.arena import Arena, Case, Figures, median
from bench.growth import backlog_table, growth_table
from bench.latency import latency_table, start_table
from utils.console import say

SECTIONS = ("throughput", "split", "latency", "start", "growth", "backlog")
REQUESTS = 100_000  # a case has so many
USUAL_REQUESTS = 1_500  # for the usual way, which is slow
# What answers, with which model, on how many partitions, as how many processes; in each group the
# first one is what the others' ratios refer to.
GROUPS = (
    (
        ("predictor.py", "small", 1, 1),
        ("(a) echo, no work at all", "small", 1, 1),
        ("(b) the same without a model", "small", 1, 1),
        ("(c) the usual way", "small", 1, 1),
        ("(d) confluent-kafka, bare", "small", 1, 1),
    ),
    (("predictor.py", "tuned", 1, 1), ("(d) confluent-kafka, bare", "tuned", 1, 1)),
    (
        ("predictor.py", "small", 4, 1),
        ("predictor.py", "small", 4, 2),
        ("(a) echo, no work at all", "small", 4, 1),
        ("(d) confluent-kafka, bare", "small", 4, 1),
    ),
)
LOOPS = {"(a)": "echo", "(b)": "no-model", "(c)": "usual", "(d)": "c-client"}


def start(case: Case, who: str, number: int) -> list[int]:
    """Start so many processes of a contender and return their pids."""
    loop = LOOPS.get(who[:3])
    command = ["-m", "bench.loops", loop] if loop else ["predictor.py"]
    names = [f"predictor-{n}" for n in range(number)]
    return [case.start(*command, PREDICTOR_ID=name).pid for name in names]


def contest(arena: Arena, models: dict[str, Path], contender: tuple) -> Figures:
    """Let one contender answer requests of which there are always enough."""
    who, model, partitions, number = contender
    requests = USUAL_REQUESTS if "usual" in who else REQUESTS * (2 if partitions > 1 else 1)
    with arena.case(models[model], partitions) as case:
        return case.measure(start(case, who, number), requests)


def throughput_table(arena: Arena, models: dict[str, Path], rounds: int) -> Table:
    """Return how many requests a second each contender answers, and what one of them costs."""
    contenders = [contender for group in GROUPS for contender in group]
    found: dict[tuple, list[Figures]] = {contender: [] for contender in contenders}
    for contender in tqdm(contenders * rounds, unit="run", disable=not sys.stderr.isatty()):
        found[contender].append(contest(arena, models, contender))
    table = Table(
        "throughput", "model", "partitions", "processes", "requests/s", "us of CPU",
        "of Kafka's CPU", "cores", "predictor.py: times as fast", "times the CPU",
    )  # fmt: skip
    for group in GROUPS:
        for contender in group:
            who, model, partitions, number = contender
            figures, runs = median(found[contender]), found[contender]
            pairs = list(zip(found[group[0]], runs, strict=True))
            table.add_row(
                who,
                model,
                str(partitions),
                str(number),
                f"{figures.rate:,.0f}",
                f"{figures.cpu:.1f}",
                f"{figures.broker_cpu:.1f}",
                f"{figures.cores:.2f}",
                f"{statistics.median(first.rate / run.rate for first, run in pairs):.2f}",
                f"{statistics.median(first.cpu / run.cpu for first, run in pairs):.2f}",
            )
        table.add_section()
    return table


def split_table(arena: Arena, models: Path, rounds: int) -> Table:
    """Return where the CPU time of a request goes: all threads of the process, by step."""
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with arena.case(models) as case:
            process = case.start("-m", "bench.loops", "profile")
            case.measure([process.pid], REQUESTS)
            found.append(json.loads(process.log.read_text().splitlines()[-1]))
    table = Table("us of CPU a request", "", "share")
    medians = {key: statistics.median(run[key] for run in found) for key in found[0]}
    for step, cost in medians.items():
        table.add_row(step, f"{cost:.1f}", f"{cost / sum(medians.values()):.0%}")
    table.add_row("all", f"{sum(medians.values()):.1f}", "")
    return table


def run(arena: Arena, sections: list[str], rounds: int) -> None:
    """Print the table of each section."""
    models = {"small": arena.add_model("small", num_boost_round=100, num_leaves=31)}
    if "throughput" in sections:
        models["tuned"] = arena.add_model("tuned")
    makers = {
        "throughput": lambda: throughput_table(arena, models, rounds),
        "split": lambda: split_table(arena, models["small"], rounds),
        "latency": lambda: latency_table(arena, models["small"], rounds),
        "start": lambda: start_table(arena, models["small"], rounds),
        "growth": lambda: growth_table(arena, rounds),
        "backlog": lambda: backlog_table(arena, models["small"]),
    }
    for section in sections:
        Console(width=160).print(makers[section]())


def main() -> None:
    """Measure what the command line asks for."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    parser = argparse.ArgumentParser(
        prog="python -m bench.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (5)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    arena = None
    try:
        arena = Arena(folder, f"localhost:{free_port()}")
        run(arena, arguments.only, arguments.rounds)
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)
    finally:
        if arena:
            arena.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
