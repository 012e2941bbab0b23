"""A column of categories as codes: a few bytes a row instead of a Python object."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np


class CodedColumn:
    """The values of a column, dictionary-coded; what pandas calls a Categorical.

    categories : the distinct values, strings or numbers; codes, of shape (rows,) : the position of
    each row's value among them, -1 for a null.
    """

    def __init__(self, categories: Sequence, codes: np.ndarray) -> None:
        self.values, self.codes = [*categories, None], codes  # -1 is the position of None

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, chosen: slice) -> "CodedColumn":
        return CodedColumn(self.values[:-1], self.codes[chosen])

    def counts(self) -> Counter:
        """Return how often each value occurs, those that do not occur left out."""
        counts = np.bincount(self.codes.astype(np.intp) + 1, minlength=len(self.values))
        found = zip(self.values, np.roll(counts, -1).tolist(), strict=True)
        return Counter({value: count for value, count in found if count})

    def take(self, of_values: np.ndarray) -> np.ndarray:
        """Return, for each row, the element of `of_values` that belongs to its value."""
        return of_values[self.codes]


def coded(column: Any) -> CodedColumn | None:
    """Return a pandas column as a CodedColumn, or None if it is not categorical."""
    if column.dtype != "category":
        return None
    return CodedColumn(column.cat.categories.tolist(), column.cat.codes.to_numpy())
