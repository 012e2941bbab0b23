"""Champion or challenger: is the new model good enough to replace the one that answers now?

Both predict rows that neither was trained on: observations of the last W trainings, and original
rows if these are too few. The challenger is promoted unless it is significantly worse, by the
difference of the log losses. The mean over all rows would be a bad judge: on one batch of wrong
labels, a model that has learned them is so much better that four good batches can't outweigh it.
So the rows are grouped by the training that added them, and the judge takes the median of the
groups' means (median of means: Lugosi and Mendelson, "Mean estimation and regression under
heavy-tailed distributions", 2019). Its interval comes from the paired bootstrap (Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from typing import NamedTuple

import numpy as np

from train.fit import score
from train.rows import LabeledRows
from utils.metrics import log_losses
from utils.model_store.card import Figures, Judgement
from utils.model_store.model import Model

RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)  # percentiles: significantly worse means worse at both of them


class Verdict(NamedTuple):
    """The decision, the reason as text, and the figures."""

    decision: str  # "promoted" or "rejected"
    why: str
    judgement: Judgement


def judge(
    champion: Model, challenger: Model, rows: LabeledRows, groups: np.ndarray, seed: int = 1
) -> Verdict:
    """Return whether the challenger is promoted or rejected.

    rows : at least two, of both outcomes; groups, of shape (n,) : for each row the first training
    that used it, 0 for an original row.
    """
    probabilities = [model.predict(rows.frame) for model in (champion, challenger)]
    losses = [log_losses(rows.outcomes, each) for each in probabilities]
    low, high = interval(losses[1] - losses[0], groups, seed)
    old, new = (Figures(**score(rows.outcomes, each)) for each in probabilities)
    comparison = "worse beyond noise" if low > 0 else "not worse beyond noise"
    why = (
        f"{comparison}, {low:+.4f} to {high:+.4f} in the median group of {len(rows)} held-out "
        f"rows (logloss on all of them {new.logloss:.4f}, the champion's {old.logloss:.4f})"
    )
    judgement = Judgement(
        rows=len(rows),
        observed=int((groups > 0).sum()),
        champion=old,
        challenger=new,
        difference=(low, high),
    )
    return Verdict("rejected" if low > 0 else "promoted", why, judgement)


def interval(differences: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the median of the groups' means.

    Both arrays have the shape (n,). Groups are weighted by their rows.
    """
    rng, (names, sizes) = np.random.default_rng(seed), np.unique(groups, return_counts=True)
    means = np.empty((len(names), RESAMPLES))
    for name, size, row in zip(names, sizes, means, strict=True):
        group = differences[groups == name]
        row[:] = [group[rng.integers(0, size, size)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(weighted_medians(means, sizes), INTERVAL)
    return float(low), float(high)


def weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the lower weighted median of each column; values (n, m), weights (n,)."""
    order = np.argsort(values, axis=0)
    half = np.cumsum(weights[order], axis=0) >= weights.sum() / 2
    return np.take_along_axis(values, order, axis=0)[half.argmax(axis=0), range(values.shape[1])]
