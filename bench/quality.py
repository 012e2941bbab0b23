"""How good models are, for each data set, beside what is reachable and what needs no tuning.

    python -m bench.quality                            # all data sets: two minutes on idle cores
    python -m bench.quality --only shop --seeds 1      # a first look

Each model is made with several seeds; the table has the median loss and the range. Fewer than 1,000
test rows are other ones for each seed, and there are ten times the seeds, because a model that is
the best one on 100 rows may be the worst one on the next 100. Models:

- initialize.py's model, made as initialize.py makes it. It leaves out a tenth of the original rows,
  which are for the judge. A retrained one is made as trainer.py makes it, with one evaluation.
- LightGBM with its defaults: 100 rounds, its own treatment of categories, all original rows.

Beside them are the loss of the mean outcome of the measured rows, as if a model knew it, and, where
the data are generated, that of the true probabilities. `reached` is how much of the way from the
first to the second a model has gone. For the shop a drift follows, at visit 0: each retrained model
is measured on the visits that come after those it has seen.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import lightgbm as lgb
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from bench.retrain_once import FIRST
from train.fit import fit_model
from train.held_out import Split
from train.rows import LabeledRows, original_rows
from train.space import START
from train.warm_start import champion_points
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.model_store.model import Model
from utils.script import command_line
from utils.settings import DATASETS

Predict = Callable[[pd.DataFrame], np.ndarray]  # features -> scores
FEW = 1_000  # test rows
SEEN = 3_000, 12_000  # visits since the drift after which the shop's model is trained again


def initial_model(original: LabeledRows, seed: int) -> Model:
    """Return a model as initialize.py makes it, however long that takes."""
    return _model(original, seed, known_points=[START], max_evals=FIRST["max_evals"])


def retrained(rows: LabeledRows, champion: Model, seed: int) -> Predict:
    """Return the predictions of a model as trainer.py makes it."""
    points = champion_points(champion.card)
    return _model(rows, seed, known_points=points, max_evals=1).predict


def _model(rows: LabeledRows, seed: int, **tuning) -> Model:
    rows = rows[~rows.held_out(Split.of_first_model(rows.frame))]
    return fit_model(rows.frame, rows.outcomes, model_id=0, hyper="hyperopt", seed=seed, **tuning)


def plain_lightgbm(rows: LabeledRows, seed: int) -> Predict:
    """Return the predictions of LightGBM with its defaults."""
    tools = FeatureTools(dataset.numeric, dataset.categorical).fit(rows.frame)
    data = lgb.Dataset(
        tools.transform(rows.frame),
        rows.outcomes,
        categorical_feature=tools.categorical_indices_,
    )
    parameters = dataset.target.objective | {"verbosity": -1, "seed": seed}
    booster = lgb.train(parameters, data)
    return lambda frame: booster.predict(tools.transform(frame))


class Measurements:
    """The losses of models, by their names and those of the rows that they were measured on."""

    def __init__(self) -> None:
        self.losses: dict[tuple[str, str], list[float]] = {}
        self.limits: dict[str, list[tuple[float, float]]] = {}  # mean outcome, best possible

    def add(self, name: str, predict: Predict, where: str, rows: pd.DataFrame) -> None:
        """Measure a model on rows like those of read_test(), with what else they carry."""
        frame, outcomes = dataset.checked(rows, where)
        true = dataset.true_scores(rows)
        best = math.nan if true is None else _loss(outcomes, true)
        self.losses.setdefault((name, where), []).append(_loss(outcomes, predict(frame)))
        constant = _loss(outcomes, dataset.target.constant(outcomes))
        self.limits.setdefault(where, []).append((constant, best))

    def table(self) -> Table:
        """Return all figures, one row a model."""
        limits = "mean outcome", "best possible", "reached"
        title = f"{dataset.name}: {dataset.target.loss}"
        table = Table(title, "measured on", "median", "range", *limits)
        shown = dataset.target.shown
        for (name, where), losses in self.losses.items():
            constant, best = np.median(self.limits[where], axis=0)
            loss, course = median(losses), f"{shown(min(losses))} to {shown(max(losses))}"
            reached = f"{(constant - loss) / (constant - best):.0%}", shown(best)
            known = ("", "") if math.isnan(best) else reached[::-1]
            table.add_row(name, where, shown(loss), course, shown(constant), *known)
        return table


def _loss(outcomes: np.ndarray, scores: np.ndarray) -> float:
    return float(dataset.target.losses(outcomes, scores).mean())


def measure(folder: Path, seeds: int) -> Measurements:
    """Measure the models of the data set that DATASET names."""
    dataset.prepare(folder)
    original, test, found = original_rows(folder), dataset.read_test(folder), Measurements()
    where, are_few = dataset.test_rows, len(test) < FEW
    if are_few:
        seeds *= 10
        everything = pd.concat([dataset.read_training(folder), test])
        where = f"{len(test)} of {len(everything)} rows, {seeds} times"
    for seed in tqdm(range(1, seeds + 1), dataset.name, leave=False, disable=None):
        if are_few:
            shuffled = everything.sample(frac=1, random_state=seed)
            test, original = shuffled[: len(test)], labeled(shuffled[len(test) :])
        first = initial_model(original, seed)
        found.add("initialize.py's model", first.predict, where, test)
        found.add("LightGBM with its defaults", plain_lightgbm(original, seed), where, test)
        if dataset.name == "shop":
            measure_drift(original, first, seed, found)
    return found


def labeled(rows: pd.DataFrame) -> LabeledRows:
    """Return rows like those of read_training() as those to train on."""
    frame, outcomes = dataset.checked(rows, "read_training()")
    names = {name: frame[name].astype("category") for name in dataset.categorical}
    return LabeledRows(frame.assign(**names), outcomes)


def measure_drift(original: LabeledRows, first: Model, seed: int, found: Measurements) -> None:
    """Measure the shop's first model after a drift, and models trained on visits since."""
    from utils.datasets.shop import TEST, visits

    after = visits(0, TEST, seed=3, drift_at=0)
    found.add("initialize.py's model", first.predict, f"{TEST:,} visits after the drift", after)
    for count in SEEN:
        seen = labeled(visits(0, count, seed=3, drift_at=0))
        following = visits(count, TEST, seed=3, drift_at=0)
        for name, rows in {
            f"retrained on the original rows and {count:,} visits": original + seen,
            f"retrained on {count:,} visits, TRAIN_WINDOW={count}": seen,
        }.items():
            where = f"the {TEST:,} visits after {count:,}"
            found.add(name, retrained(rows, first, seed), where, following)


def main() -> None:
    """Print a table for each data set, each measured by a process of its own."""
    parser = command_line(__doc__, "bench.quality")
    parser.add_argument("--only", choices=DATASETS, help="this data set (all)")
    parser.add_argument("--seeds", type=int, default=3, help="models of each kind (3)")
    chosen = parser.parse_args()
    if chosen.seeds < 1:
        parser.error(f"--seeds: expected a number above 0, got {chosen.seeds}")
    if chosen.only == dataset.name:
        with tempfile.TemporaryDirectory(prefix="quality-") as folder:
            found = measure(Path(folder), chosen.seeds)
        Console(width=180).print(found.table())
        return
    for name in [chosen.only] if chosen.only else DATASETS:
        options = ["--only", name, "--seeds", str(chosen.seeds)]
        command = [sys.executable, "-m", "bench.quality", *options]
        if code := subprocess.run(command, env=os.environ | {"DATASET": name}).returncode:
            sys.exit(code)


if __name__ == "__main__":
    main()
