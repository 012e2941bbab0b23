"""Whether a model fits to the data set, which may have changed since the model was made.

A column that was added since is not used by the model; one that was dropped is a null for it. A
class that was added since gets the probability 0. All else that has changed makes a model unusable.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.datasets import dataset
from utils.feature_encoder import FeatureEncoder
from utils.model_store.card import Card
from utils.model_store.registry import ModelError


def check(card: Card, features: FeatureEncoder, outputs: int) -> None:
    """Raise ModelError, with the reason, if a model can't answer requests of the data set.

    outputs : how many numbers its booster returns for a row.
    """
    kind, target = card.target or "classes", dataset.target
    named, problem = f"model {card.model_id}", ""
    gone = [label for label in card.classes if label not in target.labels]
    expected = len(card.classes) if len(card.classes) > 2 else 1
    if card.dataset not in ("", dataset.name):
        problem = f"made for the data set {card.dataset}, DATASET is {dataset.name}"
    elif card.features not in ([], features.columns):
        problem = "its card names other columns than it has"
    elif kind != target.kind:
        problem = f"predicts {_KINDS[kind]}, {target.name} is {_KINDS[target.kind]} now"
    elif gone:
        problem = f"predicts the class {gone[0]!r} of {target.name}, which is there no more"
    elif outputs not in (expected, len(card.classes)) and card.classes:
        problem = f"its booster has {outputs} outputs, its card {len(card.classes)} classes"
    elif changed := [name for name in features.columns if _kind_has_changed(name, features)]:
        problem = f"the column {changed[0]} has changed between numeric and categorical"
    if problem:
        raise ModelError(f"{named}: {problem}")


_KINDS = {"classes": "a class", "number": "a number"}


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


def class_places(card: Card) -> list[int] | None:
    """Return the positions of the model's classes in the data set; None if nothing has changed."""
    labels = list(dataset.target.labels)
    if card.classes in ([], labels):
        return None
    return [labels.index(label) for label in card.classes]


def of_classes(scores: np.ndarray, places: list[int]) -> np.ndarray:
    """Return a model's scores for its own classes as scores for those of the data set."""
    known = scores if scores.ndim == 2 else np.column_stack([1 - scores, scores])
    probabilities = np.zeros((len(scores), len(dataset.target.labels)))
    probabilities[:, places] = known
    return dataset.target.as_scores(probabilities[:, -dataset.target.outputs :])
