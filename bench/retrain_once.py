"""One training, measured in a process of its own: the tutorial's, or one of ours.

    DATA_DIR=FOLDER MODELS_DIR=FOLDER python -m bench.retrain_once WAY EVALUATIONS ROWS SEED THREADS

FOLDER has the data, and a champion for the ways that begin with one; bench/retrain.py makes it.
Prints seconds, CPU seconds, trees, the logloss on the rows of adult.test that are not trained on,
and the peak memory after each step, as JSON.

More rows than adult.data has are resampled from it, each with a new outcome, drawn with the
probability that a model of adult.data gives it: with copied outcomes, the rows held out would be
known from training, and early stopping would never stop.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd

from bench import tutorial
from bench.clock import Clock, peak_megabytes
from train.encoded_rows import EncodedRows
from train.fit import fit_features, fit_model
from train.held_out import BY_VALUES
from train.space import START
from train.store.observations import open_store
from train.train_hyperopt import LGBOptimizer
from train.training_process import TrainingProcess
from train.trials import TRIALS
from train.warm_start import champion_points
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.files import ROOT
from utils.model_store.model import load_champion, save
from utils.model_store.registry import Registry
from utils.script import command_line
from utils.settings import settings

NEW = 25  # observations since the champion was trained
FIRST = {"max_evals": 10, "timeout": 45}  # the defaults of initialize.py
PUBLISHED, REPAIRED = "tutorial, as published", "tutorial, objective repaired"
SCRATCH, WARM, PAST_TRIALS = "ours, from scratch", "ours, warm", "ours, warm by past trials alone"
CHILD = "the trainer's training process"
INITIAL = "the first model, as initialize.py makes it, on all rows"
CROSSED = (("education", "occupation"), ("native_country", "occupation"))  # by the tutorial
WAYS = (INITIAL, PUBLISHED, REPAIRED, SCRATCH, WARM, PAST_TRIALS, CHILD)


def resample(frame: pd.DataFrame, y: np.ndarray, rows: int, seed: int) -> tuple:
    """Return `rows` rows drawn from these, with new outcomes; see the module's docstring."""
    rng = np.random.default_rng(seed)
    tools = FeatureTools(dataset.numeric, dataset.categorical).fit(frame)
    X = tools.transform(frame)
    model = lgb.train({"objective": "binary", "verbosity": -1}, lgb.Dataset(X, y))
    drawn = rng.integers(0, len(frame), rows)
    outcomes = (rng.random(rows) < model.predict(X)[drawn]).astype(float)
    return frame.iloc[drawn].reset_index(drop=True), outcomes


def read_rows(rows: int, seed: int, new: int = NEW) -> tuple:
    """Return frame and outcomes to train on, then those of adult.test to measure on.

    rows : of adult.data, resampled; 0 means all of them as they are. new : rows of adult.test that
    are trained on too.
    """
    frame, y = dataset.training(settings.data_dir)
    test, y_test = dataset.test(settings.data_dir)
    if rows:
        frame, y = resample(frame, y, rows, seed)
    chosen = is_new(len(test), seed, new)
    frame = pd.concat([frame, test[chosen]], ignore_index=True)
    return frame, np.concatenate([y, y_test[chosen]]), test[~chosen], y_test[~chosen]


def is_new(rows: int, seed: int, new: int = NEW) -> np.ndarray:
    """Return which rows of adult.test are the new observations."""
    return np.random.default_rng(seed).permutation(rows) < new


def make_first_model(evals: int, seed: int, threads: int) -> dict:
    """Make the first model as initialize.py does, of all rows, and the champion of the folder."""
    frame, y, test, y_test = read_rows(0, seed, new=0)
    start = Clock()
    model = fit_model(
        frame, y, model_id=0, hyper="hyperopt", seed=seed, num_threads=threads,
        known_points=[START], trials_path=TRIALS,
        max_evals=evals, timeout=FIRST["timeout"],
    )  # fmt: skip
    seconds = start.seconds()
    model.card.split = BY_VALUES  # the training process is to judge it
    registry = Registry()
    save(model, registry)
    registry.promote(0)
    logloss = dataset.target.figures(y_test, model.predict(test))["logloss"]
    return {**seconds, "trees": model.booster.num_trees(), "logloss": logloss}


