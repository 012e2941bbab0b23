"""FeatureTools: raw rows in, one float64 matrix out, the same way in training and in prediction."""

import reprlib
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.validation import check_is_fitted

_REFUSED = (LookupError, TypeError, ValueError, OverflowError)


class FeatureTools(TransformerMixin, BaseEstimator):
    """Scale the numeric columns, encode the categorical and the crossed ones, for LightGBM.

    Seen categories get the codes 0..n-1 in sorted order, an unknown one gets n: never negative,
    which LightGBM takes for missing. This is scikit-learn's ``OrdinalEncoder`` with
    ``handle_unknown="use_encoded_value"``, where the code for the unknown follows the seen ones.

    Parameters
    ----------
    numeric_columns, categorical_columns : sequence of str
        The columns to use, in the order of the output; others are ignored.
    crossed_columns : sequence of tuples of str, default=()
        Categorical columns whose combinations become columns of their own.
    scaler : scikit-learn scaler, default=None
        It is cloned, then fitted; None means ``MinMaxScaler()``.

    Attributes
    ----------
    scaler_ : the fitted scaler
    categories_, crossed_categories_ : dict of lists, the values (tuples) in the order of codes
    categorical_indices_ : list of int, the positions of the codes in the output, for LightGBM
    feature_names_in_, n_features_in_ : the columns it needs, and how many they are

    Notes
    -----
    ``X`` is a DataFrame or a sequence of dicts (JSON rows). A frame, its rows, and its rows one by
    one give the same numbers, bit for bit (given a scaler that treats each number by itself).
    None and NaN are "?" in a categorical column that has seen "?", else unknown; in a numeric
    column they are NaN. Categories are compared by value (1 is 1.0). An absent field, a number
    that is none or infinite, and a category that can't be hashed (a list) raise ValueError.

    Examples
    --------
    >>> rows = [{"age": 20, "sex": "Male", "job": "?"}, {"age": 60, "sex": "Female", "job": "Cook"}]
    >>> tools = FeatureTools(["age"], ["sex", "job"], crossed_columns=[("sex", "job")]).fit(rows)
    >>> tools.get_feature_names_out().tolist()
    ['age', 'sex', 'job', 'sex_job']
    >>> tools.transform([{"age": 30, "sex": "Male", "job": None}])
    array([[0.25, 1.  , 0.  , 1.  ]])
    """

    def __init__(
        self,
        numeric_columns: Sequence[str],
        categorical_columns: Sequence[str],
        crossed_columns: Sequence[Sequence[str]] = (),
        scaler: Any = None,
    ) -> None:
        self.numeric_columns = numeric_columns
        self.categorical_columns = categorical_columns
        self.crossed_columns = crossed_columns
        self.scaler = scaler

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn scale, categories and combinations from the rows; y is not used."""
        names = [*self.numeric_columns, *self.categorical_columns]
        columns = _take_columns(X, names)
        if not names or not columns[names[0]]:
            raise ValueError("FeatureTools needs at least one column, and one row to fit on")
        self.feature_names_in_, self.n_features_in_ = np.array(names, dtype=object), len(names)
        self.scaler_ = MinMaxScaler() if self.scaler is None else clone(self.scaler)
        if len(self.numeric_columns) > 0:
            self.scaler_.fit(_as_numbers(columns, self.numeric_columns))
        self._fit_codes({name: columns[name] for name in self.categorical_columns})
        return self

    def _fit_codes(self, columns: dict[str, list]) -> None:
        self.categories_ = {name: _distinct(name, values) for name, values in columns.items()}
        self._codes = {name: _Codes(values) for name, values in self.categories_.items()}
        codes = {name: self._codes[name].encode(name, columns[name]) for name in columns}
        self._crossings = [_Crossing(parts, self.categories_) for parts in self.crossed_columns]
        self.crossed_categories_ = {each.parts: each.fit(codes) for each in self._crossings}
        first, last = len(self.numeric_columns), len(self.get_feature_names_out())
        self.categorical_indices_ = list(range(first, last))

    def transform(self, X: Any) -> np.ndarray:
        """Return the float64 matrix of the rows: scaled numbers, codes, codes of combinations."""
        check_is_fitted(self, "categories_")
        columns = _take_columns(X, self.feature_names_in_)
        codes = {name: table.encode(name, columns[name]) for name, table in self._codes.items()}
        encoded = [*codes.values(), *(crossing.encode(codes) for crossing in self._crossings)]
        numeric = self.feature_names_in_[: self.n_features_in_ - len(codes)]
        matrix = np.empty((len(columns[self.feature_names_in_[0]]), len(numeric) + len(encoded)))
        if len(matrix) and len(numeric):  # scikit-learn's scalers refuse to work on nothing
            matrix[:, : len(numeric)] = self._scale(_as_numbers(columns, numeric))
        for position, column in zip(self.categorical_indices_, encoded, strict=True):
            matrix[:, position] = column
        return matrix

    def _scale(self, numbers: np.ndarray) -> np.ndarray:
        # MinMaxScaler's two steps without its checks: they take 90 us, _as_numbers has made them.
        if type(self.scaler_) is MinMaxScaler and not self.scaler_.clip:
            return numbers * self.scaler_.scale_ + self.scaler_.min_
        return self.scaler_.transform(numbers)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the output's names, "sex_job" for a crossing; input_features is not used."""
        check_is_fitted(self, "crossed_categories_")
        crossed = ["_".join(crossing.parts) for crossing in self._crossings]
        return np.array([*self.feature_names_in_, *crossed], dtype=object)


