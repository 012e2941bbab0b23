"""What a data set predicts: the interface of the three kinds in utils/datasets/targets.py.

A label is what messages and files contain: `"yes"`, `"bought"`, `3`, `151.5`. An outcome is the
same as a float: the position of the class, or the number. Scores are what a model predicts for n
rows: the probability of the second of two classes, shape (n,); the probability of each of k
classes, shape (n, k); the number, shape (n,).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
from msgspec import Meta

# A larger number is a mistake, and in a scaled column one such row would compress all the others.
LARGEST = 1e15
FiniteNumber = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Label = str | int | float
REPLY = ("prediction", "probability", "model_id", "probabilities")  # what Target.answers() returns


def is_number(value: Any) -> bool:
    """Return whether this is a number that a request may contain; NaN is none."""
    known = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return known and bool(abs(value) <= LARGEST)


class Target(ABC):
    """The column that is predicted.

    name : of the column, and of its field in a request whose outcome is already known.
    """

    kind: str  # "classes" or "number": stores and models of another kind can't be used
    loss: str  # the name of its loss in texts: lower is better
    metric: str  # LightGBM's name of the loss
    objective: dict  # LightGBM's parameters
    labels: tuple = ()  # of the classes, in the order of their outcomes
    label_type: Any  # as msgspec checks a label
    prediction_type: Any  # as msgspec checks the field `prediction` of a reply
    outcome_dtype: type  # in which the store keeps outcomes
    outputs = 1  # how many scores a row has

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def outcome_of(self, label: Label) -> float:
        """Return the outcome that a label stands for; ValueError if it is none."""

    @abstractmethod
    def changed(self, label: Label) -> Label:
        """Return another label: what the sample app reports after a drift, unless the data set
        says something else."""

    @abstractmethod
    def answers(self, scores: np.ndarray, model_id: int) -> Iterable[tuple]:
        """Return the fields of each row's reply that follow its request_id, in their order."""

    @abstractmethod
    def losses(self, outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return each row's loss, shape (n,)."""

    @abstractmethod
    def figures(self, outcomes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Return how good scores are, by the names of the figures; the loss is the first one."""

    @abstractmethod
    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these can be the scores of some rows."""

    def shown(self, loss: float) -> str:
        """Return a loss, or a difference of losses, as text."""
        return f"{loss:.4f}"

    def sums(self, outcomes: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
        """Return the sums of the outcomes in each group, shape (size, outputs).

        groups, of shape (n,), are integers below size. Of several classes it is the number of rows
        of each class: divided by the group's rows, the best scores that are the same for its rows.
        """
        if self.outputs == 1:
            return np.bincount(groups, outcomes, size)[:, None]
        both = groups * self.outputs + outcomes.astype(np.intp)
        return np.bincount(both, minlength=size * self.outputs).reshape(size, self.outputs)

    def constant(self, outcomes: np.ndarray) -> np.ndarray:
        """Return the same scores for each row, those with the least loss; shape as of scores."""
        means = self.sums(outcomes, np.zeros(len(outcomes), np.intp), 1) / len(outcomes)
        return self.as_scores(np.broadcast_to(means, (len(outcomes), self.outputs)))

    def as_scores(self, means: np.ndarray) -> np.ndarray:
        """Return an array of shape (n, outputs) in the shape of scores."""
        return means[:, 0] if self.outputs == 1 else means

    def strata(self, outcomes: np.ndarray) -> np.ndarray:
        """Return the class of each row, for stratified folds: int16, shape (n,)."""
        return outcomes.astype(np.int16)

    def scale(self, outcomes: np.ndarray) -> tuple[float, float]:
        """Return (center, spread): what LightGBM learns is (outcome - center) / spread."""
        return 0.0, 1.0
