"""How long a retraining takes, how good its model is, and what it costs in memory.

    python -m bench.retrain                # ten minutes on quiet cores
    python -m bench.retrain --seeds 1      # a first look

Retrains after 25 new observations, in one run: by the tutorial's procedure as published and with
its objective repaired (bench/tutorial.py), by ours from scratch, and by ours from a warm start, as
the trainer does it with 1, 3, 5 and 10 evaluations, or with what the trail knows alone. Then with
more rows. All get the same features, the same threads and a process of their own, which reports its
seconds (features, tuning and fit), its peak memory and the logloss on adult.test without the 25.

The larger sizes are adult.data resampled, each row with a new outcome, drawn with the probability
that a model of adult.data gives it: were the outcomes copied too, the rows held out would be known
from training, and early stopping would never stop.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import lightgbm as lgb
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench import tutorial
from train.fit import fit_model, score
from train.observations import Observations
from train.space import START
from train.train_hyperopt import LGBOptimizer
from train.training_process import TrainingProcess as Training
from train.warm_start import champion_points
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.files import ROOT
from utils.model_store.model import load, save
from utils.model_store.registry import Registry

THREADS = max((os.cpu_count() or 1) - 1, 1)  # as the trainer gives its child
ROWS = 32_561  # of adult.data
NEW = 25  # observations since the champion
FIRST = {"max_evals": 30, "timeout": 45}  # the defaults of initialize.py
PUBLISHED, REPAIRED = "tutorial, as published", "tutorial, objective repaired"
SCRATCH, WARM, TRAIL = "ours, from scratch", "ours, warm", "ours, warm by the trail alone"
FIRST_MODEL = "the first model, initialize.py"
CHILD = "the trainer's child, all in"
RUNS = [  # what, evaluations
    (PUBLISHED, 10), (REPAIRED, 10), (SCRATCH, 10), (TRAIL, 3),
    (WARM, 1), (WARM, 3), (WARM, 5), (WARM, 10),
]  # fmt: skip
LARGER = {  # rows -> the same, with fewer evaluations
    100_000: [(PUBLISHED, 3), (SCRATCH, 3), (WARM, 1)],
    1_000_000: [(PUBLISHED, 1), (WARM, 1)],
}


class Clock:
    """Begins at once, and tells the seconds since: by the wall, and of CPU of this process.

    On a machine with other work the CPU's tell more. They include ended child processes.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), self._cpu_time()

    @staticmethod
    def _cpu_time() -> float:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + ended.ru_utime + ended.ru_stime

    def seconds(self) -> dict[str, float]:
        """Return {"seconds": by the wall, "cpu": of CPU}."""
        return {"seconds": time.perf_counter() - self._wall, "cpu": self._cpu_time() - self._cpu}


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far; macOS counts in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def make_tools(frame: pd.DataFrame) -> FeatureTools:
    """Return the pipeline's preprocessor, fitted."""
    return FeatureTools(
        dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS, dataset.CROSSED_COLUMNS
    ).fit(frame)


def resample(frame: pd.DataFrame, y: np.ndarray, rows: int, seed: int) -> tuple:
    """Return so many rows drawn from these, with new outcomes; see the module's docstring."""
    rng = np.random.default_rng(seed)
    X = make_tools(frame).transform(frame)
    model = lgb.train({"objective": "binary", "verbosity": -1}, lgb.Dataset(X, y))
    drawn = rng.integers(0, len(frame), rows)
    outcomes = (rng.random(rows) < model.predict(X)[drawn]).astype(float)
    return frame.iloc[drawn].reset_index(drop=True), outcomes


def read_rows(folder: Path, rows: int, seed: int) -> tuple:
    """Return frame and outcomes to train on, the same of adult.test to measure on."""
    frame, y = dataset.read_training(folder)
    test, y_test = dataset.read_test(folder)
    if rows:
        frame, y = resample(frame, y, rows, seed)
    new = np.random.default_rng(seed).permutation(len(test)) < NEW
    frame = pd.concat([frame, test[new]], ignore_index=True)
    return frame, np.concatenate([y, y_test[new]]), test[~new], y_test[~new]


