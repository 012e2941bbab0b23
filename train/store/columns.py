"""Observations as columns: what a segment of the store holds, and what a training reads."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from utils.datasets import dataset

if TYPE_CHECKING:
    import pandas as pd

NULL = -1  # the code of a null


class Column(msgspec.Struct, array_like=True):
    """The values of one column: numbers, NaN for a null, or codes of categories.

    content : the bytes of an array of this dtype; categories : the distinct values if it holds
    codes, None if it holds numbers.
    """

    dtype: str
    content: bytes
    categories: list[str | float] | None = None

    def array(self) -> np.ndarray:
        """Return the numbers or codes, shape (rows,)."""
        return np.frombuffer(self.content, self.dtype)


Columns = dict[str, Column]
encode_columns = msgspec.msgpack.Encoder().encode
decode_columns = msgspec.msgpack.Decoder(Columns).decode


def columns_of(data: Iterable[bytes]) -> Columns:
    """Return the columns of rows in JSON, the target left out.

    An absent field has the column's default, a null if there is none.
    """
    rows = [msgspec.json.decode(content) for content in data]
    names = dict.fromkeys(chain.from_iterable(rows))
    names.pop(dataset.target.name, None)
    defaults = {name: dataset.defaults.get(name) for name in names}
    return {name: column_of([row.get(name, defaults[name]) for row in rows]) for name in names}


def column_of(values: list) -> Column:
    """Return a column of numbers, strings and None; one with strings is coded."""
    if set(map(type, values)) <= {int, float, type(None)}:
        numbers = narrow(np.array(values, dtype=np.float64))  # None becomes NaN
        return Column(numbers.dtype.str, numbers.tobytes())
    table: dict = {}
    codes = [NULL if value is None else table.setdefault(value, len(table)) for value in values]
    array = np.array(codes, dtype=_code_type(len(table)))
    return Column(array.dtype.str, array.tobytes(), list(table))


def narrow(numbers: np.ndarray) -> np.ndarray:
    """Return float64 numbers in the smallest type that holds the same ones, bit for bit."""
    for dtype in (np.int8, np.int16, np.int32):
        with np.errstate(invalid="ignore"):  # NaN, or too large
            small = numbers.astype(dtype)
        if small.astype(np.float64).tobytes() == numbers.tobytes():
            return small
    return numbers


def _code_type(categories: int) -> np.dtype:
    return np.min_scalar_type(-max(categories, 1))  # signed: a null is -1


class FrameBuilder:
    """Collects columns of many segments in one DataFrame of the data set's columns.

    A column that a segment lacks, because the data set has it for a shorter time, has its default
    in these rows, a null if there is none. A value of the other kind (a string in a numeric column,
    a number in a categorical one) is a null. To leave these rows out would break the promise that
    each observation is in each later training set; and a request may have a null in any column too.

    defaults : of optional columns; filled : column -> how many rows have a null for such a reason.
    """

    def __init__(
        self, numeric: Sequence[str], categorical: Sequence[str], defaults: dict[str, Any]
    ) -> None:
        self._defaults = defaults
        self._numbers: dict[str, list] = {name: [] for name in numeric}
        self._codes: dict[str, list] = {name: [] for name in categorical}
        self._tables: dict[str, dict] = {name: {} for name in categorical}
        self.filled: dict[str, int] = {}

    def add(self, columns: Columns, chosen: np.ndarray) -> None:
        """Append rows of a segment; chosen : bool of shape (rows of the segment,)."""
        for names, read in ((self._numbers, self._read_numbers), (self._codes, self._read_codes)):
            for name, parts in names.items():
                values, is_known = read(name, columns.get(name), chosen)
                parts.append(values)
                if filled := int(len(values) - np.count_nonzero(is_known)):
                    self.filled[name] = self.filled.get(name, 0) + filled

    def frame(self) -> "pd.DataFrame":
        """Return the rows in the order in which they were added; categories are categorical."""
        import pandas as pd

        columns: dict = {}
        for name, parts in self._numbers.items():
            columns[name] = np.concatenate([np.empty(0, np.int8), *parts])
            parts.clear()  # half the memory
        for name, parts in self._codes.items():
            # A dtype of its own, as an empty list has none.
            categories = pd.Index(list(self._tables[name]), dtype="str")
            codes = np.concatenate([np.empty(0, np.int8), *parts])
            parts.clear()
            columns[name] = pd.Categorical.from_codes(codes, categories)
        return pd.DataFrame(columns, copy=False)

    def _read_numbers(self, name: str, column: Column | None, chosen: np.ndarray) -> tuple:
        if column is None:
            number = self._defaults.get(name)
            value = np.nan if number is None else number
            narrowest = narrow(np.array([value], dtype=np.float64)).dtype
            values = np.full(chosen.sum(), value, narrowest)
            return values, np.full(len(values), name in self._defaults)
        values = column.array()[chosen]
        if column.categories is None:
            return values, np.ones(len(values), bool)
        is_number = [not isinstance(value, str) for value in column.categories]
        numbers = [
            v if known else np.nan for v, known in zip(column.categories, is_number, strict=True)
        ]
        return np.array([*numbers, np.nan])[values], np.array([*is_number, True])[values]

    def _read_codes(self, name: str, column: Column | None, chosen: np.ndarray) -> tuple:
        rows = np.count_nonzero(chosen)
        if column is None:
            table, value = self._tables[name], self._defaults.get(name)
            code = NULL if value is None else table.setdefault(value, len(table))
            codes = np.full(rows, code, _code_type(len(table)))
            return codes, np.full(rows, name in self._defaults)
        if column.categories is None:
            values = column.array()[chosen]
            return np.full(rows, NULL, np.int8), np.isnan(values)
        table, codes = self._tables[name], column.array()[chosen]
        is_text = [isinstance(value, str) for value in column.categories]
        own = [
            table.setdefault(value, len(table)) if text else NULL
            for value, text in zip(column.categories, is_text, strict=True)
        ]
        to_common = np.array([*own, NULL], dtype=_code_type(len(table)))
        return to_common[codes], np.array([*is_text, True])[codes]
