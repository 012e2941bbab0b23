"""How good some answers were, with 95 % intervals: of an accuracy, or of a mean absolute error."""

from typing import NamedTuple

import numpy as np

from utils.answers import IS_NUMBER, number_text
from utils.datasets import dataset

Z = 1.96  # standard errors in each direction: 95 % of a normal distribution
MEASURE = "absolute error" if IS_NUMBER else "accuracy"


class Answers(NamedTuple):
    """Answers whose outcomes are known: outcomes of shape (n,), scores see datasets/target.py."""

    outcomes: np.ndarray
    scores: np.ndarray

    def hits(self) -> np.ndarray:
        """Return which predicted classes are right: bool, shape (n,)."""
        best = self.scores > 0.5 if self.scores.ndim == 1 else self.scores.argmax(axis=1)
        return best == self.outcomes

    def errors(self) -> np.ndarray:
        """Return the absolute errors of predicted numbers, shape (n,)."""
        return np.abs(self.outcomes - self.scores)


def quality(answers: Answers) -> str:
    """Return a line with accuracy and log loss, or with mean absolute and squared error."""
    loss = float(dataset.target.losses(*answers).mean())
    if IS_NUMBER:
        errors = answers.errors()
        half = _half_width(errors)
        interval = f"(95 %: {number_text(errors.mean() - half)} to "
        interval += f"{number_text(errors.mean() + half)})"
        return f"{number_text(errors.mean())} {interval}, squared {dataset.target.shown(loss)}"
    right, number = _counts(answers)
    low, high = accuracy_interval(right, number)
    return f"{right / number:.3f} (95 %: {low:.3f} to {high:.3f}), logloss {loss:.3f}"


def difference(first: Answers, later: Answers) -> str:
    """Return the difference of the measure, its 95 % interval, and whether it may be noise."""
    if IS_NUMBER:
        low, high = mean_difference_interval(first.errors(), later.errors())
        means = later.errors().mean() - first.errors().mean(), low, high
        value, low_text, high_text = (_signed(float(each)) for each in means)
    else:
        low, high = difference_interval(*_counts(first), *_counts(later))
        means = later.hits().mean() - first.hits().mean(), low, high
        value, low_text, high_text = (f"{each:+.3f}" for each in means)
    noise = "within noise" if low <= 0 <= high else "beyond noise"
    return f"{value} (95 %: {low_text} to {high_text}), {noise}"


def _counts(answers: Answers) -> tuple[int, int]:
    """Return how many predicted classes are right, and how many there are."""
    return int(answers.hits().sum()), len(answers.outcomes)


def _signed(number: float) -> str:
    return ("" if number < 0 else "+") + number_text(number)


def accuracy_interval(right: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, right / number (Wilson, 1927)."""
    center = (right + Z**2 / 2) / (number + Z**2)
    half = Z / (number + Z**2) * (right * (number - right) / number + Z**2 / 4) ** 0.5
    return center - half, center + half


def difference_interval(
    right: int, number: int, later_right: int, later_number: int
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies, the later minus the first.

    The hybrid score interval: Newcombe, 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    first, later = right / number, later_right / later_number
    low, high = accuracy_interval(right, number)
    later_low, later_high = accuracy_interval(later_right, later_number)
    down = ((later - later_low) ** 2 + (high - first) ** 2) ** 0.5
    up = ((later_high - later) ** 2 + (first - low) ** 2) ** 0.5
    return later - first - down, later - first + up


def mean_difference_interval(first: np.ndarray, later: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two means, the later minus the first.

    From their standard errors, each with its own variance (Welch, 1938), and the normal
    distribution: dozens of values are enough. Unbounded if one of the two is a single value.
    """
    center = float(later.mean() - first.mean())
    half = (_half_width(first) ** 2 + _half_width(later) ** 2) ** 0.5
    return center - half, center + half


def _half_width(values: np.ndarray) -> float:
    """Return half the width of the 95 % interval of the mean."""
    number = len(values)
    return Z * float(values.std(ddof=1)) / number**0.5 if number > 1 else float("inf")
