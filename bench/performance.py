"""All figures about speed in one run, on one broker, as tables with ratios.

    python -m bench.performance                     # three rounds: about an hour
    python -m bench.performance --only throughput   # about 20 minutes, with --rounds 5 too
    python -m bench.performance --models FOLDER     # the next run uses the models of this one

Starts a broker of its own in a temporary folder, makes the models that users get (bench/models.py),
which takes ten minutes or more, and runs the real predictor.py with them, in turn with the programs
it is compared with (bench/loops.py). Figures are medians of the rounds; ratios are made within each
round, as the speed of a machine drifts. Linux only (/proc).
"""

import signal
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.arena import Arena
from bench.growth import growth_table
from bench.latency import latency_table
from bench.models import make_models, models_table
from bench.split import split_table
from bench.start import backlog_table, start_table
from bench.stream import unseen_rows
from bench.throughput import throughput_table
from tests.harness.brokers import own_pipeline
from tests.harness.pipeline import Pipeline
from utils.console import say
from utils.script import command_line

SECTIONS = ("throughput", "split", "latency", "start", "growth", "backlog")
BACKLOG = 5  # times the requests of the other cases


def tables(pipeline: Pipeline, chosen: Namespace) -> Iterator[Table]:
    """Yield the table of the models, then the table of each section."""
    models = make_models(pipeline, chosen.trainings, chosen.models or pipeline.folder / "kept")
    yield models_table(models, unseen_rows(max(chosen.trainings)))
    arena, rounds, requests = Arena(pipeline), chosen.rounds, chosen.requests
    if "throughput" in chosen.only:
        yield throughput_table(arena, models, rounds, requests)
    if "split" in chosen.only:
        yield split_table(arena, models, rounds, requests)
    if "latency" in chosen.only:
        ends = dict(list(models.items())[:: max(len(models) - 1, 1)])  # the first and the last
        yield latency_table(arena, ends, rounds, chosen.seconds)
    if "start" in chosen.only:
        yield start_table(arena, models, rounds)
    if "growth" in chosen.only:
        yield growth_table(models, rounds)
    if "backlog" in chosen.only:
        yield backlog_table(arena, models, requests * BACKLOG)


def parse_arguments() -> Namespace:
    """Return the options of the command line."""
    parser = command_line(__doc__, "bench.performance")
    add = parser.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections (all)")
    add("--rounds", type=int, default=3, help="runs of each case (3)")
    add("--requests", type=int, default=100_000, help="of a throughput case (100000)")
    add("--seconds", type=float, default=8, help="of a latency case (8)")
    add("--trainings", type=int, nargs="+", default=[30, 200], help="before a champion (30 200)")
    add("--models", type=Path, help="keep the models there, or use those of an earlier run")
    add("--evaluations", type=int, help="of the first model (the default of initialize.py)")
    return parser.parse_args()


def main() -> None:
    """Measure and print; exit code 130 after Ctrl-C or SIGTERM."""
    chosen = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    options = ["--max-evals", str(chosen.evaluations)] if chosen.evaluations else []
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            own_pipeline(Path(folder), "bench-", *options) as pipeline,
        ):
            for table in tables(pipeline, chosen):
                Console(width=160).print(table)
    except KeyboardInterrupt:
        say("Stopped.")
        sys.exit(130)


if __name__ == "__main__":
    main()