class _Codes(dict):
    """Category -> code. A dict that answers for missing keys keeps the loop over values in C."""

    def __init__(self, categories: list) -> None:
        super().__init__(zip(categories, range(len(categories)), strict=True))
        self.unknown = len(categories)
        self.null = self[None] = self.get("?", self.unknown)

    def __missing__(self, value: Any) -> int:
        return self.null if value != value else self.unknown  # only NaN differs from itself

    def encode(self, name: str, column: list) -> np.ndarray:
        return np.array(_read(self.__getitem__, name, column, "a category"), dtype=np.intp)


class _Crossing:
    """Codes of columns -> code of their combination; "a-b" with "c" is not "a" with "b-c"."""

    def __init__(self, parts: Sequence[str], categories: dict[str, list]) -> None:
        self.parts = tuple(parts)
        self.values = _read(categories.__getitem__, "crossed_columns", parts, "categorical ones")
        self.shape = tuple(len(values) + 1 for values in self.values)  # 1 for the unknown

    def keys(self, codes: dict[str, np.ndarray]) -> np.ndarray:
        return np.ravel_multi_index(tuple(codes[part] for part in self.parts), self.shape)

    def fit(self, codes: dict[str, np.ndarray]) -> list[tuple]:
        known = [codes[part] < size - 1 for part, size in zip(self.parts, self.shape, strict=True)]
        seen = np.unique(self.keys(codes)[np.all(known, axis=0)])
        self.seen = np.append(seen, np.iinfo(np.intp).max)  # its position: the unknown's code
        places = zip(self.values, np.unravel_index(seen, self.shape), strict=True)
        return list(zip(*([values[i] for i in place] for values, place in places), strict=True))

    def encode(self, codes: dict[str, np.ndarray]) -> np.ndarray:
        keys = self.keys(codes)
        positions = np.searchsorted(self.seen, keys)
        return np.where(self.seen[positions] == keys, positions, len(self.seen) - 1)


def _take_columns(X: Any, names: Sequence[str]) -> dict[str, list]:
    if hasattr(X, "columns"):
        if absent := [name for name in names if name not in X.columns]:
            raise ValueError(f"{absent[0]}: the column is absent")
        return {name: X[name].to_numpy(dtype=object, na_value=None).tolist() for name in names}
    rows = list(X)
    return {name: _read(itemgetter(name), name, rows, "this field") for name in names}


def _as_numbers(columns: dict[str, list], names: Sequence[str]) -> np.ndarray:
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


def _distinct(name: str, column: list) -> list:
    _read(_Codes([]).__getitem__, name, column, "a category")
    values = {value for value in column if value is not None and value == value}
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def _read(read: Callable, name: str, values: list, expected: str) -> list:
    """Return read(value) for each value; where that fails, say which one was refused."""
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
