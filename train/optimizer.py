"""What every optimizer shares: how a point is evaluated, what is kept of it, and the final fit."""

import hashlib
import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import lightgbm as lgb
import numpy as np
from sklearn.model_selection import StratifiedKFold
from tqdm import tqdm

from train.space import SPACE, as_point

# How a point is evaluated. Chosen on adult.data alone, with 120 random points evaluated on three
# quarters of it and measured on the fourth: of 10 points the one that a holdout finds best comes to
# a logloss of 0.2795 on average, the one that 3 folds find best to 0.2794, in three times the time.
# In the same time 3 folds come to 0.2817. (Of 25 points: 0.2781, 0.2781 and 0.2800.)
PARTS = 5  # the rows are split into so many stratified parts; fewer where a class has fewer rows
HELD_OUT = 1  # how many of them are measured on, one after another; PARTS would be a full CV
MAX_ROUNDS = 500  # the tutorial's limit; every tree costs time in each prediction too
PATIENCE = 30  # early stopping: rounds without a lower loss before a trial ends
METRIC = "binary_logloss"

# Pruning: a trial whose last WINDOW rounds were so much better than the WINDOW before that HORIZON
# more at this pace would still not beat the best, is given up. (On the curves of these points, 25
# at a time: 0.6 of the time, and the best point found is worse by 0.00002 on average.)
WINDOW, HORIZON = 30, 100


class BaseOptimizer(ABC):
    """Find good hyperparameters for a binary LightGBM model, and fit it with them.

    The same data, arguments, trail and library versions give the same trials and the same model,
    unless time runs out; another num_threads can change the last digits of a loss, which is then
    summed in another order. ValueError: y holds anything but 0 and 1, or fewer than two rows of
    either.

    Parameters
    ----------
    X : float64 array (rows, features); categories as codes 0, 1, 2, ...; NaN is a missing number.
    y : array (rows,) of 0 and 1.
    feature_names : one name per column of X.
    categorical_indices : which columns of X hold categories.
    num_threads : for LightGBM; 0 lets it choose. More than free cores make it many times slower.
    seed : of the search, the split and LightGBM's own sampling; not negative.
    is_unbalance : weigh the classes as if they had equally many rows. Off unless asked for: it
        moves the probabilities away from the true rates.
    trail : the folder in which every trial is kept, and from which past ones are learned; None
        for neither.

    Attributes, there after `optimize`
    ----------
    best : the hyperparameters of the final fit: plain Python numbers, LightGBM's names.
    best_loss : the binary log loss measured with them on the held-out rows.
    trials : one dict per evaluation, in order: `params` (as drawn), `loss`, `losses` (one per
        held-out part), `rounds` (how many early stopping found best), `seconds`, `pruned`.
    past_trials : the trials of earlier searches whose losses hold here, as the data is the same.
    """

    hyper: str  # the name that --hyper knows it by

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        feature_names: Sequence[str],
        categorical_indices: Sequence[int],
        *,
        num_threads: int = 0,
        seed: int = 1,
        is_unbalance: bool = False,
        trail: Path | None = None,
    ) -> None:
        self.parts = _number_of_parts(y)
        self.seed, self.trail, self.rows = seed, trail, len(y)
        self.objective = {  # the same in tuning and in the final fit
            "objective": "binary",  # without one, lgb.cv would tune a regression
            "metric": METRIC,
            "is_unbalance": is_unbalance,
            "subsample_freq": 1,  # 0, the default, would make LightGBM ignore `subsample`
        }
        self.fixed = self.objective | {
            "seed": seed,
            # Left to itself, LightGBM times two ways to build histograms and takes the faster one.
            # They round differently, so `deterministic` needs one of them to be fixed.
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": num_threads,
            "verbosity": -1,
        }
        # One Dataset serves all trials: no tuned parameter changes how it is binned.
        self.dataset = lgb.Dataset(
            X,
            y,
            feature_name=list(feature_names),
            categorical_feature=[int(i) for i in categorical_indices],
            params=self.fixed,
        ).construct()
        self.splits = _split(y, self.parts, seed)
        self._folds = [[self.dataset.subset(rows).construct() for rows in s] for s in self.splits]
        self.experiment = {
            "features": list(feature_names),
            "categorical": [int(i) for i in categorical_indices],
            "objective": self.objective,
            "evaluation": {
                "parts": self.parts,
                "held_out": len(self.splits),
                "patience": PATIENCE,
                "max_rounds": MAX_ROUNDS,
            },
            "space": {name: asdict(bounds) for name, bounds in SPACE.items()},
        }
        self.experiment_id = _digest(json.dumps(self.experiment, sort_keys=True).encode())
        self.data_id = _digest(np.ascontiguousarray(X), np.ascontiguousarray(y))

    def optimize(
        self,
        max_evals: int = 50,
        *,
        timeout: float | None = None,
        known_points: Iterable[dict] = (),
        progress: bool = False,
    ) -> lgb.Booster:
        """Evaluate at most `max_evals` points, fit the best one on all rows, return the booster.

        known_points : hyperparameters to begin with, the most promising first; those that are
            not in the space are left out. What the trail knows comes after them.
        timeout : seconds, without the final fit; the first evaluation is finished in any case.
        progress : show a bar on stderr, or one line at the end where stderr is not a terminal.

        A second call starts afresh. ValueError: `max_evals` is below 1.
        """
        if max_evals < 1:
            raise ValueError(f"max_evals must be at least 1, got {max_evals}")
        self.trials: list[dict] = []
        self.past_trials: list[dict] = []
        self.deadline = math.inf if timeout is None else time.monotonic() + timeout
        shown = progress and sys.stderr.isatty()
        with tqdm(total=max_evals, desc="tuning", unit="trial", disable=not shown) as self._bar:
            self.search(max_evals, known_points)
        best = self.best_trial()
        self.best_loss = best["loss"]
        self.best = {**best["params"], "num_boost_round": self.rounds_on_all_rows(best["rounds"])}
        if progress and not shown:
            print(f"tuning: trials {len(self.trials)}, best {self.best_loss:.4f}", file=sys.stderr)
        return self.fit(self.best)

    @abstractmethod
    def search(self, max_evals: int, known_points: Iterable[dict]) -> None:
        """Evaluate points by `run_trial` until there are `max_evals` or time is up."""

    def run_trial(self, params: dict) -> dict:
        """Evaluate `params`, pruned by the best trial so far, keep the trial and return it."""
        first = not self.trials and not self.past_trials
        to_beat = math.inf if first else self.best_trial()["loss"]
        deadline = math.inf if first else self.deadline
        trial = self.evaluate(params, to_beat=to_beat, deadline=deadline)
        self.trials.append(trial)
        self._bar.set_postfix_str(f"best {self.best_trial()['loss']:.4f}", refresh=False)
        self._bar.update()
        return trial

    def best_trial(self) -> dict:
        """Return the trial with the lowest loss, past ones on the same data included."""
        return min(self.past_trials + self.trials, key=lambda trial: trial["loss"])

    def seconds_left(self) -> float:
        """Return for how long further trials may begin; below 0 when time is up, or infinite."""
        return self.deadline - time.monotonic()

    def evaluate(
        self, params: dict, *, to_beat: float = math.inf, deadline: float = math.inf
    ) -> dict:
        """Measure `params` on the held-out rows and return the trial, as in `trials`.

        Rounds are added until PATIENCE of them have brought nothing (as `lgb.cv` with early
        stopping), or the trial is pruned: it can't reach the loss `to_beat` any more, or
        `time.monotonic()` has reached `deadline`.
        """
        start = time.perf_counter()
        boosters = [self._booster(params, *fold) for fold in self._folds]
        history: list[list[float]] = []  # one list a round: the loss on each held-out part
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
        """Return how many rounds suit all rows, where `rounds` suited those not held out.

        (On the points above, scaling them gained 0.0003 of logloss.)
        """
        return round(rounds * self.parts / (self.parts - 1))

    def origin(self) -> dict:
        """Return what the trail says of where trials come from, the same for all of a search."""
        return {
            "experiment": self.experiment_id,
            "data": self.data_id,
            "rows": self.rows,
            "seed": self.seed,
            "features": self.experiment["features"],
            "metric": METRIC,
            "libraries": {name: version(name) for name in ("lightgbm", "numpy", self.hyper)},
        }

    def _booster(self, params: dict, known: lgb.Dataset, unseen: lgb.Dataset) -> lgb.Booster:
        booster = lgb.Booster({**self.fixed, **params}, known)
        booster.add_valid(unseen, "unseen")
        return booster


