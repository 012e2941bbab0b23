"""Tune LightGBM with Hyperopt's TPE, the tree-structured Parzen estimator.

Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NIPS 2011).
"""

import logging
from functools import partial
from math import log

import numpy as np

from train.optimizer import BaseOptimizer
from train.space import SPACE, Range

# Hyperopt is imported where it is needed: most retrainings evaluate one known point.
# It logs two INFO lines a trial, which would flood the log of a program that shows INFO.
logging.getLogger("hyperopt").setLevel(logging.WARNING)


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Hyperopt, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "hyperopt"

    def hyperparameter_space(self) -> dict:
        """Return what Hyperopt draws from."""
        return {name: _distribution(name, bounds) for name, bounds in SPACE.items()}

    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate the points, then those that Hyperopt draws; keep each trial in the study."""
        if self.spark and points and max_evals > len(points):
            from train.spark_trials import search_on_spark

            search_on_spark(self, max_evals, points)
            max_evals, points = max_evals - len(self.trials), []
            if max_evals < 1 or self.seconds_left() <= 0:
                return
        if len(points) == max_evals:  # fmin would evaluate none of them
            for point in points:
                self.evaluate_point(point)
            return
        from hyperopt import fmin, tpe

        fmin(
            self.evaluate_point,
            self.hyperparameter_space(),
            # Random points first, then TPE; fewer are needed when good points are known.
            algo=partial(tpe.suggest, n_startup_jobs=len(points) + max_evals // 5),
            max_evals=max_evals - len(points),  # besides the given points
            points_to_evaluate=points or None,
            # The same seed must not draw the points of earlier searches again.
            rstate=np.random.default_rng([self.seed, self.store.last_trial()]),
            early_stop_fn=lambda trials, *_: (self.seconds_left() <= 0, []),
            verbose=False,  # turns off Hyperopt's own progress bar
        )

    def evaluate_point(self, point: dict) -> dict:
        """Evaluate a point as Hyperopt draws it, keep the trial, return the loss."""
        # Hyperopt evaluates all points_to_evaluate before it asks early_stop_fn.
        if self.trials and self.seconds_left() <= 0:
            return {"status": "fail"}  # hyperopt.STATUS_FAIL
        trial = self.run_trial(plain(point))
        self.store.add(trial, self.libraries())
        return {"status": "ok", "loss": trial["penalized_loss"]}


def plain(point: dict) -> dict:
    """Return a point as Hyperopt draws it in plain Python numbers."""
    return {name: int(v) if SPACE[name].integer else float(v) for name, v in point.items()}


def _distribution(name: str, bounds: Range):
    """Return Hyperopt's distribution of a hyperparameter; integers are rounded numbers."""
    from hyperopt import hp

    low, high = (log(bounds.low), log(bounds.high)) if bounds.log else (bounds.low, bounds.high)
    if bounds.integer:
        return (hp.qloguniform if bounds.log else hp.quniform)(name, low, high, 1)
    return (hp.loguniform if bounds.log else hp.uniform)(name, low, high)