def run_one(folder: Path, what: str, evals: int, rows: int, seed: int, threads: int) -> dict:
    """Retrain in this process, and return what was measured."""
    frame, y, test, y_test = read_rows(folder, rows, seed)
    memory = {"rows": peak_megabytes()}
    start = Clock()
    tools = make_tools(frame)
    X = tools.transform(frame)
    memory["features"] = peak_megabytes()
    names, categorical = list(tools.get_feature_names_out()), tools.categorical_indices_
    if what in (PUBLISHED, REPAIRED):
        data = lgb.Dataset(X, y, feature_name=names, categorical_feature=categorical)
        booster = tutorial.retrain(
            data, max_evals=evals, repaired=what == REPAIRED, num_threads=threads, seed=seed
        )
    else:
        trail = None if what == SCRATCH else folder / "trail"
        optimizer = LGBOptimizer(
            X, y, names, categorical, num_threads=threads, seed=seed, trail=trail
        )
        memory["Dataset"] = peak_megabytes()
        known = champion_points(folder) if what == WARM else []
        booster = optimizer.optimize(evals, known_points=known)
    seconds = start.seconds()
    memory["tuning"] = peak_megabytes()
    logloss = score(y_test, booster.predict(tools.transform(test)))["logloss"]
    return {**seconds, "trees": booster.num_trees(), "logloss": logloss, "memory": memory}