def _add_round(booster: lgb.Booster) -> float:
    booster.update()
    return booster.eval_valid()[0][2]


def is_hopeless(curve: Sequence[float], to_beat: float) -> bool:
    """True if a trial with these losses, one a round, won't go below `to_beat`.

    It would not even if its pace stayed what it is for HORIZON rounds more, and a loss falls ever
    more slowly. Means over WINDOW rounds, as a single loss is too noisy to tell a pace from.
    """
    if len(curve) < 2 * WINDOW:
        return False
    before, now = np.mean(curve[-2 * WINDOW : -WINDOW]), np.mean(curve[-WINDOW:])
    pace = (before - now) / WINDOW
    return bool(now - pace * (HORIZON + WINDOW / 2) > to_beat)


def distinct_points(points: Iterable[dict], limit: int) -> list[dict]:
    """Return the first `limit` different points of the space among these, in their order."""
    unique = {json.dumps(point): point for point in map(as_point, points) if point}
    return list(islice(unique.values(), limit))


def known_points_to_try(max_evals: int) -> int:
    """Return how many of `max_evals` evaluations go to points that were good in the past."""
    return min(max(max_evals // 2, 1), 5)


def _split(y: np.ndarray, parts: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to learn from and the rows to measure on, once per held-out part."""
    folds = StratifiedKFold(parts, shuffle=True, random_state=seed).split(y, y)
    return list(islice(folds, HELD_OUT))


def _number_of_parts(y: np.ndarray) -> int:
    """Return into how many stratified parts y can be split, PARTS at most; ValueError if none."""
    y = np.asarray(y)
    zeros, ones = int(np.count_nonzero(y == 0)), int(np.count_nonzero(y == 1))
    if zeros + ones != len(y):
        raise ValueError("y must hold nothing but 0 and 1")
    if min(zeros, ones) < 2:
        raise ValueError(f"y needs two rows of each class, got {zeros} of 0 and {ones} of 1")
    return min(PARTS, zeros, ones)


def _digest(*contents: bytes | np.ndarray) -> str:
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:12]
