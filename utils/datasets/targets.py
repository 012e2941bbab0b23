"""What a data set predicts: one of two classes, one of several classes, or a number.

A label is what messages and files contain: `"yes"`, `"bought"`, `3`, `151.5`. An outcome is the
same as a float: the position of the class, or the number. Scores are what a model predicts for n
rows: the probability of the second of two classes, shape (n,); the probability of each of k
classes, shape (n, k); the number, shape (n,).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import numpy as np
from msgspec import Meta

from utils.metrics import area_under_curve, calibration_error, class_log_losses, log_losses

# A larger number is a mistake, and in a scaled column one such row would compress all the others.
FiniteNumber = Annotated[float, Meta(ge=-1e15, le=1e15)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Label = str | int | float
MAX_CLASSES = 200  # the store keeps the outcome of a class in one byte


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
    def label_of(self, outcome: float) -> Label:
        """Return the label of an outcome."""

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
    def indicators(self, outcomes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield arrays of shape (n,) whose means, side by side, are the best constant scores."""

    @abstractmethod
    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these can be the scores of some rows."""

    def shown(self, loss: float) -> str:
        """Return a loss, or a difference of losses, as text."""
        return f"{loss:.4f}"

    def constant(self, outcomes: np.ndarray) -> np.ndarray:
        """Return the same scores for each row, those with the least loss; shape as of scores."""
        means = np.array([values.mean() for values in self.indicators(outcomes)])
        return self.as_scores(np.broadcast_to(means, (len(outcomes), len(means))))

    def as_scores(self, means: np.ndarray) -> np.ndarray:
        """Return means of the indicators, shape (n, number of indicators), as scores."""
        return means[:, 0] if means.shape[1] == 1 else means

    def strata(self, outcomes: np.ndarray) -> np.ndarray:
        """Return the class of each row, for stratified folds: int16, shape (n,)."""
        return outcomes.astype(np.int16)

    def loss_scale(self, outcomes: np.ndarray) -> float:
        """Return what a loss of one nat of information corresponds to."""
        return 1.0


class Classes(Target):
    """One of several classes; `labels` are strings or integers.

    aliases : further labels that are accepted -> the label that each of them stands for.
    """

    kind, loss, metric = "classes", "log loss", "multi_logloss"
    outcome_dtype = np.uint8

    def __init__(
        self, name: str, labels: Iterable[Label], aliases: dict[Label, Label] | None = None
    ) -> None:
        super().__init__(name)
        self.labels = tuple(labels)
        self._check(aliases or {})
        self.outcomes = {label: float(place) for place, label in enumerate(self.labels)}
        self.outcomes |= {alias: self.outcomes[of] for alias, of in (aliases or {}).items()}
        self.label_type = Literal[tuple(self.outcomes)]
        self.prediction_type = Literal[self.labels]
        self.objective = {"objective": "multiclass", "num_class": len(self.labels)}
        self.outputs = len(self.labels)
        self._names = [str(label) for label in self.labels]

    def _check(self, aliases: dict) -> None:
        wrong = [each for each in [*self.labels, *aliases] if type(each) not in (str, int)]
        if wrong:
            raise ValueError(f"{self.name}: a class is a string or an integer, not {wrong[0]!r}")
        if not 2 <= len(self.labels) <= MAX_CLASSES:
            found = f"it has {len(self.labels)}"
            raise ValueError(f"{self.name}: needs 2 to {MAX_CLASSES} classes, {found}")
        names = [str(label) for label in [*self.labels, *aliases]]
        if twice := sorted(name for name in names if names.count(name) > 1):
            raise ValueError(f"{self.name}: the class {twice[0]!r} is there twice")
        if unknown := [of for of in aliases.values() if of not in self.labels]:
            raise ValueError(f"{self.name}: an alias stands for {unknown[0]!r}, which is no class")

    def outcome_of(self, label: Label) -> float:
        """Return the position of the label's class."""
        if type(label) not in (str, int) or label not in self.outcomes:
            expected = ", ".join(map(str, self.labels))
            raise ValueError(f"{self.name}: expected one of {expected}, got {repr(label)[:80]}")
        return self.outcomes[label]

    def label_of(self, outcome: float) -> Label:
        """Return the class at this position."""
        return self.labels[int(outcome)]

    def changed(self, label: Label) -> Label:
        """Return the next class."""
        return self.labels[(int(self.outcome_of(label)) + 1) % len(self.labels)]

    def answers(self, scores: np.ndarray, model_id: int) -> Iterable[tuple]:
        """Return (class, None, model_id, {class: probability}) for each row."""
        best, names = scores.argmax(axis=1).tolist(), self._names
        return [
            (self.labels[place], None, model_id, dict(zip(names, row, strict=True)))
            for place, row in zip(best, scores.tolist(), strict=True)
        ]

    def losses(self, outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the log loss of each row."""
        return class_log_losses(outcomes, scores)

    def figures(self, outcomes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Return log loss and accuracy."""
        return {
            "logloss": float(self.losses(outcomes, scores).mean()),
            "accuracy": float(np.mean(scores.argmax(axis=1) == outcomes)),
        }

    def indicators(self, outcomes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield for each class which rows are of it."""
        return (outcomes == place for place in range(len(self.labels)))

    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether each row has a probability for each class, and these add up to 1."""
        shape = scores.ndim == 2 and scores.shape[1] == len(self.labels)
        return bool(shape and (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1))


class TwoClasses(Classes):
    """One of two classes; the probability of the second one, `positive`, is predicted."""

    metric = "binary_logloss"

    def __init__(
        self, name: str, negative: Label, positive: Label, aliases: dict | None = None
    ) -> None:
        super().__init__(name, (negative, positive), aliases)
        self.objective, self.outputs = {"objective": "binary"}, 1
        self.prediction_type = Probability  # 0.0 or 1.0

    def answers(self, scores: np.ndarray, model_id: int) -> Iterable[tuple]:
        """Return (0.0 or 1.0, probability, model_id) for each row."""
        return zip(
            (scores > 0.5).astype(float).tolist(), scores.tolist(), [model_id] * len(scores),
            strict=True,
        )  # fmt: skip

    def losses(self, outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the log loss of each row."""
        return log_losses(outcomes, scores)

    def figures(self, outcomes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Return log loss, area under the ROC curve, accuracy and calibration error."""
        return {
            "logloss": float(log_losses(outcomes, scores).mean()),
            "auc": area_under_curve(outcomes, scores),
            "accuracy": float(np.mean((scores > 0.5) == outcomes)),
            "calibration_error": calibration_error(outcomes, scores),
        }

    def indicators(self, outcomes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the outcomes, whose mean is the probability of the second class."""
        yield outcomes

    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these are probabilities."""
        return bool(scores.ndim == 1 and ((scores >= 0) & (scores <= 1)).all())


class Number(Target):
    """A number; the squared error is minimized, so its mean is predicted."""

    kind, loss, metric = "number", "squared error", "l2"
    objective = {"objective": "regression"}
    label_type = prediction_type = FiniteNumber
    outcome_dtype = np.float64

    def outcome_of(self, label: Label) -> float:
        """Return the number."""
        is_number = isinstance(label, int | float | np.number) and not isinstance(label, bool)
        if not (is_number and abs(label) <= 1e15):  # False for NaN too
            raise ValueError(f"{self.name}: expected a number, got {repr(label)[:80]}")
        return float(label)

    def label_of(self, outcome: float) -> Label:
        """Return the number."""
        return outcome

    def changed(self, label: Label) -> Label:
        """Return half the number."""
        return label / 2

    def answers(self, scores: np.ndarray, model_id: int) -> Iterable[tuple]:
        """Return (number, None, model_id) for each row."""
        return [(number, None, model_id) for number in scores.tolist()]

    def losses(self, outcomes: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the squared error of each row."""
        return (outcomes - scores) ** 2

    def figures(self, outcomes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
        """Return mean squared error, mean absolute error, and R2 (1 - error / variance)."""
        error = float(self.losses(outcomes, scores).mean())
        variance = float(np.var(outcomes))
        return {
            "squared_error": error,
            "absolute_error": float(np.abs(outcomes - scores).mean()),
            "r2": 1 - error / variance if variance else 0.0,
        }

    def indicators(self, outcomes: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the numbers."""
        yield outcomes

    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these are finite numbers."""
        return bool(scores.ndim == 1 and np.isfinite(scores).all())

    def shown(self, loss: float) -> str:
        """Return a squared error, or a difference of them, as text."""
        return f"{loss:,.4g}"

    def strata(self, outcomes: np.ndarray) -> np.ndarray:
        """Return zeros: all rows are in one stratum."""
        return np.zeros(len(outcomes), np.int16)

    def loss_scale(self, outcomes: np.ndarray) -> float:
        """Return the variance: what always predicting the mean loses."""
        return float(np.var(outcomes)) or 1.0
