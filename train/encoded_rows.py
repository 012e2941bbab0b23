"""The training matrix in a few bytes a value, from which LightGBM reads one batch after another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np

from utils.feature_encoder import FeatureEncoder

if TYPE_CHECKING:
    import pandas as pd


class EncodedRows(lgb.Sequence):
    """What a FeatureEncoder makes of a frame: the same numbers, with codes in their narrowest type.

    Indexed by a row it is a float64 array (features,), by a slice (rows, features).
    """

    batch_size = 65_536  # rows that are float64 at the same time

    def __init__(self, encoder: FeatureEncoder, frame: "pd.DataFrame") -> None:
        self._columns = self._empty_columns(encoder, len(frame))
        for at in range(0, len(frame), self.batch_size):
            batch = encoder.transform(frame[at : at + self.batch_size])
            for column, values in zip(self._columns, batch.T, strict=True):
                column[at : at + self.batch_size] = values

    @staticmethod
    def _empty_columns(encoder: FeatureEncoder, rows: int) -> list[np.ndarray]:
        categories = [*encoder.categories.values(), *encoder.crossed_categories.values()]
        code_types = [np.min_scalar_type(len(values)) for values in categories]
        types = [np.float64] * len(encoder.numeric_columns) + code_types
        return [np.empty(rows, dtype) for dtype in types]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int | slice) -> np.ndarray:
        values = [column[index] for column in self._columns]
        return np.array(values, dtype=np.float64).T


def batches(X: np.ndarray | lgb.Sequence) -> Iterator[np.ndarray]:
    """Yield the rows of a matrix in order, some at a time."""
    size = getattr(X, "batch_size", len(X))
    return (np.ascontiguousarray(X[at : at + size]) for at in range(0, len(X), size))


def subset(dataset: lgb.Dataset, rows: np.ndarray) -> lgb.Dataset:
    """Return these rows of a constructed Dataset, as Dataset.subset() does.

    That one sorts them into a list of Python numbers, which take 40 bytes each.
    """
    part = dataset.subset([])
    part.used_indices = np.sort(rows).astype(np.int32)
    return part.construct()
