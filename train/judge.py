"""Champion or challenger: does the new model deserve to replace the running one?

Both predict rows that neither was trained on: those that each of the last W trainings brought, and
original rows where these are too few. The challenger is promoted unless it is worse beyond noise,
by the difference of the log losses. The mean of all rows would be a bad judge: of one batch with
wrong labels, a model that has learned them is so much better that four good batches can't make up
for it. Hence the median over the groups of their means (the median of means; Lugosi and Mendelson,
"Mean estimation and regression under heavy-tailed distributions", 2019), and the paired bootstrap
for its noise (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from typing import NamedTuple

import numpy as np

from train.fit import score
from train.rows import Rows
from utils.model_store.card import Figures, Judgement
from utils.model_store.model import Model

RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)  # percentiles: worse beyond noise means that all between them is worse


class Verdict(NamedTuple):
    """The decision, the reason in words, and the figures."""

    decision: str  # "promoted" or "rejected"
    why: str
    figures: Judgement


def judge(
    champion: Model, challenger: Model, rows: Rows, groups: np.ndarray, seed: int = 1
) -> Verdict:
    """Return whether the challenger deserves to replace the champion.

    rows : at least two, of both outcomes; groups : for each of them the training that was the first
    to have it, 0 for an original row.
    """
    probabilities = [model.predict(rows.frame) for model in (champion, challenger)]
    before, after = (log_losses(rows.outcomes, each) for each in probabilities)
    low, high = interval(after - before, groups, seed)
    old, new = (Figures(**score(rows.outcomes, each)) for each in probabilities)
    comparison = "worse beyond noise" if low > 0 else "not worse beyond noise"
    why = (
        f"{comparison}, {low:+.4f} to {high:+.4f} in the median group of {len(rows)} held-out "
        f"rows (logloss of all {new.logloss:.4f}, of the champion {old.logloss:.4f})"
    )
    figures = Judgement(
        rows=len(rows),
        observed=int((groups > 0).sum()),
        champion=old,
        challenger=new,
        difference=(low, high),
    )
    return Verdict("rejected" if low > 0 else "promoted", why, figures)


def log_losses(outcomes: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the log loss of each row; both arrays of shape (n,), outcomes 0.0 or 1.0."""
    of_truth = np.where(outcomes == 1, probabilities, 1 - probabilities)
    return -np.log(np.clip(of_truth, 1e-15, 1))


def interval(differences: np.ndarray, groups: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the bootstrap's 95 % interval of the median over the groups of their means.

    Both of shape (n,). A group counts as much as it has rows.
    """
    chance, (names, sizes) = np.random.default_rng(seed), np.unique(groups, return_counts=True)
    means = np.empty((len(names), RESAMPLES))
    for name, size, row in zip(names, sizes, means, strict=True):
        group = differences[groups == name]
        row[:] = [group[chance.integers(0, size, size)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(weighted_medians(means, sizes), INTERVAL)
    return float(low), float(high)


def weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the lower weighted median of each column; values (n, m), weights (n,)."""
    order = np.argsort(values, axis=0)
    half = np.cumsum(weights[order], axis=0) >= weights.sum() / 2
    return np.take_along_axis(values, order, axis=0)[half.argmax(axis=0), range(values.shape[1])]
