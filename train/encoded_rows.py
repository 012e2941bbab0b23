"""The training matrix, which is never whole: LightGBM reads one batch of rows after another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np

from utils.feature_encoder import FeatureEncoder

if TYPE_CHECKING:
    import pandas as pd


class EncodedRows(lgb.Sequence):
    """What a FeatureEncoder makes of a frame, made when it is read.

    Of a value, memory holds what the frame needs: a byte for most, where float64 needs eight. Each
    reader costs the encoding of all rows again, a hundredth of the time that a training takes.

    Indexed by a row it is a float64 array (features,), by a slice (rows, features).
    """

    batch_size = 65_536  # rows that are float64 at the same time

    def __init__(self, encoder: FeatureEncoder, frame: "pd.DataFrame") -> None:
        self._encoder, self._frame = encoder, frame
        self._number, self._batch = -1, np.empty(0)  # the batch that was read last

    def __len__(self) -> int:
        return len(self._frame)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        if len(self) <= self.batch_size:
            return self._rows(0)[index]
        if isinstance(index, slice):
            return self._encoder.transform(self._frame[index])
        number, row = divmod(index, self.batch_size)  # LightGBM samples rows in ascending order
        return self._rows(number)[row]

    def _rows(self, number: int) -> np.ndarray:
        if number != self._number:
            at = number * self.batch_size
            self._batch = self._encoder.transform(self._frame[at : at + self.batch_size])
            self._number = number
        return self._batch


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
