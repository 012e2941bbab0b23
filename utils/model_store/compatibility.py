"""Whether a model fits to the data set, which may have changed since the model was made.

A column that was added since is not used by the model; one that was dropped is a null for it. A
class that was added since gets the probability 0. All else that has changed makes a model unusable.
A card of an earlier version names no data set: then it was the default one, of two classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.datasets import dataset
from utils.feature_encoder import FeatureEncoder
from utils.model_store.card import Card
from utils.model_store.registry import ModelError
from utils.settings import DATASETS

_KINDS = {"classes": "a class", "number": "a number"}


def check(card: Card, features: FeatureEncoder) -> None:
    """Raise ModelError, with the reason, if a model can't answer requests of the data set."""
    target, made_for = dataset.target, card.dataset or DATASETS[0]
    kind, problem = card.target or "classes", ""
    gone = [label for label in card.classes if label not in getattr(target, "outcomes", ())]
    changed = [name for name in features.columns if _kind_has_changed(name, features)]
    if made_for != dataset.name:
        problem = f"made for the data set {made_for}, DATASET is {dataset.name}"
    elif card.features not in ([], features.columns):
        problem = "its card names other columns than it has"
    elif not set(features.columns) & set(dataset.names):
        problem = "trained on other columns than those of the data set"
    elif kind != target.kind:
        problem = f"predicts {_KINDS[kind]}, {target.name} is {_KINDS[target.kind]} now"
    elif gone:
        problem = f"predicts the class {gone[0]!r}, which {target.name} does not have"
    elif changed:
        problem = f"the column {changed[0]} has changed between numeric and categorical"
    if problem:
        raise ModelError(f"model {card.model_id}: {problem}")


def _kind_has_changed(name: str, features: FeatureEncoder) -> bool:
    return name in (dataset.categorical if name in features.numeric_columns else dataset.numeric)


def absent_columns(features: FeatureEncoder) -> dict[str, Any]:
    """Return the columns that a request may lack, and the values that the model takes instead."""
    required = set(dataset.names) - dataset.defaults.keys()
    return {name: dataset.defaults.get(name) for name in features.columns if name not in required}


def add_absent(rows: Sequence[dict], absent: dict[str, Any]) -> Sequence[dict]:
    """Return rows, dicts or a DataFrame, with these values where they lack a column."""
    if not absent:
        return rows
    if hasattr(rows, "columns"):
        return rows.assign(**{name: v for name, v in absent.items() if name not in rows.columns})
    return [absent | row for row in rows]


def class_matrix(card: Card, outputs: int) -> np.ndarray | None:
    """Return what turns a model's probabilities into those of today's classes.

    outputs : how many numbers its booster returns for a row. The shape is (the model's classes,
    today's); None if nothing has changed.
    """
    target = dataset.target
    before = card.classes or list(target.labels[:2])
    if target.kind == "number" or (before == list(target.labels) and outputs == target.outputs):
        return None
    return np.eye(len(target.labels))[[int(target.outcome_of(label)) for label in before]]


def of_classes(scores: np.ndarray, to_today: np.ndarray) -> np.ndarray:
    """Return a model's scores for its own classes as scores for those of the data set."""
    known = scores if scores.ndim == 2 else np.column_stack([1 - scores, scores])
    return dataset.target.as_scores((known @ to_today)[:, -dataset.target.outputs :])
