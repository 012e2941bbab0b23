"""How much better or worse one model is than another, on the same rows: the loss and the cost.

The mean difference over all rows would be a bad estimate: on one batch of wrong labels, a model
that has learned them is so much better that four good batches can't outweigh it. So the rows are
grouped by the training that added them, and the estimate is the median of the groups' means (median
of means: Lugosi and Mendelson, "Mean estimation and regression under heavy-tailed distributions",
2019). Its 95 % interval comes from the paired bootstrap (Efron and Tibshirani, "An Introduction to
the Bootstrap", 1993).
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np

from train.cost import cost_of
from utils.datasets import dataset
from utils.model_store.model import Model

shown = dataset.target.shown
RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)  # percentiles
WIDTH = 2 * 1.96  # of a 95 % interval, in standard errors


class Comparison(NamedTuple):
    """A model beside another one. Differences of losses: below 0, the model is better."""

    other: int | str  # model_id of the other one; of several ones, as text
    difference: float  # in the median group
    low: float  # the 95 % interval of this difference
    high: float
    mean: float  # the difference over all rows
    cost: float  # of a prediction, as a multiple of the other model's

    @property
    def is_better(self) -> bool:
        """Whether the model is better beyond noise."""
        return self.high < 0

    @property
    def is_worse(self) -> bool:
        """Whether the model is worse beyond noise."""
        return self.low > 0

    @property
    def error(self) -> float:
        """The standard error of the difference."""
        return (self.high - self.low) / WIDTH

    def __str__(self) -> str:
        """Return what was found, such as "as good as model 3 (95 %: ...)"."""
        if self.is_better or self.is_worse:
            word, sign = ("better", -1) if self.is_better else ("worse", 1)
            low, high = sorted((sign * self.low, sign * self.high))
            size = f"by {shown(sign * self.difference)} in {dataset.target.loss}"
            interval = f"(95 %: {shown(low)} to {shown(high)})"
            return f"{word} {size} {interval} than model {self.other}"
        return f"as good as {self.interval}"

    @property
    def interval(self) -> str:
        """The other model and the interval, where the interval contains 0."""
        limits = f"{shown(abs(self.low))} better to {shown(self.high)} worse"
        return f"model {self.other} (95 %: {limits} in {dataset.target.loss})"


def compare(
    models: list[Model], losses: list[np.ndarray], groups: np.ndarray, seed: int
) -> list[Comparison]:
    """Compare each model with all after it: 1 with 2, 1 with 3, 2 with 3.

    losses, each of shape (n,), are those of the models on the rows. groups, of shape (n,): for each
    row the training that added it.
    """
    pairs = list(combinations(range(len(models)), 2))
    differences = np.array([losses[i] - losses[j] for i, j in pairs])
    costs = [cost_of(model) for model in models]
    found = zip(
        estimates(differences, groups, seed).tolist(), differences.mean(axis=1), strict=True
    )
    return [
        Comparison(models[j].model_id, *estimate, float(mean), costs[i] / max(costs[j], 1))
        for (i, j), (estimate, mean) in zip(pairs, found, strict=True)
    ]


def estimates(differences: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Return the median of the groups' means and the limits of its 95 % interval, shape (k, 3).

    differences, of shape (k, n), are k differences for each row; groups has the shape (n,). Groups
    are weighted by their rows.
    """
    rng, (names, sizes) = np.random.default_rng(seed), np.unique(groups, return_counts=True)
    means = np.empty((len(names), 1 + RESAMPLES, len(differences)))  # first those of the rows
    for name, size, of_group in zip(names, sizes, means, strict=True):
        group = differences[:, groups == name]
        of_group[0] = group.mean(axis=1)
        for sample in of_group[1:]:
            times = np.bincount(rng.integers(0, size, size, dtype=np.int32), minlength=size)
            # Not a matrix product: BLAS would start threads, which wait for each other.
            sample[:] = np.einsum("kn,n->k", group, times) / size
    medians = weighted_medians(means.reshape(len(names), -1), sizes).reshape(means.shape[1:])
    return np.column_stack([medians[0], *np.percentile(medians[1:], INTERVAL, axis=0)])


def median_of_means(values: np.ndarray, groups: np.ndarray) -> float:
    """Return the median of the groups' means, weighted by their rows; shapes (n,)."""
    names, sizes = np.unique(groups, return_counts=True)
    means = [[values[groups == name].mean()] for name in names]
    return float(weighted_medians(np.array(means), sizes)[0])


def weighted_medians(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted median of each column; values (n, m), integer weights (n,).

    Where one half of the weight is exactly below, it is the mean of the two middle values: the
    lower one alone would favor one of the two models.
    """
    order = np.argsort(values, axis=0)
    below = 2 * np.cumsum(weights[order], axis=0)
    middle = [(below >= weights.sum()).argmax(axis=0), (below > weights.sum()).argmax(axis=0)]
    return np.take_along_axis(np.take_along_axis(values, order, 0), np.array(middle), 0).mean(0)
