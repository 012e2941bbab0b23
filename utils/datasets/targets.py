"""The three kinds of target: one of two classes, one of several, or a number.

utils/datasets/target.py says what labels, outcomes and scores are.
"""

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from utils.datasets.target import FiniteNumber, Label, Probability, Target, is_number
from utils.metrics import area_under_curve, calibration_error, class_log_losses, log_losses

MAX_CLASSES = 200  # the store keeps the outcome of a class in one byte
SHOWN_LABELS = 10  # of more classes, an error names so many


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
        self.labels = tuple(_plain(label) for label in labels)
        self._check(aliases or {})
        self.outcomes = {label: float(place) for place, label in enumerate(self.labels)}
        self.outcomes |= {alias: self.outcomes[of] for alias, of in (aliases or {}).items()}
        self.label_type = Literal[tuple(self.outcomes)]
        self.prediction_type = Literal[self.labels]
        self.objective = {"objective": "multiclass", "num_class": len(self.labels)}
        self.objective |= {"min_child_samples": 5}  # min_child_weight limits leaves, and is tuned
        self.outputs = len(self.labels)
        self._names = [str(label) for label in self.labels]
        more = ", ..." if len(self.labels) > SHOWN_LABELS else ""
        self.expected = f"one of {', '.join(self._names[:SHOWN_LABELS])}{more}"

    def _check(self, aliases: dict) -> None:
        wrong = [each for each in [*self.labels, *aliases] if not _is_label(each)]
        if wrong:
            raise ValueError(f"{self.name}: a class is a string or an integer, not {wrong[0]!r}")
        if not 2 <= len(self.labels) <= MAX_CLASSES:
            found = f"it has {len(self.labels)}"
            raise ValueError(f"{self.name}: needs 2 to {MAX_CLASSES} classes, {found}")
        names = [*map(str, self.labels), *(alias for alias in aliases if alias in self.labels)]
        if twice := sorted(name for name in names if names.count(name) > 1):
            raise ValueError(f"{self.name}: the class {twice[0]!r} is there twice")
        if unknown := [of for of in aliases.values() if of not in self.labels]:
            raise ValueError(f"{self.name}: an alias stands for {unknown[0]!r}, which is no class")

    def outcome_of(self, label: Label) -> float:
        """Return the position of the label's class."""
        if type(label) not in (str, int) or label not in self.outcomes:
            raise ValueError(f"{self.name}: expected {self.expected}, got {repr(label)[:80]}")
        return self.outcomes[label]

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
        self.objective, self.outputs = {"objective": "binary", "min_child_samples": 5}, 1
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

    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these are probabilities."""
        return bool(scores.ndim == 1 and ((scores >= 0) & (scores <= 1)).all())


class Number(Target):
    """A number; the squared error is minimized, so its mean is predicted."""

    kind, loss, metric = "number", "squared error", "l2"
    # min_child_weight, a sum of second derivatives, limits leaves of probabilities only: that of a
    # squared error is 1 in each row.
    objective = {"objective": "regression", "min_child_samples": 20}
    label_type, prediction_type = FiniteNumber, float
    outcome_dtype, expected = np.float64, "a number"

    def outcome_of(self, label: Label) -> float:
        """Return the number."""
        if not is_number(label):
            raise ValueError(f"{self.name}: expected a number, got {repr(label)[:80]}")
        return float(label)

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

    def are_scores(self, scores: np.ndarray) -> bool:
        """Return whether these are finite numbers."""
        return bool(scores.ndim == 1 and np.isfinite(scores).all())

    def shown(self, loss: float) -> str:
        """Return a squared error, or a difference of them, as text."""
        return f"{loss:,.4g}"

    def strata(self, outcomes: np.ndarray) -> np.ndarray:
        """Return zeros: all rows are in one stratum."""
        return np.zeros(len(outcomes), np.int16)

    def scale(self, outcomes: np.ndarray) -> tuple[float, float]:
        """Return mean and standard deviation: then a penalty means the same in each unit."""
        return float(outcomes.mean()), float(outcomes.std()) or 1.0


def restore_target(kind: str, name: str, labels: Iterable[Label], outputs: int) -> Target:
    """Return a target as a model was made for it; outputs : how many scores it gives a row."""
    if kind == Number.kind:
        return Number(name)
    return TwoClasses(name, *labels) if outputs == 1 else Classes(name, labels)


def _plain(label: Any) -> Any:
    """Return a label of numpy, as pandas' unique() returns them, as one of Python."""
    return label.item() if isinstance(label, np.generic) else label


def _is_label(label: Any) -> bool:
    return type(label) is str or (type(label) is int and abs(label) < 2**53)
