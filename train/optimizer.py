"""What the optimizers share: the evaluation of a point, the record of a trial, the final fit."""

import hashlib
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import lightgbm as lgb
import numpy as np
from tqdm import tqdm

from train.encoded_rows import batches, subset
from train.evaluation import MAX_ROUNDS, PATIENCE, is_hopeless, number_of_folds, split_rows
from train.row_hash import hash_rows
from train.space import SPACE
from train.trials import TrialStore
from train.warm_start import distinct_points, known_points_to_try

METRIC = "binary_logloss"


class BaseOptimizer(ABC):
    """Find good hyperparameters for a binary LightGBM model, and fit it with them.

    The same data, arguments, earlier trials and library versions give the same trials and the same
    model, unless time runs out. Another num_threads can change the last digits of a loss, as sums
    are then made in another order. ValueError if y contains anything but 0 and 1, or fewer than two
    of either.

    Parameters
    ----------
    X : float64 array (rows, features), or an lgb.Sequence of its rows; categories as codes 0, 1, 2,
        ...; NaN is a missing number.
    y : array (rows,) of 0 and 1.
    feature_names : one name per column of X.
    categorical_indices : which columns of X hold categories.
    num_threads : for LightGBM; 0 lets it choose. More threads than free cores are much slower.
    seed : of the search, the folds and LightGBM's own sampling; not negative.
    is_unbalance : weight the classes as if they had equally many rows. Off by default: it moves the
        probabilities away from the true rates.
    trials_path : the store of trials, see train/trials.py: every trial is kept there, and good
        points are taken from it. None for neither.

    Attributes after `optimize`
    ----------
    best : the hyperparameters of the final fit: plain Python numbers, LightGBM's names.
    best_loss : the binary log loss measured with them on the held-out rows.
    trials : one dict per evaluation, in order: `params` (as drawn), `loss`, `losses` (one per
        evaluated fold), `rounds` (the best number, by early stopping), `seconds`, `pruned`.
    past_trials : trials of earlier searches that need no new evaluation: same data, same seed.
    """

    hyper: str  # its name for --hyper

    def __init__(
        self,
        X: np.ndarray | lgb.Sequence,
        y: np.ndarray,
        feature_names: Sequence[str],
        categorical_indices: Sequence[int],
        *,
        num_threads: int = 0,
        seed: int = 1,
        is_unbalance: bool = False,
        trials_path: Path | None = None,
    ) -> None:
        self.folds = number_of_folds(y)
        self.seed, self.trials_path, self.rows = seed, trials_path, len(y)
        self.objective = {  # the same in tuning and in the final fit
            "objective": "binary",  # without one, lgb.cv would tune a regression
            "metric": METRIC,
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
        # One Dataset for all trials: no tuned parameter changes how it is binned.
        self.dataset = lgb.Dataset(
            X,
            y,
            feature_name=list(feature_names),
            categorical_feature=[int(i) for i in categorical_indices],
            params=self.fixed,
        ).construct()
        hashes = np.concatenate([hash_rows(list(batch.T)) for batch in batches(X)])
        self.splits = [split_rows(hashes, np.asarray(y, dtype=np.int8), self.folds, seed)]
        self._subsets = [[subset(self.dataset, rows) for rows in split] for split in self.splits]
        self.experiment = {
            "features": list(feature_names),
            "categorical": [int(i) for i in categorical_indices],
            "objective": self.objective,
            "evaluation": {
                "folds": self.folds,
                "evaluated_folds": len(self.splits),
                "grouped": "equal rows",
                "patience": PATIENCE,
                "max_rounds": MAX_ROUNDS,
            },
            "space": {name: asdict(bounds) for name, bounds in SPACE.items()},
        }
        self.experiment_id = _digest([json.dumps(self.experiment, sort_keys=True).encode()])
        self.data_id = _digest([hashes, np.ascontiguousarray(y)])

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
        self.past_trials: list[dict] = []
        self.deadline = math.inf if timeout is None else time.monotonic() + timeout
        self.store = TrialStore(self.trials_path, self.study_attributes())
        limit = known_points_to_try(max_evals)
        points = distinct_points(known_points, limit)
        if len(points) < limit:
            points = distinct_points([*points, *self.store.past_points()], limit)
        shown = progress and sys.stderr.isatty()
        with tqdm(total=max_evals, desc="tuning", unit="trial", disable=not shown) as self._bar:
            self.search(max_evals, points)
        best = self.best_trial()
        self.best_loss = best["loss"]
        self.best = {**best["params"], "num_boost_round": self.rounds_on_all_rows(best["rounds"])}
        if progress and not shown:
            print(f"tuning: trials {len(self.trials)}, best {self.best_loss:.4f}", file=sys.stderr)
        return self.fit(self.best)

    @abstractmethod
    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate by `run_trial` these points first, then others, until `max_evals` or timeout.

        Keep every trial in `store`.
        """

    def run_trial(self, params: dict) -> dict:
        """Evaluate `params`, pruned by the best trial so far; append the trial and return it."""
        first = not self.trials and not self.past_trials
        to_beat = math.inf if first else self.best_trial()["loss"]
        deadline = math.inf if first else self.deadline
        trial = self.evaluate(params, to_beat=to_beat, deadline=deadline)
        self.trials.append(trial)
        self._bar.set_postfix_str(f"best {self.best_trial()['loss']:.4f}", refresh=False)
        self._bar.update()
        return trial

    def best_trial(self) -> dict:
        """Return the trial with the lowest loss, past_trials included."""
        return min(self.past_trials + self.trials, key=lambda trial: trial["loss"])

    def seconds_left(self) -> float:
        """Return for how long new trials may begin: infinite without a timeout, or below 0."""
        return self.deadline - time.monotonic()

    def evaluate(
        self, params: dict, *, to_beat: float = math.inf, deadline: float = math.inf
    ) -> dict:
        """Measure `params` on the held-out rows and return the trial, as in `trials`.

        Rounds are added until the loss has not fallen for PATIENCE rounds (as in `lgb.cv` with
        early stopping), or the trial is pruned: it can't reach the loss `to_beat` any more, or
        `time.monotonic()` has reached `deadline`.
        """
        start = time.perf_counter()
        boosters = [self._booster(params, *fold) for fold in self._subsets]
        history: list[list[float]] = []  # one list per round: the loss on each evaluated fold
        curve: list[float] = []  # their means
        best, pruned = 0, False
        while len(curve) < MAX_ROUNDS and len(curve) - best <= PATIENCE and not pruned:
            history.append([_add_round(booster) for booster in boosters])
            curve.append(float(np.mean(history[-1])))
            if curve[-1] < curve[best]:
                best = len(curve) - 1
            pruned = is_hopeless(curve, to_beat) or time.monotonic() >= deadline
        return {
            "params": params,
            "loss": curve[best],
            "losses": history[best],
            "rounds": best + 1,
            "seconds": time.perf_counter() - start,
            "pruned": pruned,
        }

    def fit(self, params: dict) -> lgb.Booster:
        """Fit a booster with `params`, `num_boost_round` among them, on all rows."""
        return lgb.train({**self.fixed, **params}, self.dataset)

    def rounds_on_all_rows(self, rounds: int) -> int:
        """Return the number of rounds for all rows, given the best number for the fitted folds.

        More rows allow more rounds: this scaling gained 0.0003 of logloss on the points that
        train/evaluation.py mentions.
        """
        return round(rounds * self.rows / len(self.splits[0][0]))

    def study_attributes(self) -> dict:
        """Return what the store of trials records about this search."""
        return {
            "hyper": self.hyper,
            "experiment": self.experiment_id,
            "data": self.data_id,
            "seed": self.seed,
            "rows": self.rows,
            "features": self.experiment["features"],
            "metric": METRIC,
            "description": self.experiment,
        }

    def libraries(self) -> dict[str, str]:
        """Return the versions of the libraries that a trial depends on."""
        return {name: version(name) for name in ("lightgbm", "numpy", self.hyper)}

    def _booster(self, params: dict, known: lgb.Dataset, unseen: lgb.Dataset) -> lgb.Booster:
        booster = lgb.Booster({**self.fixed, **params}, known)
        booster.add_valid(unseen, "unseen")
        return booster


def _add_round(booster: lgb.Booster) -> float:
    booster.update()
    return booster.eval_valid()[0][2]


def _digest(contents: Iterable[bytes | np.ndarray]) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]
