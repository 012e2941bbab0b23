"""How good the first model is, and how much a second optimization gains from past trials.

    python -m bench.tuning                # eight minutes on idle cores
    python -m bench.tuning --seeds 1      # a first look

1. The first model, as initialize.py makes it (on adult.test: see bench/retrain.py), on the kind of
   split for which CatBoost's quality benchmark published its figures: a random fifth of all rows
   held out (LightGBM, tuned: 0.2760). Beside it, the mean of the probabilities of three models with
   the same hyperparameters and other seeds: the gain of more trees of the same kind.
2. Two optimizations in a row: after the first one, 25 observations arrive. The second one, which
   knows the past trials, is compared with one from scratch on the same rows.
"""

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.clock import Clock
from bench.retrain import THREADS
from bench.retrain_once import FIRST, NEW
from train import optimizer_class
from train.fit import fit_features
from train.space import START
from train.train_hyperopt import LGBOptimizer
from utils.datasets import dataset
from utils.script import command_line

SHOWN = 1, 2, 3, 5, 10  # the evaluations after which the best loss is shown


def make_optimizer(kind: type, frame: pd.DataFrame, y: np.ndarray, seed: int, **settings):
    """Return (optimizer of these rows, their preprocessor)."""
    encoder, split = fit_features(frame, y, seed)
    X = encoder.transform(frame)
    return kind(X, y, split, encoder.names_out, seed=seed, **settings), encoder


def split(rows: tuple, seed: int) -> tuple:
    """Return frame and outcomes to train on, the same to measure on: 80 and 20 % of all rows."""
    frame, y, test, y_test = rows
    frame, y = pd.concat([frame, test], ignore_index=True), np.concatenate([y, y_test])
    held_out = np.random.default_rng(seed).permutation(len(y)) < len(y) // 5
    return frame[~held_out], y[~held_out], frame[held_out], y[held_out]


def first_model(rows: tuple, seed: int, threads: int, evals: int) -> dict:
    """Make the first model as initialize.py does, and measure it."""
    frame, y, test, y_test = split(rows, seed)
    start = Clock()
    optimizer, encoder = make_optimizer(LGBOptimizer, frame, y, seed=seed, num_threads=threads)
    booster = optimizer.optimize(evals, timeout=FIRST["timeout"], known_points=[START])
    seconds = start.seconds()
    X = encoder.transform(test)
    probabilities = [booster.predict(X)]
    for other in (1001, 1002):
        optimizer.fixed["seed"] = other
        probabilities.append(optimizer.fit(optimizer.best).predict(X))
    return {
        **seconds,
        "evaluations": len(optimizer.trials),
        "logloss": dataset.target.figures(y_test, probabilities[0])["logloss"],
        "three": dataset.target.figures(y_test, np.mean(probabilities, axis=0))["logloss"],
    }


def two_in_a_row(
    rows: tuple, hyper: str, seed: int, threads: int, evals: int
) -> dict[str, list[float]]:
    """Return the losses of a second optimization and of one from scratch, one per evaluation."""
    frame, y, test, y_test = rows
    more, y_more = pd.concat([frame, test[:NEW]]), np.concatenate([y, y_test[:NEW]])
    settings = {"seed": seed, "num_threads": threads}
    kind = optimizer_class(hyper)
    with tempfile.TemporaryDirectory() as folder:
        trials = Path(folder) / "trials.db"
        make_optimizer(kind, frame, y, trials_path=trials, **settings)[0].optimize(evals)
        second, _ = make_optimizer(kind, more, y_more, trials_path=trials, **settings)
        second.optimize(evals)
    scratch, _ = make_optimizer(kind, more, y_more, **settings)
    scratch.optimize(evals)
    return {
        "second": [trial["loss"] for trial in second.trials],
        "scratch": [trial["loss"] for trial in scratch.trials],
    }


def evaluations_to_reach(losses: list[float], level: float) -> int | None:
    """Return the number of evaluations until a loss is at most `level`; None if none is."""
    return next((n for n, loss in enumerate(losses, 1) if loss <= level), None)


def show_first(runs: list[dict]) -> None:
    """Print the quality and the cost of the first model."""
    title = "The first model, a random fifth of all rows held out (medians over the seeds)"
    columns = "s", "CPU s", "evaluations", "logloss", "lowest-highest", "mean of 3 models"
    table = Table(*columns, title=title)
    losses = [run["logloss"] for run in runs]
    table.add_row(
        f"{median(run['seconds'] for run in runs):.1f}",
        f"{median(run['cpu'] for run in runs):.1f}",
        f"{median(run['evaluations'] for run in runs):.0f}",
        f"{median(losses):.4f}",
        f"{min(losses):.4f}-{max(losses):.4f}",
        f"{median(run['three'] for run in runs):.4f}",
    )
    Console(width=110).print(table)


def show_second(results: dict[str, list[dict[str, list[float]]]], evals: int) -> None:
    """Print the best loss after some evaluations, and how many reach the best one from scratch."""
    shown = [n for n in SHOWN if n <= evals]
    table = Table(
        "optimization", *(f"after {n}" for n in shown), "to reach scratch's best",
        title="Held-out logloss, best so far (medians over the seeds), and evaluations needed",
    )  # fmt: skip
    for hyper, runs in results.items():
        for name in ("scratch", "second"):
            best = [median(min(run[name][:n]) for run in runs) for n in shown]
            needed = [evaluations_to_reach(run[name], min(run["scratch"])) for run in runs]
            reached = " ".join("never" if n is None else str(n) for n in needed)
            table.add_row(f"{hyper}, {name}", *(f"{loss:.4f}" for loss in best), reached)
    Console(width=110).print(table)


def main() -> None:
    """Measure, and print both tables."""
    parser = command_line(__doc__, "bench.tuning")
    parser.add_argument("--seeds", type=int, default=5, help="(5)")
    parser.add_argument("--threads", type=int, default=THREADS, help=f"({THREADS})")
    parser.add_argument("--evaluations", type=int, default=10, help="of an optimization (10)")
    most = FIRST["max_evals"]
    parser.add_argument("--first", type=int, default=most, help=f"of the first model ({most})")
    chosen = parser.parse_args()
    threads, evals = chosen.threads, chosen.evaluations
    first: list[dict] = []
    second: dict[str, list] = {"hyperopt": [], "optuna": []}
    steps = chosen.seeds * (1 + len(second))
    with tempfile.TemporaryDirectory() as folder, tqdm(total=steps, unit="run") as bar:
        dataset.prepare(Path(folder))
        rows = (*dataset.training(Path(folder)), *dataset.test(Path(folder)))
        for seed in range(1, chosen.seeds + 1):
            first.append(first_model(rows, seed, threads, chosen.first))
            bar.update()
            for hyper, found in second.items():
                found.append(two_in_a_row(rows, hyper, seed, threads, evals))
                bar.update()
    show_first(first)
    show_second(second, evals)


if __name__ == "__main__":
    main()
