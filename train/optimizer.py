"""What the optimizers share: the evaluation of a point, the record of a trial, the final fit."""

import hashlib
import json
import math
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import lightgbm as lgb
import numpy as np
from tqdm import tqdm

from train.encoded_rows import batches
from train.evaluation import MAX_ROUNDS, PATIENCE, PENALTY, Holdout
from train.space import SPACE
from train.trials import TrialStore
from train.warm_start import distinct_points, known_points_to_try
from utils.datasets import dataset
from utils.telemetry import telemetry

BEYOND_NOISE = 2  # standard errors, as for the judge


class BaseOptimizer(ABC):
    """Find good hyperparameters for a LightGBM model of the target, and fit it with them.

    The same data, arguments, earlier trials and library versions give the same trials and the same
    model, unless time runs out. Another num_threads can change the last digits of a loss, as sums
    are then made in another order.

    A prediction's cost counts: what is minimized is the penalized loss, see train/evaluation.py.
    The first point that a search begins with is kept unless another one is better beyond noise: the
    best of many trials on the same rows owes a part of its advantage to chance. That point is the
    first of `known_points` inside the space; without one, the best of the store of trials. If there
    is none either, the search begins with a random point, and the best trial wins.

    Parameters
    ----------
    X : float64 array (rows, features), or an lgb.Sequence of its rows; NaN is a missing number.
    y : array (rows,), the outcomes as the target scales them; see utils/datasets/target.py.
    split : the rows to fit on while tuning, and the rows to measure on; see split_rows().
    feature_names : one name per column of X.
    num_threads : for LightGBM; 0 lets it choose. More threads than free cores are much slower.
    seed : of the search, the folds and LightGBM's own sampling; not negative.
    is_unbalance : weight two classes as if they had equally many rows. Off by default: it moves
        the probabilities away from the true rates.
    trials_path : the store of trials, see train/trials.py: every trial is kept there, and good
        points are taken from it. None for neither.
    shared_rows : where workers on other hosts find the same rows, see train/shared_search.py. None
        for a search without workers.
    spark : the URL of a Spark master that trials run on, "" for none; see train/spark_trials.py.

    Attributes after `optimize`
    ----------
    best : the hyperparameters of the final fit: plain Python numbers, LightGBM's names.
    best_loss : the mean loss measured with them on the held-out rows.
    trials : one dict per evaluation, in order: `params` (as drawn), `loss`, `penalized_loss`,
        `noise` (the standard error of the difference to the first trial's loss, None if another
        process has measured the trial), `rounds` (by early stopping), `decisions` (per row, see
        train/cost.py), `seconds`, `pruned`, `curve` (the loss after some of the rounds).
    durations : seconds of "tuning" and of the final "fit".
    """

    hyper: str  # its name for --hyper

    def __init__(
        self,
        X: np.ndarray | lgb.Sequence,
        y: np.ndarray,
        split: tuple[np.ndarray, np.ndarray],
        feature_names: Sequence[str],
        *,
        num_threads: int = 0,
        seed: int = 1,
        is_unbalance: bool = False,
        trials_path: Path | None = None,
        shared_rows: dict | None = None,
        spark: str = "",
    ) -> None:
        self.seed, self.trials_path, self.rows = seed, trials_path, len(y)
        self.shared_rows, self.spark = shared_rows, spark
        self.objective = {  # the same in tuning and in the final fit
            **dataset.target.objective,
            "metric": "None",  # evaluate() measures it
            "is_unbalance": is_unbalance,
            "subsample_freq": 1,  # 0, the default, would make LightGBM ignore `subsample`
        }
        self.fixed = self.objective | {
            "seed": seed,
            # By default LightGBM times two ways to build histograms and takes the faster one. They
            # round differently, so `deterministic` needs one of them to be fixed.
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": num_threads,
            "verbosity": -1,
        }
        # One Dataset for all trials: no tuned parameter changes how it is binned. Codes are plain
        # numbers to it: sets of categories cost a third more in each prediction, and overfit.
        names = lightgbm_names(feature_names)
        self.rows_to_send = (X, y, split, names, self.fixed | {"num_threads": 1}) if spark else None
        self.dataset = lgb.Dataset(X, y, feature_name=names, params=self.fixed).construct()
        self._split = tuple(rows.astype(np.int32) for rows in split)
        self.experiment = {
            "features": list(feature_names),
            "objective": self.objective,
            "evaluation": {
                "holdout": "groups of equal rows",
                "patience": PATIENCE,
                "max_rounds": MAX_ROUNDS,
                "penalty": PENALTY,
            },
            "space": {name: asdict(bounds) for name, bounds in SPACE.items()},
        }
        self.experiment_id = _digest([json.dumps(self.experiment, sort_keys=True).encode()])
        self.data_id = _digest(chain(batches(X), [np.ascontiguousarray(y)]))

    def optimize(
        self,
        max_evals: int = 50,
        *,
        timeout: float | None = None,
        known_points: Iterable[dict] = (),
        progress: bool = False,
    ) -> lgb.Booster:
        """Evaluate at most `max_evals` points, fit the best one on all rows, return the booster.

        known_points : hyperparameters to begin with, the most promising first; those outside the
            space are ignored. The best points of the store of trials come after them.
        timeout : seconds, without the final fit; the first evaluation is always finished.
        progress : show a bar on stderr, or one line at the end if stderr is not a terminal.

        A second call forgets the first one. ValueError if `max_evals` is below 1.
        """
        if max_evals < 1:
            raise ValueError(f"max_evals must be at least 1, got {max_evals}")
        self.trials: list[dict] = []
        start = time.monotonic()
        self.deadline = math.inf if timeout is None else start + timeout
        self.store = TrialStore(self.trials_path, self.study_attributes())
        limit = known_points_to_try(max_evals)
        points = distinct_points(known_points, limit)
        if len(points) < limit:
            points = distinct_points([*points, *self.store.past_points()], limit)
        self._knows_points = bool(points)
        shown = progress and sys.stderr.isatty()
        with tqdm(total=max_evals, desc="tuning", unit="trial", disable=not shown) as self._bar:
            self.search(max_evals, points)
        best = self.best_trial()
        self.best_loss = best["loss"]
        self.best = {**best["params"], "num_boost_round": best["rounds"]}
        if progress and not shown:
            print(f"tuning: trials {len(self.trials)}, best {self.best_loss:.4f}", file=sys.stderr)
        tuned = time.monotonic()
        self.__dict__.pop("holdout", None)  # a copy of all rows; the final fit takes memory too
        booster = self.fit(self.best)
        self.durations = {"tuning": tuned - start, "fit": time.monotonic() - tuned}
        return booster

    @cached_property
    def holdout(self) -> Holdout:
        """What measures points, made when it is used."""
        return Holdout(self.dataset, self._split, self.fixed)

    @abstractmethod
    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate by `run_trial` these points first, then others, until `max_evals` or timeout.

        The first point is evaluated in any case. Keep every trial in `store`.
        """

    def run_trial(self, params: dict) -> dict:
        """Evaluate `params`, pruned by the best trial so far; append the trial and return it."""
        if self.trials:
            limits = {"to_beat": self.lowest_trial()["penalized_loss"], "deadline": self.deadline}
            trial, losses = self.holdout.evaluate(params, **limits)
        else:
            trial, losses = self.holdout.evaluate(params)
            self._first_losses = losses
        trial["noise"] = self._noise(losses)
        return self.add_trial(trial)

    def add_trial(self, trial: dict) -> dict:
        """Append a trial of this search, show it, and return it."""
        self.trials.append(trial)
        self._bar.set_postfix_str(f"best {self.best_trial()['loss']:.4f}", refresh=False)
        self._bar.update()
        telemetry.initialize.evaluations = len(self.trials)
        telemetry.initialize.best_loss = self.best_trial()["loss"]
        return trial

    def _noise(self, losses: np.ndarray) -> float:
        return float(np.std(losses - self._first_losses) / np.sqrt(len(losses)))

    def keep(self, trial: dict) -> None:
        """Append a trial that another process has measured, and keep it in the store."""
        self.add_trial(trial)
        self.store.add(trial, self.libraries())

    def measure_the_lowest(self) -> None:
        """Measure the best trial again if another process has: what counts is found here."""
        while self.trials and (trial := self.lowest_trial())["noise"] is None:
            again, losses = self.holdout.evaluate(trial["params"], most_rounds=trial["rounds"])
            trial |= again | {"noise": self._noise(losses), "seconds": trial["seconds"]}

    def best_trial(self) -> dict:
        """Return the trial with the lowest penalized loss, or the first one; see the class."""
        lowest, first = self.lowest_trial(), self.trials[0]
        gain = first["penalized_loss"] - lowest["penalized_loss"]
        is_chance = self._knows_points and gain <= BEYOND_NOISE * (lowest["noise"] or 0)
        return first if is_chance else lowest

    def lowest_trial(self) -> dict:
        """Return the trial with the lowest penalized loss."""
        return min(self.trials, key=lambda trial: trial["penalized_loss"])

    def seconds_left(self) -> float:
        """Return for how long new trials may begin: infinite without a timeout, or below 0."""
        return self.deadline - time.monotonic()

    def fit(self, params: dict) -> lgb.Booster:
        """Fit a booster with `params`, `num_boost_round` among them, on all rows."""
        return lgb.train({**self.fixed, **params}, self.dataset)

    def study_attributes(self) -> dict:
        """Return what the store of trials records about this search."""
        return {
            "hyper": self.hyper,
            "experiment": self.experiment_id,
            "data": self.data_id,
            "seed": self.seed,
            "rows": self.rows,
            "features": self.experiment["features"],
            "metric": dataset.target.metric,
            "description": self.experiment,
        }

    def libraries(self) -> dict[str, str]:
        """Return the versions of the libraries that a trial depends on."""
        return {name: version(name) for name in ("lightgbm", "numpy", self.hyper)}


def lightgbm_names(names: Iterable[str]) -> list[str] | str:
    """Return the names as LightGBM accepts them, or "auto": it refuses brackets, for example."""
    safe = [re.sub(r"\W", "_", name) for name in names]
    return safe if len(set(safe)) == len(safe) else "auto"


def _digest(contents: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]
