"""Tune LightGBM with Hyperopt by cross-validation, then fit it on all rows.

The search space is the tutorial's (jrzaurin/ml_pipelines). Hyperopt searches it with TPE, the
tree-structured Parzen estimator of Bergstra et al., "Algorithms for Hyper-Parameter Optimization"
(NIPS 2011). What the parameters mean: https://lightgbm.readthedocs.io/en/stable/Parameters.html
"""

import logging
import sys
import time
from collections.abc import Sequence

import lightgbm as lgb
import numpy as np
from hyperopt import fmin, hp, tpe
from tqdm import tqdm

FOLDS = 3  # of the cross-validation; fewer where a class has fewer rows than this
PATIENCE = 20  # early stopping: rounds without a lower loss before a trial ends
INTEGERS = {"num_boost_round", "num_leaves"}  # Hyperopt draws floats, LightGBM wants integers here

# Hyperopt logs two INFO lines per trial, which would drown the log of a program that shows INFO.
logging.getLogger("hyperopt").setLevel(logging.WARNING)


class LGBOptimizer:
    """Find good hyperparameters for a binary LightGBM model, and fit it with them.

    The same data, arguments and library versions give the same trials and the same model; another
    num_threads can change the last digits of a loss, which is then summed in another order.
    ValueError: y holds anything but 0 and 1, or fewer than two rows of either.

    Parameters
    ----------
    X : float64 array (rows, features); categories as codes 0, 1, 2, ...; NaN is a missing number.
    y : array (rows,) of 0 and 1.
    feature_names : one name per column of X.
    categorical_indices : which columns of X hold categories.
    num_threads : for LightGBM; 0 lets it choose. More than free cores make it many times slower.
    seed : of the search, the folds and LightGBM's own sampling; not negative.
    is_unbalance : weigh the classes as if they had equally many rows. Off unless asked for: it
        moves the probabilities away from the true rates.

    Attributes, there after `optimize`
    ----------
    best : the hyperparameters of the final fit: plain Python numbers, LightGBM's names.
    best_loss : their cross-validated binary log loss.
    trials : one dict per evaluation, in order: `params` (as drawn), `loss`, `rounds` (how many
        early stopping found best), `seconds`.
    """

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
    ) -> None:
        self.folds = _number_of_folds(y)
        self.seed = seed
        self.fixed = {  # the same in tuning and in the final fit
            "objective": "binary",  # without one, lgb.cv would tune a regression
            "metric": "binary_logloss",
            "is_unbalance": is_unbalance,
            "subsample_freq": 1,  # 0, the default, would make LightGBM ignore `subsample`
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
        )

    def hyperparameter_space(self) -> dict:
        """Return what Hyperopt draws from: the tutorial's space, under LightGBM's names.

        `quniform` rounds to multiples of its step: 60, 80, ..., 500 rounds; 32, ..., 256 leaves.
        """
        return {
            "learning_rate": hp.uniform("learning_rate", 0.01, 0.2),
            "num_boost_round": hp.quniform("num_boost_round", 50, 500, 20),
            "num_leaves": hp.quniform("num_leaves", 31, 255, 4),
            "min_child_weight": hp.uniform("min_child_weight", 0.1, 10),
            "colsample_bytree": hp.uniform("colsample_bytree", 0.5, 1.0),
            "subsample": hp.uniform("subsample", 0.5, 1.0),
            "reg_alpha": hp.uniform("reg_alpha", 0.01, 0.1),
            "reg_lambda": hp.uniform("reg_lambda", 0.01, 0.1),
        }

    def optimize(self, max_evals: int = 50, *, progress: bool = False) -> lgb.Booster:
        """Evaluate `max_evals` points, fit the best one on all rows, and return the booster.

        The first 20 points are random: only then does TPE begin to learn from the losses.
        `progress` shows a bar on stderr, or one line at the end where stderr is not a terminal.
        A second call starts afresh. ValueError: `max_evals` is below 1.
        """
        if max_evals < 1:
            raise ValueError(f"max_evals must be at least 1, got {max_evals}")
        self.trials: list[dict] = []
        self._search(max_evals, progress)
        best = self._best_trial()
        self.best_loss = best["loss"]
        self.best = {**best["params"], "num_boost_round": best["rounds"]}
        return self.fit(self.best)

    def evaluate(self, params: dict) -> dict:
        """Cross-validate `params` with early stopping and return the trial, as in `trials`."""
        start = time.perf_counter()
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        settings = {**self.fixed, **params}
        result = lgb.cv(settings, self.dataset, nfold=self.folds, seed=self.seed, callbacks=[stop])
        # One loss per round; with the callback, lgb.cv drops those after the best round.
        losses, seconds = result["valid binary_logloss-mean"], time.perf_counter() - start
        return {"params": params, "loss": losses[-1], "rounds": len(losses), "seconds": seconds}

    def fit(self, params: dict) -> lgb.Booster:
        """Fit a booster with `params`, `num_boost_round` among them, on all rows."""
        return lgb.train({**self.fixed, **params}, self.dataset)

    def _search(self, max_evals: int, progress: bool) -> None:
        """Let Hyperopt draw `max_evals` points, one after another, and evaluate each."""
        shown = progress and sys.stderr.isatty()
        with tqdm(total=max_evals, desc="tuning", unit="trial", disable=not shown) as bar:
            fmin(
                lambda point: self._loss(point, bar),
                self.hyperparameter_space(),
                algo=tpe.suggest,
                max_evals=max_evals,
                rstate=np.random.default_rng(self.seed),
                verbose=False,  # turns off Hyperopt's own progress bar
            )
        if progress and not shown:
            best_loss = self._best_trial()["loss"]
            print(f"tuning: trials {max_evals}, best {best_loss:.4f}", file=sys.stderr)

    def _loss(self, point: dict, bar: tqdm) -> float:
        """Evaluate a point as Hyperopt draws it, keep the trial, and return its loss."""
        params = {name: int(v) if name in INTEGERS else float(v) for name, v in point.items()}
        self.trials.append(self.evaluate(params))
        bar.set_postfix_str(f"best {self._best_trial()['loss']:.4f}", refresh=False)
        bar.update()
        return self.trials[-1]["loss"]

    def _best_trial(self) -> dict:
        """Return the trial with the lowest loss, the first one where several have it."""
        return min(self.trials, key=lambda trial: trial["loss"])


def _number_of_folds(y: np.ndarray) -> int:
    """Return into how many stratified folds y can be split, FOLDS at most; ValueError if none."""
    y = np.asarray(y)
    zeros, ones = int(np.count_nonzero(y == 0)), int(np.count_nonzero(y == 1))
    if zeros + ones != len(y):
        raise ValueError("y must hold nothing but 0 and 1")
    if min(zeros, ones) < 2:
        raise ValueError(f"y needs two rows of each class, got {zeros} of 0 and {ones} of 1")
    return min(FOLDS, zeros, ones)
