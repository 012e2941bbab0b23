"""How good models are, for each data set, beside what is reachable and what needs no tuning.

    python -m bench.quality                            # all data sets: five minutes on idle cores
    python -m bench.quality --only shop --seeds 1      # a first look

Each model is made with several seeds; the table has the median loss and the range. Models:

- initialize.py's model, made as initialize.py makes it. It leaves out a tenth of the original rows,
  which are for the judge. A retrained one is made as trainer.py makes it, with one evaluation.
- LightGBM with its defaults: 100 rounds, its own treatment of categories, all original rows.

Beside them are the loss of the best constant scores, which know the outcomes of the measured rows,
and, where the data are generated, the loss of the true probabilities. `reached` is how much of the
way from the first to the second a model has gone. For the shop a drift follows at visit 0: each
retraining is measured on the visits that come after those it has seen.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
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
from train.rows import LabeledRows, is_for_judge, original_rows
from train.space import START
from train.warm_start import champion_points
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.model_store.model import Model
from utils.script import command_line
from utils.settings import DATASETS

Predict = Callable[[pd.DataFrame], np.ndarray]  # features -> scores
SEEN = 3_000, 12_000  # visits since the drift after which the shop's model is trained again


def initial_model(original: LabeledRows, seed: int) -> Model:
    """Return a model as initialize.py makes it."""
    return _model(original, seed, known_points=[START], **FIRST)


def retrained(rows: LabeledRows, champion: Model, seed: int) -> Predict:
    """Return the predictions of a model as trainer.py makes it."""
    points = champion_points(champion.card)
    return _model(rows, seed, known_points=points, max_evals=1).predict


def _model(rows: LabeledRows, seed: int, **tuning) -> Model:
    rows = rows[~is_for_judge(rows.hashes(dataset.names))]
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
        self.bounds: dict[str, tuple[float, float | None]] = {}  # constant, best possible

    def add(self, name: str, predict: Predict, where: str, rows: pd.DataFrame) -> None:
        """Measure a model on rows like those of read_test(), with what else they carry."""
        frame, outcomes = dataset.checked(rows, where)
        loss, true = _loss(outcomes, predict(frame)), dataset.true_scores(rows)
        self.losses.setdefault((name, where), []).append(loss)
        constant = _loss(outcomes, dataset.target.constant(outcomes))
        self.bounds[where] = constant, None if true is None else _loss(outcomes, true)

    def table(self) -> Table:
        """Return all figures, one row a model."""
        bounds = "always the same", "best possible", "reached"
        title = f"{dataset.name}: {dataset.target.loss}"
        table = Table(title, "measured on", "median", "range", *bounds)
        shown = dataset.target.shown
        for (name, where), losses in self.losses.items():
            constant, best = self.bounds[where]
            loss, limits = median(losses), f"{shown(min(losses))} to {shown(max(losses))}"
            reached = "" if best is None else f"{(constant - loss) / (constant - best):.0%}"
            cells = shown(loss), limits, shown(constant), "" if best is None else shown(best)
            table.add_row(name, where, *cells, reached)
        return table


def _loss(outcomes: np.ndarray, scores: np.ndarray) -> float:
    return float(dataset.target.losses(outcomes, scores).mean())


def measure(folder: Path, seeds: Iterable[int]) -> Measurements:
    """Measure the models of the data set that DATASET names."""
    dataset.prepare(folder)
    original, test, found = original_rows(folder), dataset.read_test(folder), Measurements()
    for seed in tqdm(seeds, dataset.name, leave=False, disable=None):
        first = initial_model(original, seed)
        found.add("initialize.py's model", first.predict, dataset.test_rows, test)
        plain = plain_lightgbm(original, seed)
        found.add("LightGBM with its defaults", plain, dataset.test_rows, test)
        if dataset.name == "shop":
            measure_drift(original, first, seed, found)
    return found


def measure_drift(original: LabeledRows, first: Model, seed: int, found: Measurements) -> None:
    """Measure the shop's first model after a drift, and models trained on visits since."""
    from utils.datasets.shop import TEST, visits

    after = visits(0, TEST, seed=3, drift_at=0)
    found.add("initialize.py's model", first.predict, f"{TEST:,} visits after the drift", after)
    for count in SEEN:
        frame, outcomes = dataset.checked(visits(0, count, seed=3, drift_at=0), "visits()")
        names = {name: frame[name].astype("category") for name in dataset.categorical}
        seen = LabeledRows(frame.assign(**names), outcomes)
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
            found = measure(Path(folder), range(1, chosen.seeds + 1))
        Console(width=180).print(found.table())
        return
    for name in [chosen.only] if chosen.only else DATASETS:
        options = ["--only", name, "--seeds", str(chosen.seeds)]
        command = [sys.executable, "-m", "bench.quality", *options]
        if code := subprocess.run(command, env=os.environ | {"DATASET": name}).returncode:
            sys.exit(code)


if __name__ == "__main__":
    main()
