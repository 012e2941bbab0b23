"""The columns of a data set, and what a request may have in them."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.datasets.target import LARGEST, is_number

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = object()  # the default of a column that each request must have


@dataclass(frozen=True)
class Column:
    """A column that a model may use: a Numeric or a Categorical one.

    default : the value of a request that lacks the field, None for a null; without a default, a
    request that lacks it is invalid. Observations from before a column was added have its default,
    a null if there is none. moves : its newest values differ from earlier ones at any time, as an
    hour of the day does: no drift is looked for.
    """

    name: str
    default: Any = REQUIRED
    moves: bool = False

    kind = expected = ""

    @property
    def is_required(self) -> bool:
        """Whether each request must have the field."""
        return self.default is REQUIRED

    def accepts(self, value: Any) -> bool:
        """Return whether a request may have this value, besides null."""
        raise NotImplementedError

    def first_wrong(self, values: "pd.Series") -> list:
        """Return [the first value that is not accepted], or []."""
        known = values.dropna().astype(object)
        with suppress(TypeError):  # lists, for example, are not hashable
            known = known.drop_duplicates()
        return [value for value in known if not self.accepts(value)][:1]


class Numeric(Column):
    """A column of numbers; a null is a missing number."""

    kind, expected = "numeric", "a number"

    def accepts(self, value: Any) -> bool:
        """Return whether it is a number from -1e15 to 1e15."""
        return is_number(value)

    def first_wrong(self, values: "pd.Series") -> list:
        """Return [the first value that is not accepted], or []; quick for a column of numbers."""
        of_numbers = isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf"
        if of_numbers and not (values.max() > LARGEST or values.min() < -LARGEST):
            return []
        return super().first_wrong(values)


class Categorical(Column):
    """A column of strings that are categories; a null is the category "?"."""

    kind, expected = "categorical", "a string"

    def accepts(self, value: Any) -> bool:
        """Return whether it is a string."""
        return isinstance(value, str)
