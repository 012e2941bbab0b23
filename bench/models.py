"""The models that bench/performance.py measures with: those that users get, and what they cost.

Each of them is a folder with models/, whose champion answers, and data/.
"""

import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
from rich.table import Table
from tqdm import tqdm

from bench.growth import REPEATS, measure
from tests.harness.pipeline import Pipeline, wait_until
from train.fit import score
from train.train_hyperopt import LGBOptimizer
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.model_store.card import Card
from utils.model_store.model import Model, load_champion, save
from utils.model_store.registry import Registry

INITIAL = "initialize.py's model"
HUNDRED_TREES = "100 trees"
ROWS = 400  # of adult.test that each training brings
LOADS = 5


def make_models(initialized: Pipeline, trainings: int) -> dict[str, Path]:
    """Return {name: folder} of the model of initialize.py and of the champion that follows it."""
    folder = initialized.folder
    later = train_on_a_stream(initialized, trainings)
    return {INITIAL: folder, f"champion after {trainings} trainings": later}


def train_on_a_stream(initialized: Pipeline, trainings: int) -> Path:
    """Run the real predictor and trainer until the trainer has trained this many times.

    They have their default settings, except that each training gets the next ROWS rows of
    adult.test, as requests that bring their outcomes. Returns the folder with their models.
    """
    folder = initialized.folder / "trained"
    for name in ("data", "models"):
        shutil.copytree(initialized.folder / name, folder / name)
    pipeline = Pipeline(initialized.host, "trained-", folder)
    assert trainings * ROWS < len(pipeline.rows), "no rows are left to measure the champion on"
    pipeline.environment["RETRAIN_EVERY"] = str(ROWS)
    try:
        pipeline.predictor()
        trainer = pipeline.start_and_wait("trainer.py", until="waits for retrain requests")
        shown = tqdm(range(trainings), unit="training", disable=not sys.stderr.isatty())
        for number in shown:
            for row in range(number * ROWS, (number + 1) * ROWS):
                pipeline.request(row)
            pipeline.producer.flush()
            wait_until(lambda due=number + 1: pipeline.covered() == due, 120, "a training")
        failures = [m for m in pipeline.messages("retrain_topic") if "training_failed" in m]
        assert not failures, failures
        trainer.send_signal(signal.SIGTERM)
        trainer.wait(60)
    finally:
        pipeline.stop_all()
    return folder


def make_hundred_trees(initialized: Path) -> Path:
    """Fit a model of 100 trees with 31 leaves, LightGBM's defaults; return its folder."""
    frame, outcomes = dataset.read_training(initialized / "data")
    tools = FeatureTools(
        dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS, dataset.CROSSED_COLUMNS
    ).fit(frame)
    names, categorical = list(tools.get_feature_names_out()), tools.categorical_indices_
    optimizer = LGBOptimizer(tools.transform(frame), outcomes, names, categorical)
    parameters = {"num_boost_round": 100, "num_leaves": 31}
    card = Card(
        model_id=0, rows=len(outcomes), hyper="none", evaluations=0, experiment="", seed=1,
        parameters=parameters, tuning_logloss=0.0,
    )  # fmt: skip
    folder = initialized / "hundred-trees"
    (folder / "models").mkdir(parents=True)
    registry = Registry(folder / "models")
    save(Model(tools.encoder_, optimizer.fit(parameters), card), registry)
    registry.promote(0)
    return folder


def models_table(models: dict[str, Path], trainings: int) -> Table:
    """Return what each model costs, and its quality on rows that no training has seen."""
    data = next(iter(models.values())) / "data"
    rows, (frame, outcomes) = dataset.read_test_requests(data), dataset.read_test(data)
    unseen = slice(trainings * ROWS, None)
    table = Table(
        "models", "model id", "trees", "us of CPU a row", "load, ms", "MB",
        f"logloss, {len(rows[unseen]):,} rows unseen",
    )  # fmt: skip
    for name, folder in models.items():
        registry = Registry(folder / "models")
        model, warnings = load_champion(registry)
        assert not warnings, warnings
        logloss = score(outcomes[unseen], model.predict(frame[unseen]))["logloss"]
        table.add_row(
            name,
            str(model.model_id),
            str(model.booster.num_trees()),
            f"{measure(model, rows, REPEATS)['predict']:.1f}",
            f"{milliseconds_to_load(registry):.0f}",
            f"{registry.path(model.model_id).stat().st_size / 1e6:.1f}",
            f"{logloss:.4f}",
        )
    return table


def milliseconds_to_load(registry: Registry) -> float:
    """Return the median time that loading and checking the champion takes."""
    found = []
    for _ in range(LOADS):
        began = time.perf_counter()
        load_champion(registry)
        found.append(time.perf_counter() - began)
    return float(np.median(found)) * 1e3
