"""Hashes of rows by their values: equal rows have the same hash, whatever holds them."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.coded_column import coded

if TYPE_CHECKING:
    import pandas as pd

_BATCH = 65_536  # rows whose values are uint64 at the same time
_STEP = 0x9E3779B97F4A7C15  # between two states of SplitMix64


def hash_frame(frame: "pd.DataFrame") -> np.ndarray:
    """Return one uint64 for each row of a frame of numbers and categories.

    It depends on the values and the order of the columns only: not on types of numbers, nor on
    which categories there are and in which order. A null among categories equals "?", as for
    FeatureTools. 0.0 equals -0.0, and NaN equals NaN.
    """
    hashes = np.zeros(len(frame), np.uint64)
    for name in frame:
        if _is_numeric(frame[name]):
            _add(hashes, frame[name].to_numpy(), _bits)
        else:
            column = coded(frame[name].astype("category"))
            of_values = np.array([_hash_category(value) for value in column.values], np.uint64)
            _add(hashes, column, lambda part, known=of_values: part.take(known))
    return hashes


def has_few_values(frame: "pd.DataFrame") -> bool:
    """Return whether there are twice as many rows as possible rows, by the values of each column.

    Then equal rows are different visitors, not one who comes again.
    """
    possible, rows = 1, len(frame) / 2
    codes = [frame[name].astype("category") for name in frame if not _is_numeric(frame[name])]
    for column in codes:
        possible *= len(column.cat.categories) + 1
    for name in frame:  # the slower ones last
        if possible <= rows and _is_numeric(frame[name]):
            possible *= frame[name].nunique(dropna=False)
    return possible <= rows


def _is_numeric(column: "pd.Series") -> bool:
    return getattr(column.dtype, "kind", "O") in "iufb"


def shuffle(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Return another hash for each hash: equal ones remain equal, and `seed` decides the order."""
    return _mix(hashes + np.uint64(_STEP * (seed + 1) % 2**64))


def _add(hashes: np.ndarray, column: Any, as_uint64: Any) -> None:
    """Add a column to the hashes in place; as_uint64 : called with some of its rows."""
    for at in range(0, len(hashes), _BATCH):
        part = slice(at, at + _BATCH)
        hashes[part] = _mix((hashes[part] + np.uint64(_STEP)) ^ as_uint64(column[part]))


def _bits(numbers: np.ndarray) -> np.ndarray:
    values = numbers.astype(np.float64) + 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan  # of its many bit patterns one
    return values.view(np.uint64)


def _hash_category(value: Any) -> int:
    text = "?" if value is None else value if isinstance(value, str) else float(value).hex()
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Return the output of SplitMix64 for these states.

    Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (OOPSLA 2014).
    """
    hashes = (hashes ^ (hashes >> 30)) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> 27)) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> 31)
