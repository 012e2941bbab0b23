"""What a model was trained on, as histograms in its card: drift is measured against them.

A numeric column has about ten bins of equally many rows, with an edge on either side of a value
that fills several of them; a categorical one its most frequent categories and one bin for the rest.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from utils.datasets import dataset
from utils.model_store.card import Histogram, Reference
from utils.model_store.model import Model

if TYPE_CHECKING:
    import pandas as pd

BINS = 10
MOST_CATEGORIES = 20
MOST_ROWS = 50_000  # that are counted, evenly spread: a few milliseconds a column
MOST_SCORED = 10_000
MOST_COLUMNS = 200


def reference_of(frame: "pd.DataFrame") -> Reference:
    """Return the histograms of the columns of a training set that do not move, without scores."""
    moves = {column.name for column in dataset.columns if column.moves}
    rows = frame.iloc[:: len(frame) // MOST_ROWS + 1]
    numeric, categorical = dataset.numeric[:MOST_COLUMNS], dataset.categorical[:MOST_COLUMNS]
    columns = {
        name: of_numbers(rows[name].to_numpy(np.float64, na_value=np.nan))
        for name in numeric
        if name not in moves
    }
    columns |= {name: _of_column(rows[name]) for name in categorical if name not in moves}
    some = frame.iloc[:: len(frame) // MOST_SCORED + 1]
    return Reference(columns, distinct=1 - float(some.duplicated().mean()))


def add_scores(model: Model, frame: "pd.DataFrame") -> None:
    """Note in the model's card how its scores of rows that it was not trained on are spread."""
    if len(frame) and model.card.reference:
        scores = model.predict(frame.iloc[:: len(frame) // MOST_SCORED + 1])
        model.card.reference.score = of_scores(scores)


def of_scores(scores: np.ndarray) -> Histogram:
    """Return the histogram of a model's scores."""
    if scores.ndim == 1:
        return of_numbers(scores)
    labels = dataset.target.labels
    return of_categories([str(labels[place]) for place in scores.argmax(axis=1)], 0)


def of_numbers(values: np.ndarray) -> Histogram:
    """Return the histogram of numbers; NaN is null."""
    known = np.sort(values[~np.isnan(values)])
    edges = _edges(known)
    counts = np.bincount(np.searchsorted(edges, known, side="right"), minlength=len(edges) + 1)
    return Histogram([*counts.tolist(), len(values) - len(known)], edges.tolist())


def _edges(known: np.ndarray) -> np.ndarray:
    """Return the inner edges of bins of sorted numbers."""
    if not len(known):
        return np.empty(0)
    edges = known[np.arange(1, BINS) * len(known) // BINS]
    repeated = np.unique(edges[1:][edges[1:] == edges[:-1]])
    behind = np.searchsorted(known, repeated, side="right")
    return np.unique(np.concatenate([edges, known[behind[behind < len(known)]]]))


def of_categories(values: Iterable[str], nulls: int) -> Histogram:
    """Return the histogram of categories."""
    names, counts = np.unique(np.array(list(values), dtype=object), return_counts=True)
    return _most_frequent(dict(zip(names.tolist(), counts.tolist(), strict=True)), nulls)


def _of_column(column: "pd.Series") -> Histogram:
    counts = column.value_counts()
    return _most_frequent(
        {str(name): int(n) for name, n in counts.items()}, int(column.isna().sum())
    )


def _most_frequent(counts: dict[str, int], nulls: int) -> Histogram:
    frequent = sorted(filter(counts.get, counts), key=lambda name: (-counts[name], name))
    chosen = frequent[:MOST_CATEGORIES]
    others = sum(counts[name] for name in frequent[MOST_CATEGORIES:])
    return Histogram([*(counts[name] for name in chosen), others, nulls], categories=chosen)
