"""How long a retraining takes, how good its model is, and how much memory it needs.

    python -m bench.retrain                # eight minutes on idle cores
    python -m bench.retrain --seeds 1      # a first look

Retrains after 25 new observations by the tutorial's procedure, as published and with its objective
repaired (bench/tutorial.py), and by ours: from scratch, and warm, as the trainer does it. Then with
more rows. All get the same features, the same number of threads and a process of their own
(bench/retrain_once.py).
"""

import os
import tempfile
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.retrain_once import (
    CHILD,
    FIRST,
    INITIAL,
    NEW,
    PAST_TRIALS,
    PUBLISHED,
    REPAIRED,
    SCRATCH,
    WARM,
    in_a_process,
)
from utils.datasets import dataset
from utils.script import command_line

THREADS = max((os.cpu_count() or 1) - 1, 1)  # as the trainer gives its child
ROWS = 32_561  # of adult.data
RUNS = [  # way, evaluations
    (PUBLISHED, 10), (REPAIRED, 10), (SCRATCH, 10),
    (PAST_TRIALS, 3), (WARM, 1), (WARM, 5), (CHILD, 1),
]  # fmt: skip
LARGER = [(PUBLISHED, 1), (WARM, 1)]  # with more rows
SIZES = [100_000, 1_000_000]
STEPS = ("rows", "features", "Dataset", "tuning")  # after which the peak memory is taken

Runs = dict[tuple[str, int], list[dict]]  # (way, evaluations) -> figures, one for each seed


def medians(results: list[dict]) -> dict:
    """Return the median over the seeds of each figure, and the range of the losses."""
    losses = [result["logloss"] for result in results]
    summary = {"range": f"{min(losses):.4f}-{max(losses):.4f}", "logloss": median(losses)}
    summary |= {n: median(result[n] for result in results) for n in ("seconds", "cpu", "trees")}
    if memory := results[0].get("memory"):
        summary["memory"] = {s: median(result["memory"][s] for result in results) for s in memory}
    return summary


def retraining_table(results: Runs) -> Table:
    """Return the first table: a retraining after NEW observations, in each way."""
    title = f"{NEW} new observations (medians over the seeds; share: of the tutorial's CPU time)"
    columns = "way", "evaluations", "s", "CPU s", "share", "trees", "logloss", "lowest-highest"
    table = Table(*columns, title=title)
    figures_of = {key: medians(runs) for key, runs in results.items()}
    published = next(found["cpu"] for (way, _), found in figures_of.items() if way == PUBLISHED)
    for (way, evals), figures in figures_of.items():
        share = "" if way == INITIAL else f"{figures['cpu'] / published:.2f}"
        table.add_row(way, str(evals), *_times(figures), share, *_quality(figures))
    return table


def growth_table(results: dict[int, Runs]) -> Table:
    """Return the second table: seconds and peak memory by the number of rows."""
    title = "With more rows (memory: the peak in MB after each step)"
    columns = "rows", "way", "evaluations", "s", "CPU s", "trees", "logloss"
    table = Table(*columns, *STEPS, title=title)
    for rows, runs in results.items():
        for (way, evals), found in runs.items():
            figures = medians(found)
            memory = [figures["memory"].get(step) for step in STEPS]
            shown = ["" if peak is None else f"{peak:.0f}" for peak in memory]
            quality = _quality(figures)[:2]
            table.add_row(f"{rows:,}", way, str(evals), *_times(figures), *quality, *shown)
    return table


def _times(figures: dict) -> list[str]:
    return [f"{figures['seconds']:.1f}", f"{figures['cpu']:.1f}"]


def _quality(figures: dict) -> list[str]:
    return [f"{figures['trees']:.0f}", f"{figures['logloss']:.4f}", figures["range"]]


def bench(seeds: int, threads: int, sizes: list[int], most: int) -> tuple[Runs, dict[int, Runs]]:
    """Measure everything; `most` limits the evaluations of each run."""
    limited = [(way, min(evals, most)) for way, evals in RUNS]
    first = min(FIRST["max_evals"], most)
    results: Runs = {}
    larger: dict[int, Runs] = {rows: {} for rows in sizes}
    steps = seeds * (1 + len(limited)) + len(sizes) * len(LARGER)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="run") as bar:
        for seed in range(1, seeds + 1):
            home = Path(folder) / f"seed-{seed}"
            dataset.prepare(home)
            found = in_a_process(home, INITIAL, first, 0, seed, threads, keep=True)
            results.setdefault((INITIAL, first), []).append(found)
            bar.update()
            for way, evals in limited:
                found = in_a_process(home, way, evals, 0, seed, threads)
                results.setdefault((way, evals), []).append(found)
                bar.update()
        for rows in sizes:
            for way, evals in LARGER:
                larger[rows][way, evals] = [in_a_process(home, way, evals, rows, 1, threads)]
                bar.update()
    same = {key: runs for key, runs in results.items() if key[0] in (PUBLISHED, WARM)}
    return results, {ROWS + NEW: same} | larger


def main() -> None:
    """Measure, and print both tables."""
    parser = command_line(__doc__, "bench.retrain")
    parser.add_argument("--seeds", type=int, default=3, help="of the first table (3)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"({THREADS})")
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES, help="(100000 1000000)")
    parser.add_argument("--evaluations", type=int, default=30, help="of a run, at most (30)")
    chosen = parser.parse_args()
    results, larger = bench(chosen.seeds, chosen.threads, chosen.rows, chosen.evaluations)
    Console(width=130).print(retraining_table(results))
    Console(width=130).print(growth_table(larger))


if __name__ == "__main__":
    main()