def retrain(way: str, evals: int, rows: int, seed: int, threads: int) -> dict:
    """Retrain in this process, the tutorial's way or ours."""
    frame, y, test, y_test = read_rows(rows, seed)
    memory = {"rows": peak_megabytes()}
    start = Clock()
    fit = fit_as_published if way in (PUBLISHED, REPAIRED) else fit_as_ours
    booster, encoder = fit(way, frame, y, evals, seed, threads, memory)
    seconds = start.seconds()
    memory["tuning"] = peak_megabytes()
    logloss = dataset.target.figures(y_test, booster.predict(encoder.transform(test)))["logloss"]
    return {**seconds, "trees": booster.num_trees(), "logloss": logloss, "memory": memory}


def fit_as_published(way, frame, y, evals, seed, threads, memory) -> tuple:
    """Return the booster of the tutorial's procedure, and the preprocessor."""
    tools = FeatureTools(dataset.numeric, dataset.categorical, CROSSED).fit(frame)
    X, names = tools.transform(frame), list(tools.get_feature_names_out())
    memory["features"] = peak_megabytes()
    data = lgb.Dataset(X, y, feature_name=names, categorical_feature=tools.categorical_indices_)
    booster = tutorial.retrain(
        data, max_evals=evals, repaired=way == REPAIRED, num_threads=threads, seed=seed
    )
    return booster, tools


def fit_as_ours(way, frame, y, evals, seed, threads, memory) -> tuple:
    """Return the booster of our optimizer, from what this way may know, and the preprocessor."""
    encoder, split = fit_features(frame, y, seed)
    X = EncodedRows(encoder, frame)
    memory["features"] = peak_megabytes()
    optimizer = LGBOptimizer(
        X,
        y,
        split,
        encoder.names_out,
        num_threads=threads,
        seed=seed,
        trials_path=None if way == SCRATCH else TRIALS,
    )
    memory["Dataset"] = peak_megabytes()
    registry = Registry()
    champion = registry.card(registry.champion_id())
    points = champion_points(champion) if way == WARM else []
    return optimizer.optimize(evals, known_points=points), encoder


def run_training_process(evals: int, seed: int) -> dict:
    """Run the trainer's child process, with Python's start and the reading of the rows."""
    test, y_test = dataset.test(settings.data_dir)
    new = is_new(len(test), seed)
    rows = [json.dumps(row).encode() for row in test[new].to_dict("records")]
    store = open_store()
    known = zip(rows, y_test[new], strict=True)
    store.add([(str(n), *observed) for n, observed in enumerate(known)], 1, {})
    model_id = store.begin_training(1, at_least=1)
    start = Clock()
    tuning = Namespace(hyper="hyperopt", max_evals=evals, timeout=60, spark="")
    training = TrainingProcess(model_id, 1, tuning)
    while not training.has_ended():
        time.sleep(0.005)
    seconds = start.seconds()
    assert not training.failure(), training.failure()
    registry = Registry()
    training.publish(registry, store)
    training.close()
    store.close()
    registry.promote(model_id)
    model, _ = load_champion(registry)
    logloss = dataset.target.figures(y_test[~new], model.predict(test[~new]))["logloss"]
    return {**seconds, "trees": model.booster.num_trees(), "logloss": logloss}


def in_a_process(folder: Path, way: str, *numbers: int, keep: bool = False) -> dict:
    """Measure a training in a process of its own; unless `keep`, on a copy of the folder."""
    with tempfile.TemporaryDirectory() as copy:
        used = folder if keep else Path(shutil.copytree(folder, copy, dirs_exist_ok=True))
        folders = {"DATA_DIR": str(used), "MODELS_DIR": str(used)}
        command = [sys.executable, "-m", "bench.retrain_once", way, *map(str, numbers)]
        done = subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.PIPE, env=os.environ | folders
        )
    return json.loads(done.stdout)


def main() -> None:
    """Measure one training and print the figures as JSON."""
    parser = command_line(__doc__, "bench.retrain_once")
    parser.add_argument("way", choices=WAYS)
    for name in ("evaluations", "rows", "seed", "threads"):
        parser.add_argument(name, type=int)
    way, evals, rows, seed, threads = vars(parser.parse_args()).values()
    if way == INITIAL:
        found = make_first_model(evals, seed, threads)
    elif way == CHILD:
        found = run_training_process(evals, seed)
    else:
        found = retrain(way, evals, rows, seed, threads)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
