"""The order in which categories get their codes.

LightGBM splits a column of codes at a threshold, as it splits numbers. That is cheap in every
prediction, and it finds good splits if neighbours in the order have similar outcomes.
"""

import numpy as np

from utils.datasets import dataset

# Each mean is taken as if there were this many more rows with the mean of all rows, so rare
# categories are near it (Micci-Barreca, "A preprocessing scheme for high-cardinality categorical
# attributes in classification and prediction problems", 2001). 5 to 100 gave the same log loss.
SMOOTHING = 20
CHECKED = 200_000  # held-out rows that check an order are enough


class OrderByOutcome:
    """Orders categories by the mean outcome of their rows, if that holds on other rows too.

    Where there are several classes, each category has several shares: they are ordered by their
    first principal component (Coppersmith, Hong, Hosking: "Partitioning nominal attributes in
    decision trees", 1999).

    outcomes, of shape (rows,); held_out, a mask of the same shape: rows whose outcomes only check
    the order. Without the check, a column of a thousand meaningless categories would get an order
    that fits its outcomes: on the data of docs/tuning.md, it raised the log loss from 0.277 to
    0.287.
    """

    def __init__(self, outcomes: np.ndarray, held_out: np.ndarray) -> None:
        self._fitted, self._checking = np.flatnonzero(~held_out), np.flatnonzero(held_out)[:CHECKED]
        self._outcomes, self._checked_by = outcomes[self._fitted], outcomes[self._checking]
        all_rows = np.zeros(len(self._fitted), np.intp)
        self._overall = dataset.target.sums(self._outcomes, all_rows, 1)[0] / len(self._fitted)

    def __call__(self, codes: np.ndarray, size: int) -> np.ndarray:
        """Return the place of each code in the order, shape (size + 1,): an integer from 0 on.

        codes, of shape (rows,), are 0 to size - 1, and size for an unknown category. Unknown is in
        the order too: where the mean of all rows is, unless there are such rows.
        """
        places, fitted = np.arange(size + 1), codes[self._fitted]
        rows = np.bincount(fitted, minlength=size + 1)
        means = self._means(fitted, rows)
        if self._holds(means[codes[self._checking]]):
            keys = means[:, 0] if means.shape[1] == 1 else first_component(means, rows)
            places[np.argsort(keys, kind="stable")] = np.arange(size + 1)
        return places

    def _means(self, codes: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the smoothed mean outcome (shares of classes) of each code: (codes, outputs)."""
        sums = dataset.target.sums(self._outcomes, codes, len(rows)) + SMOOTHING * self._overall
        return sums / (rows + SMOOTHING)[:, None]

    def _holds(self, means: np.ndarray) -> bool:
        """Return whether these means, as scores of the held-out rows, beat the overall ones."""
        target = dataset.target
        overall = np.broadcast_to(self._overall, means.shape)
        losses = [
            target.losses(self._checked_by, target.as_scores(each)) for each in (overall, means)
        ]
        gains = losses[0] - losses[1]
        return len(gains) > 1 and gains.mean() > 2 * gains.std(ddof=1) / np.sqrt(len(gains))


def first_component(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the first principal component of weighted points, shape (n,); points (n, k)."""
    centered = points - np.average(points, axis=0, weights=weights)
    covariance = (centered * weights[:, None]).T @ centered
    component = centered @ np.linalg.eigh(covariance)[1][:, -1]
    return component if component[np.argmax(np.abs(component))] > 0 else -component
