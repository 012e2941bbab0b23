"""FeatureEncoder: what FeatureTools has learned; turns rows into a float64 matrix with NumPy alone.

A model is saved with its FeatureEncoder only, because importing scikit-learn would double the time
that a predictor takes to start.
"""

import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from utils.coded_column import CodedColumn, coded

_BATCH = 65_536  # rows that are converted to float64 at once
_REFUSED = (LookupError, TypeError, ValueError, OverflowError)


class FeatureEncoder:
    """Turns rows into a matrix; made by `FeatureTools`, which documents the rules.

    columns : name -> values of the training rows; `numeric_columns` first, then categorical ones.
    crossed_columns : combinations of categorical columns.
    scaler : an object with `transform`, fitted on the numeric columns.
    max_categories : per column and per combination of columns, None for all of them.
    order : order(codes, n), of codes 0..n-1 and n for unknown, returns what each of them becomes: a
    permutation of 0..n. None for no change.
    """

    def __init__(
        self,
        columns: dict[str, list],
        numeric_columns: Sequence[str],
        crossed_columns: Sequence[Sequence[str]],
        scaler: Any,
        max_categories: int | None = None,
        order: Callable[[np.ndarray, int], np.ndarray] | None = None,
    ) -> None:
        self.columns, self.numeric_columns = list(columns), list(numeric_columns)
        categorical = {n: v for n, v in columns.items() if n not in self.numeric_columns}
        self._scaler = scaler
        self.categories = {
            name: _most_frequent(name, values, max_categories)
            for name, values in categorical.items()
        }
        self._codes = {name: _Codes(values) for name, values in self.categories.items()}
        codes = self._encode(categorical)
        if order:
            for name, values in self.categories.items():
                self._reorder(name, order(codes[name], len(values)))
            codes = self._encode(categorical)
        self._crossings = [_Crossing(parts, self._codes) for parts in crossed_columns]
        self.crossed_categories = {
            each.parts: each.fit(codes, max_categories) for each in self._crossings
        }
        crossed = ["_".join(crossing.parts) for crossing in self._crossings]
        self.names_out = [*self.columns, *crossed]
        self.categorical_indices = list(range(len(self.numeric_columns), len(self.names_out)))

    @property
    def scaler(self) -> Any:
        """The fitted scaler of the numeric columns."""
        return self._scaler

    def _reorder(self, name: str, places: np.ndarray) -> None:
        codes = _Codes(self.categories[name], places.tolist())
        self._codes[name] = codes
        self.categories[name] = sorted(self.categories[name], key=codes.__getitem__)

    def transform(self, X: Any) -> np.ndarray:
        """Return the float64 matrix: scaled numbers, then codes, then codes of combinations."""
        columns = take_columns(X, self.columns, self.numeric_columns)
        codes = self._encode(columns)
        encoded = [*codes.values(), *(crossing.encode(codes) for crossing in self._crossings)]
        numeric = self.numeric_columns
        matrix = np.empty((len(columns[self.columns[0]]), len(self.names_out)))
        if len(matrix) and numeric:  # scikit-learn's scalers reject empty input
            numbers = as_numbers(columns, numeric)
            matrix[:, : len(numeric)] = self._scaler.transform(numbers)
        for position, column in zip(self.categorical_indices, encoded, strict=True):
            matrix[:, position] = column
        return matrix

    def _encode(self, columns: dict[str, list]) -> dict[str, np.ndarray]:
        return {name: table.encode(name, columns[name]) for name, table in self._codes.items()}

    def state(self) -> dict[str, Any]:
        """Return what was learned, but for the scaler, for restore_encoder(); JSON can hold it."""
        return {
            "numeric": self.numeric_columns,
            "codes": {name: table.state() for name, table in self._codes.items()},
            "crossed": [[list(each.parts), each.seen[:-1].tolist()] for each in self._crossings],
        }


