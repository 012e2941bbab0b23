"""Tune LightGBM with Hyperopt.

Hyperopt searches with TPE, the tree-structured Parzen estimator of Bergstra et al., "Algorithms for
Hyper-Parameter Optimization" (NIPS 2011). It begins with the points that are known to be good: the
champion's, then the best of the trail (train/trail.py).
"""

import logging
from collections.abc import Iterable
from functools import partial
from math import log

import numpy as np
from hyperopt import STATUS_FAIL, STATUS_OK, fmin, hp, tpe

from train.optimizer import BaseOptimizer, distinct_points, known_points_to_try
from train.space import SPACE, Range
from train.trail import Trail, best_points

# Hyperopt logs two INFO lines per trial, which would drown the log of a program that shows INFO.
logging.getLogger("hyperopt").setLevel(logging.WARNING)


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Hyperopt, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "hyperopt"

    def hyperparameter_space(self) -> dict:
        """Return what Hyperopt draws from."""
        return {name: _distribution(name, bounds) for name, bounds in SPACE.items()}

    def search(self, max_evals: int, known_points: Iterable[dict]) -> None:
        """Evaluate the known points, then what Hyperopt draws; every trial goes into the trail."""
        past = self._read_trail()
        points = distinct_points(
            [*known_points, *best_points(past, self.data_id)], known_points_to_try(max_evals)
        )
        if len(points) == max_evals:  # then fmin would evaluate none of them
            for point in points:
                self._loss(point)
            return
        fmin(
            self._loss,
            self.hyperparameter_space(),
            # Some random points, then TPE; beside known ones it needs fewer of them.
            algo=partial(tpe.suggest, n_startup_jobs=len(points) + max_evals // 5),
            max_evals=max_evals - len(points),  # beside the given points
            points_to_evaluate=points or None,
            # With the same seed, a second search must not draw the first one's points again.
            rstate=np.random.default_rng([self.seed, len(past)]),
            early_stop_fn=lambda trials, *_: (self.seconds_left() <= 0, []),
            verbose=False,  # turns off Hyperopt's own progress bar
        )

    def _loss(self, point: dict) -> dict:
        """Evaluate a point as Hyperopt draws it, and return the loss."""
        if (
            self.trials and self.seconds_left() <= 0
        ):  # the known points are evaluated without a pause
            return {"status": STATUS_FAIL}
        trial = self.run_trial(
            {name: int(v) if SPACE[name].integer else float(v) for name, v in point.items()}
        )
        if self.trail:
            Trail(self.trail).append({**self.origin(), **trial})
        return {"status": STATUS_OK, "loss": trial["loss"]}

    def _read_trail(self) -> list[dict]:
        records = Trail(self.trail).read() if self.trail else []
        return [record for record in records if record["experiment"] == self.experiment_id]


def _distribution(name: str, bounds: Range):
    """Return Hyperopt's distribution of a hyperparameter; integers are rounded ones."""
    low, high = (log(bounds.low), log(bounds.high)) if bounds.log else (bounds.low, bounds.high)
    if bounds.integer:
        return (hp.qloguniform if bounds.log else hp.quniform)(name, low, high, 1)
    return (hp.loguniform if bounds.log else hp.uniform)(name, low, high)
