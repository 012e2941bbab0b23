"""The search space: the hyperparameters of LightGBM that are tuned, and their bounds.

The names are the tutorial's (jrzaurin/ml_pipelines). `num_boost_round` is not among them, because
early stopping finds it. Where the tutorial's bounds left out good points they are wider here: fewer
leaves, fewer columns per tree, penalties that have an effect. A lower learning rate gives a lower
loss for more trees, which cost time in each prediction: MODEL_COST chooses between the two. What
the names mean: https://lightgbm.readthedocs.io/en/stable/Parameters.html
"""

from dataclasses import dataclass

from utils.datasets import dataset
from utils.settings import settings


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included; `log` : draw uniformly on a log scale."""

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


SPACE = {
    "learning_rate": Range(0.05, 0.3, log=True),
    "num_leaves": Range(8, 128, log=True, integer=True),
    "min_child_weight": Range(0.1, 10, log=True),
    "colsample_bytree": Range(0.2, 1.0),
    "subsample": Range(0.5, 1.0),
    "reg_alpha": Range(0.001, 1, log=True),
    "reg_lambda": Range(0.001, 10, log=True),
}

# Where the first search begins. Found by cross-validation on training rows alone: for two classes
# on those of the default data set; the columns a tree for others on those of the other data sets.
START = {
    "learning_rate": {"low": 0.18, "any": 0.07}[settings.model_cost],
    "num_leaves": 20,
    "min_child_weight": 1.0,
    "colsample_bytree": 0.2 if dataset.target.objective["objective"] == "binary" else 0.5,
    "subsample": 1.0,
    "reg_alpha": 0.01,
    "reg_lambda": 0.01,
}


def as_point(parameters: dict) -> dict | None:
    """Return those of the parameters that the space has, or None if that is no point of it."""
    point = {name: parameters[name] for name in SPACE if name in parameters}
    inside = len(point) == len(SPACE) and all(point[name] in SPACE[name] for name in SPACE)
    return point if inside else None