def restore_encoder(state: dict[str, Any], scaler: Any) -> FeatureEncoder:
    """Return an encoder whose transform() is that of the one with this state() and scaler."""
    encoder = FeatureEncoder.__new__(FeatureEncoder)
    tables = {name: _Codes(*table) for name, table in state["codes"].items()}
    crossings = [_Crossing(parts, tables) for parts, _ in state["crossed"]]
    for crossing, (_, seen) in zip(crossings, state["crossed"], strict=True):
        crossing.learn(np.array(seen, dtype=np.intp))
    encoder._scaler, encoder._codes, encoder._crossings = scaler, tables, crossings
    encoder.numeric_columns = state["numeric"]
    encoder.columns = [*encoder.numeric_columns, *tables]
    encoder.names_out = [*encoder.columns, *("_".join(each.parts) for each in crossings)]
    encoder.categorical_indices = list(range(len(state["numeric"]), len(encoder.names_out)))
    return encoder


def fit_encoder(
    X: Any,
    numeric_columns: Sequence[str],
    categorical_columns: Sequence[str],
    crossed_columns: Sequence[Sequence[str]] = (),
    scaler: Any = None,
    max_categories: int | None = None,
    order: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> FeatureEncoder:
    """Return what `FeatureTools`, with these parameters, learns from the rows.

    scaler : it is fitted here; None for a LinearScaler. order : see FeatureEncoder.
    """
    names = [*numeric_columns, *categorical_columns]
    columns = take_columns(X, names, numeric_columns)
    if not names or not len(columns[names[0]]):
        raise ValueError("FeatureTools needs at least one column and one row")
    if max_categories is not None and max_categories < 1:
        raise ValueError(f"max_categories must be at least 1, got {max_categories}")
    if scaler is None:
        scaler = LinearScaler.fit(columns, numeric_columns)
    elif len(numeric_columns) > 0:
        scaler.fit(as_numbers(columns, numeric_columns))
    return FeatureEncoder(columns, numeric_columns, crossed_columns, scaler, max_categories, order)


class LinearScaler:
    """scikit-learn's MinMaxScaler, bit for bit, without its import, which takes 0.7 s of CPU.

    Nor does it check its input, which takes 90 us a call.
    """

    def __init__(self, scale: np.ndarray, minimum: np.ndarray) -> None:
        self.scale, self.minimum = scale, minimum

    @classmethod
    def fit(cls, columns: dict, names: Sequence[str]) -> "LinearScaler":
        """Return a scaler of these columns to the range from 0 to 1; NaN is ignored."""
        low, high = np.full((2, len(names)), np.nan)
        for start in range(0, len(columns[names[0]]) if names else 0, _BATCH):
            batch = {name: columns[name][start : start + _BATCH] for name in names}
            numbers = as_numbers(batch, names)
            low = np.fmin(low, np.fmin.reduce(numbers))
            high = np.fmax(high, np.fmax.reduce(numbers))
        spread = high - low
        scale = 1 / np.where(spread < 10 * np.finfo(float).eps, 1, spread)  # of equal numbers: 1
        return cls(scale, 0 - low * scale)

    def transform(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers * scale + minimum; numbers has the shape (rows, columns)."""
        return numbers * self.scale + self.minimum


class _Codes(dict):
    """Category -> code; as a dict with __missing__, it keeps the loop over values in C."""

    def __init__(self, categories: list, codes: Sequence[int] = ()) -> None:
        """codes : of the categories, then that for unknown; 0, 1, 2, ... if there are none."""
        *known, self.unknown = codes or range(len(categories) + 1)
        super().__init__(zip(categories, known, strict=True))
        self.null = self[None] = self.get("?", self.unknown)

    def __missing__(self, value: Any) -> int:
        return self.null if value != value else self.unknown  # only NaN is unequal to itself

    def state(self) -> tuple[list, list[int]]:
        known = {value: code for value, code in self.items() if value is not None}
        return list(known), [*known.values(), self.unknown]

    def categories_of(self, codes: np.ndarray) -> list:
        categories = {code: value for value, code in self.items() if value is not None}
        return [categories[code] for code in codes.tolist()]

    def encode(self, name: str, column: list | CodedColumn) -> np.ndarray:
        if isinstance(column, CodedColumn):
            codes = self.encode(name, column.values)
            return column.take(codes.astype(np.min_scalar_type(len(self) - 1)))
        return np.array(_read(self.__getitem__, name, column, "a category"), dtype=np.intp)


class _Crossing:
    """Codes of several columns -> code of their combination; not of joined strings."""

    def __init__(self, parts: Sequence[str], tables: dict[str, _Codes]) -> None:
        self.parts = tuple(parts)
        self.tables = _read(tables.__getitem__, "crossed_columns", parts, "categorical ones")
        self.shape = tuple(map(len, self.tables))  # one more than categories: unknown

    def keys(self, codes: dict[str, np.ndarray]) -> np.ndarray:
        return np.ravel_multi_index(tuple(codes[part] for part in self.parts), self.shape)

    def fit(self, codes: dict[str, np.ndarray], limit: int | None) -> list[tuple]:
        known = [
            codes[p] != table.unknown for p, table in zip(self.parts, self.tables, strict=True)
        ]
        keys, counts = np.unique(self.keys(codes)[np.all(known, axis=0)], return_counts=True)
        seen = np.sort(keys[np.argsort(-counts, kind="stable")[:limit]])
        self.learn(seen)
        places = zip(self.tables, np.unravel_index(seen, self.shape), strict=True)
        return list(zip(*(table.categories_of(codes) for table, codes in places), strict=True))

    def learn(self, seen: np.ndarray) -> None:
        # One more key, larger than all: searchsorted() then never returns a position past the end.
        self.seen = np.append(seen, np.iinfo(np.intp).max)

    def encode(self, codes: dict[str, np.ndarray]) -> np.ndarray:
        keys = self.keys(codes)
        positions = np.searchsorted(self.seen, keys)
        return np.where(self.seen[positions] == keys, positions, len(self.seen) - 1)


def take_columns(
    X: Any, names: Sequence[str], numeric: Sequence[str] = ()
) -> dict[str, list | np.ndarray | CodedColumn]:
    """Return {name: values} of a DataFrame or a sequence of dicts; ValueError if one is absent.

    A categorical column of a frame remains coded, and one of `numeric` remains an array.
    """
    if hasattr(X, "columns"):
        if absent := [name for name in names if name not in X.columns]:
            raise ValueError(f"{absent[0]}: the column is absent")
        return {name: _take(X[name], as_array=name in numeric) for name in names}
    rows = list(X)
    return {name: _read(itemgetter(name), name, rows, "this field") for name in names}


def _take(column: Any, as_array: bool) -> list | np.ndarray | CodedColumn:
    if as_array and isinstance(column.dtype, np.dtype) and column.dtype.kind in "iuf":
        return column.to_numpy()
    values = coded(column)
    return column.to_numpy(dtype=object, na_value=None).tolist() if values is None else values


def as_numbers(columns: dict[str, list], names: Sequence[str]) -> np.ndarray:
    """Return the columns as float64 (rows, names), None as NaN; ValueError if one is not finite."""
    try:
        return _finite([columns[name] for name in names]).T
    except _REFUSED:
        for name in names:
            _read(lambda value: _finite([[value]]), name, columns[name], "a finite number")
        raise


def _finite(numbers: list[list]) -> np.ndarray:
    array = np.array(numbers, dtype=np.float64)  # None becomes NaN
    if array.ndim != 2 or np.isinf(array).any():
        raise ValueError("not two-dimensional or not finite")
    return array


def _most_frequent(name: str, column: list | CodedColumn, limit: int | None) -> list:
    """Return the categories of a column, sorted: of more than `limit` the most frequent ones.

    Of equally frequent categories those that sort first are kept, so the order of the rows does not
    matter.
    """
    column = column.counts() if isinstance(column, CodedColumn) else column
    _read(_Codes([]).__getitem__, name, column, "a category")
    counts = Counter(column)
    known = sorted((value for value in counts if value is not None and value == value), key=_rank)
    frequent = sorted(known, key=counts.__getitem__, reverse=True)  # stable, also in reverse
    return sorted(frequent[:limit], key=_rank)


def _rank(category: Any) -> tuple[bool, Any]:
    return isinstance(category, str), category


def _read(read: Callable, name: str, values: list, expected: str) -> list:
    """Return read(value) for each value; if one fails, raise ValueError that names it."""
    try:
        return list(map(read, values))
    except _REFUSED:
        for row, value in enumerate(values):
            try:
                read(value)
            except _REFUSED:
                got = reprlib.repr(value)[:80]  # repr() fails on values nested a thousand deep
                raise ValueError(f"{name}[{row}]: expected {expected}, got {got}") from None
        raise
