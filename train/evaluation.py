"""How a point is evaluated: rounds are added, and measured, until one of the rules ends it."""

import math
import time
from collections.abc import Sequence

import lightgbm as lgb
import numpy as np

from train.cost import decisions_per_row
from train.encoded_rows import subset
from utils.datasets import dataset
from utils.settings import settings

CURVE_POINTS = 100  # that are kept of a learning curve
MAX_ROUNDS = 500  # the tutorial's limit; every tree costs time in each prediction too
PATIENCE = 30  # early stopping: rounds without a lower loss before a trial ends

# Tuning minimizes the log loss plus this much for each tree node that a row passes (of a number:
# a part of its variance, which is 1 here): a tree that gains less than it costs is not worth its
# time in every prediction. At this rate a learning rate of 0.18 and one of 0.07 are
# equally good for the data of docs/tuning.md: 510 decisions and a log loss of 0.2750, against 1,460
# and 0.2740.
PENALTY = {"low": 1e-6, "any": 0.0}[settings.model_cost]

# A trial is pruned when it could not beat the best one even if its loss kept falling for HORIZON
# more rounds as fast as it did between the last two windows of WINDOW rounds. (On the curves of
# the points that train/split.py mentions, 25 at a time: 0.6 of the time, and the best point is
# worse by 0.00002 on average.)
WINDOW, HORIZON = 30, 100


class Holdout:
    """Measures points on rows that their models are not fitted on, by the loss of the target.

    split : the rows of the Dataset to fit on, and those to measure on; parameters : LightGBM's,
    the same for all points.
    """

    def __init__(
        self, rows: lgb.Dataset, split: tuple[np.ndarray, np.ndarray], parameters: dict
    ) -> None:
        self._fitted, self._unseen = (subset(rows, part) for part in split)
        self._outcomes = self._unseen.get_label().astype(float)
        self._parameters = parameters

    def evaluate(
        self,
        params: dict,
        *,
        to_beat: float = math.inf,
        deadline: float = math.inf,
        most_rounds: int = MAX_ROUNDS,
    ) -> tuple[dict, np.ndarray]:
        """Return the trial of a point, as in `BaseOptimizer.trials`, and each held-out row's loss.

        Trees are added until the penalized loss has not fallen for PATIENCE rounds (as in `lgb.cv`
        with early stopping), or the trial is pruned: it can't reach the penalized loss `to_beat`
        any more, or `time.monotonic()` has reached `deadline`. There are at most `most_rounds`.
        """
        start = time.perf_counter()
        booster = lgb.Booster({**self._parameters, **params}, self._fitted)
        booster.add_valid(self._unseen, "unseen")
        decisions, curve = 0.0, [math.inf]  # the penalized losses after 0, 1, 2, ... rounds
        plain = {}  # rounds: the loss after them; LightGBM may find no split, and add no round
        best, pruned = 0, False
        while len(curve) <= most_rounds and len(curve) - best <= PATIENCE + 1 and not pruned:
            round_before = booster.current_iteration()
            losses = self._add_round(booster)
            decisions += decisions_per_row(booster, first_round=round_before)
            loss = plain[booster.current_iteration()] = float(losses.mean())
            curve.append(loss + PENALTY * decisions)
            if curve[-1] < curve[best]:
                best, least = len(curve) - 1, losses
                rounds, decisions_at_best = booster.current_iteration(), decisions
            pruned = is_hopeless(curve[1:], to_beat) or time.monotonic() >= deadline
        trial = {
            "params": params,
            "loss": float(least.mean()),
            "penalized_loss": curve[best],
            "rounds": rounds,
            "decisions": decisions_at_best,
            "seconds": time.perf_counter() - start,
            "pruned": pruned,
            "curve": thinned(
                [[number, loss] for number, loss in plain.items() if number <= rounds]
            ),
        }
        return trial, least

    def _add_round(self, booster: lgb.Booster) -> np.ndarray:
        """Add a tree (one for each class), and return the loss of each held-out row."""
        found = []
        booster.update()
        booster.eval_valid(lambda scores, _: found.append(scores) or ("", 0.0, False))
        return dataset.target.losses(self._outcomes, found[0]).astype(np.float32)


def thinned(curve: Sequence[list]) -> list[list]:
    """Return at most CURVE_POINTS points of a curve, evenly spaced, the last one among them."""
    return curve[:: -max(math.ceil(len(curve) / CURVE_POINTS), 1)][::-1]


def is_hopeless(curve: Sequence[float], to_beat: float) -> bool:
    """Return True if a trial with these losses, one per round, is not going to beat `to_beat`.

    The loss is extrapolated for HORIZON rounds at its present pace, although a loss falls ever more
    slowly. The pace is taken from means over WINDOW rounds, as single losses are noisy.
    """
    if len(curve) < 2 * WINDOW or min(curve) < to_beat:
        return False
    before, now = np.mean(curve[-2 * WINDOW : -WINDOW]), np.mean(curve[-WINDOW:])
    pace = (before - now) / WINDOW
    return bool(now - pace * (HORIZON + WINDOW / 2) > to_beat)
