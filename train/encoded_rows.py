"""The training matrix in a few bytes a value, from which LightGBM reads one batch after another."""

from typing import TYPE_CHECKING

import lightgbm as lgb
import numpy as np

from utils.feature_tools import FeatureTools

if TYPE_CHECKING:
    import pandas as pd


class EncodedRows(lgb.Sequence):
    """What FeatureTools makes of a frame: the same numbers, with codes in their narrowest type.

    Indexed by a row it is a float64 array (features,), by a slice (rows, features).
    """

    batch_size = 65_536  # rows that are float64 at the same time

    def __init__(self, tools: FeatureTools, frame: "pd.DataFrame") -> None:
        batches = range(0, len(frame), self.batch_size)
        parts = [self._encode(tools, frame[at : at + self.batch_size]) for at in batches]
        self._columns = [np.concatenate(column) for column in zip(*parts, strict=True)]

    @staticmethod
    def _encode(tools: FeatureTools, frame: "pd.DataFrame") -> list[np.ndarray]:
        columns = list(tools.transform(frame).T)
        for position in tools.categorical_indices_:
            codes = columns[position]
            columns[position] = codes.astype(np.min_scalar_type(int(codes.max())))
        return [np.ascontiguousarray(column) for column in columns]

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, index: int | slice) -> np.ndarray:
        values = [column[index] for column in self._columns]
        return np.array(values, dtype=np.float64).T