def in_a_process(folder: Path, *arguments: object) -> dict:
    """Call run_one in a process of its own, on a copy of the folder."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        command = [sys.executable, "-m", "bench.retrain", "--run", copy, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def make_champion(folder: Path, seed: int, threads: int) -> dict:
    """Make the first model as initialize.py does, with its trail, and measure it."""
    frame, y = dataset.read_training(folder)
    start = Clock()
    model = fit_model(
        frame, y, model_id=0, hyper="hyperopt", seed=seed, num_threads=threads,
        known_points=[START], trail=folder / "trail", **FIRST,
    )  # fmt: skip
    seconds = start.seconds()
    save(model, Registry(folder))
    Registry(folder).promote(0)
    test, y_test = dataset.read_test(folder)
    logloss = score(y_test, model.predict(test))["logloss"]
    return {**seconds, "trees": model.booster.num_trees(), "logloss": logloss}


def time_child(folder: Path, evals: int, seed: int, threads: int) -> dict:
    """Run the trainer's child as it is, Python's start and reading included, and measure it."""
    test, y_test = dataset.read_test(folder)
    new = np.random.default_rng(seed).permutation(len(test)) < NEW
    rows = [json.dumps(row).encode() for row in test[new].to_dict("records")]
    with tempfile.TemporaryDirectory() as copy:
        folder = Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
        observations = Observations(folder / "observations.db")
        known = zip(rows, y_test[new], strict=True)
        observations.add([(str(n), *observed) for n, observed in enumerate(known)], 1, {})
        observations.close()
        start = Clock()
        training = Training(
            1, 1, store=folder / "observations.db", data=folder, models=folder,
            hyper="hyperopt", max_evals=evals, timeout=60, threads=threads,
        )  # fmt: skip
        while not training.has_ended():
            time.sleep(0.005)
        seconds = start.seconds()
        training.publish()
        model = load(Registry(folder), 1)
        training.close()
    logloss = score(y_test[~new], model.predict(test[~new]))["logloss"]
    return {**seconds, "trees": model.booster.num_trees(), "logloss": logloss}


def medians(results: list[dict]) -> dict:
    """Return the median over the seeds of each figure, and the range of the losses."""
    losses = [result["logloss"] for result in results]
    summary = {"range": f"{min(losses):.4f}-{max(losses):.4f}", "logloss": median(losses)}
    summary |= {n: median(result[n] for result in results) for n in ("seconds", "cpu", "trees")}
    if "memory" in results[0]:
        stages = results[0]["memory"]
        summary["memory"] = {s: median(r["memory"][s] for r in results) for s in stages}
    return summary


def show_retraining(results: dict[tuple[str, int], dict]) -> None:
    """Print the first table: a retraining after 25 observations, each way."""
    title = f"{NEW} new observations (medians over the seeds; share: of the tutorial's CPU time)"
    columns = "way", "evaluations", "s", "CPU s", "share", "trees", "logloss", "lowest-highest"
    table = Table(*columns, title=title)
    published = results[PUBLISHED, 10]["cpu"]
    for (what, evals), figures in results.items():
        share = "" if what == FIRST_MODEL else f"{figures['cpu'] / published:.2f}"
        seconds = (f"{figures[clock]:.1f}" for clock in ("seconds", "cpu"))
        logloss, trees = f"{figures['logloss']:.4f}", f"{figures['trees']:.0f}"
        table.add_row(what, str(evals), *seconds, share, trees, logloss, figures["range"])
    Console(width=130).print(table)


def show_growth(results: dict[tuple[int, str, int], dict]) -> None:
    """Print the second table: seconds and peak memory by the number of rows."""
    table = Table(
        "rows", "way", "evals", "s", "CPU s", "trees", "logloss",
        "rows read", "features", "Dataset", "tuning",
        title="With more rows (memory: MB, the peak until the end of each step)",
    )  # fmt: skip
    for (rows, what, evals), figures in results.items():
        memory = figures["memory"]
        table.add_row(
            f"{rows:,}", what, str(evals), f"{figures['seconds']:.1f}", f"{figures['cpu']:.1f}",
            f"{figures['trees']:.0f}", f"{figures['logloss']:.4f}",
            *(f"{memory[step]:.0f}" if step in memory else "" for step in (
                "rows", "features", "Dataset", "tuning")),
        )  # fmt: skip
    Console(width=130).print(table)


def bench(seeds: int, threads: int, sizes: list[int]) -> None:
    """Run everything and print both tables."""
    runs = [(0, what, evals) for what, evals in RUNS]
    larger = [(rows, *run) for rows in sizes for run in LARGER[rows]]
    results: dict[tuple, list[dict]] = {}
    steps = seeds * (2 + len(runs)) + len(larger)
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="run") as bar:
        data = Path(folder) / "data"
        data.mkdir()
        dataset.fetch(data, url="", say=lambda _: None)  # the project's own copy

        def measure(key: tuple, run: Callable[..., dict], *arguments: object) -> None:
            bar.set_postfix_str(" ".join(map(str, key)))
            results.setdefault(key, []).append(run(*arguments))
            bar.update()

        for seed in range(1, seeds + 1):
            home = Path(shutil.copytree(data, Path(folder) / f"seed-{seed}"))
            measure((FIRST_MODEL, FIRST["max_evals"]), make_champion, home, seed, threads)
            for rows, what, evals in runs:
                measure((what, evals), in_a_process, home, what, evals, rows, seed, threads)
            measure((CHILD, 1), time_child, home, 1, seed, threads)
        small = {key: medians(found) for key, found in results.items()}
        show_retraining(small)
        for rows, what, evals in larger:
            key = rows, what, evals
            measure(key, in_a_process, home, what, evals, rows, 1, threads)
    growth = {(ROWS + NEW, *key): small[key] for key in [(PUBLISHED, 10), (SCRATCH, 10), (WARM, 1)]}
    show_growth(growth | {key: medians(results[key]) for key in larger})


def main() -> None:
    """Measure and print, or, with --run, be the process that is measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5, help="of the first table (default: 5)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"(default: {THREADS})")
    parser.add_argument("--rows", type=int, nargs="*", choices=LARGER, default=list(LARGER))
    parser.add_argument("--run", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.run:
        return bench(arguments.seeds, arguments.threads, arguments.rows)
    folder, what, *numbers = arguments.run
    print(json.dumps(run_one(Path(folder), what, *map(int, numbers))))
    return None


if __name__ == "__main__":
    main()
