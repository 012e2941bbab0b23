"""What a data set has to say about itself: a class derived from `Dataset`, in a file of its own.

    dataset = Mine()    # the last line of utils/datasets/mine.py, which DATASET=mine chooses

The file's name is also in DATASETS of utils/settings.py. All else follows from it: which requests
are valid, the features, what is minimized, the answers, the judge, the tables. docs/own_data.md
makes one step by step.
"""

import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from utils.datasets.columns import Categorical, Column, Numeric
from utils.datasets.target import Label, Target

if TYPE_CHECKING:  # pandas takes long to import, and the predictor does not need it
    import pandas as pd


class DatasetError(Exception):
    """A file or a data set that can't be used; the message names it and gives the reason."""


class Dataset(ABC):
    """A data set: its columns, its target, how its rows are read, and what visitors look like."""

    columns: tuple[Column, ...]
    crossed: tuple[tuple[str, ...], ...] = ()  # each becomes one more column: their combination
    target: Target
    files: tuple[str, ...] = ()  # that prepare() writes; `make clean` deletes them
    test_rows = "the test rows"  # their name in the table that initialize.py prints
    outcome_delay = 0.0  # seconds until the sample app reports outcomes; 0: requests have them

    @abstractmethod
    def read_training(self, folder: Path) -> "pd.DataFrame":
        """Return the original rows: the columns, and the labels in the target's column."""

    @abstractmethod
    def read_test(self, folder: Path) -> "pd.DataFrame":
        """Return rows like those of read_training() that no model is trained on."""

    def prepare(self, folder: Path) -> str:
        """Unpack, make or download files into the folder; return what was done, as a sentence."""
        return f"The data set {self.name} needs no files."

    def visitors(self, folder: Path, drift_at: int | None = None) -> Iterator[dict]:
        """Yield what the sample app sends, without end: rows with the label of the target.

        drift_at : from this number on, the relation between data and outcome is another one. These
        are the test rows again and again; then with other labels.
        """
        test = self.read_test(folder)
        if not len(test):
            self.refuse("read_test() returns no row")
        number, names = 0, [n for n in (*self.names, self.target.name) if n in test.columns]
        while True:
            for visitor in _without_nan(test[names]).to_dict("records"):
                if drift_at is not None and number >= drift_at:
                    visitor[self.target.name] = self.target.changed(visitor[self.target.name])
                yield visitor
                number += 1

    def describe(self, data: dict) -> str:
        """Return a short text that identifies a request's data to a reader."""
        return ", ".join(f"{name} {data.get(name)}" for name in self.names[:3])

    def action(self, prediction: Label, probability: float | None) -> str:
        """Return what the company does when it gets this prediction, in a few words; "" if nothing.

        prediction : a class as the target names it, or a number; probability : that of the second
        of two classes, or of the predicted one of several, None if there is none.
        """
        return ""

    def true_scores(self, rows: "pd.DataFrame") -> np.ndarray | None:
        """Return the best possible scores of rows of read_test(); None if nobody knows them."""
        return None

    def __new__(cls) -> Self:
        """Return a data set; DatasetError if its class lacks a method or an attribute."""
        lacking = [name for name in ("columns", "target") if not hasattr(cls, name)]
        if lacking := [*sorted(cls.__abstractmethods__), *lacking]:
            raise DatasetError(f"{_file(cls)}: {cls.__name__} lacks {', '.join(lacking)}")
        return super().__new__(cls)

    def __init__(self) -> None:
        """Check what the data set says; DatasetError if it contradicts itself."""
        self.name = type(self).__module__.rpartition(".")[2]
        if not isinstance(self.columns, tuple | list):
            self.refuse("columns: expected a tuple, such as (Numeric('age'), Categorical('job'))")
        for column in self.columns:
            if not isinstance(column, Numeric | Categorical):
                self.refuse(f"columns: expected Numeric or Categorical, got {column!r}")
        names = Counter([*self.names, self.target.name])
        twice = [name for name, times in names.items() if times > 1]
        if self.target.name in self.names:
            self.refuse(f"the target {self.target.name} is among the columns")
        if twice:
            self.refuse(f"the column {twice[0]} is there twice")
        if not self.names:
            self.refuse("there is no column")
        for column in self.columns:
            if not (column.is_required or column.default is None or column.accepts(column.default)):
                self.refuse(f"{column.name} is {column.kind}, its default is {column.default!r}")
        for crossing in self.crossed:
            if isinstance(crossing, str):
                self.refuse(f"crossed columns: expected tuples of names, got {crossing!r}")
            if "_".join(crossing) in self.names:
                self.refuse(f"crossed columns: there is a column {'_'.join(crossing)} already")
            if wrong := [name for name in crossing if name not in self.categorical]:
                self.refuse(f"crossed columns: {wrong[0]} is not a categorical column")

    def refuse(self, problem: str) -> None:
        """Raise DatasetError with the name of the data set's file."""
        raise DatasetError(f"{_file(type(self))}: {problem}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, numeric ones first."""
        return self.numeric + self.categorical

    @cached_property
    def numeric(self) -> tuple[str, ...]:
        """The names of the numeric columns."""
        return tuple(column.name for column in self.columns if isinstance(column, Numeric))

    @cached_property
    def categorical(self) -> tuple[str, ...]:
        """The names of the categorical columns."""
        return tuple(column.name for column in self.columns if isinstance(column, Categorical))

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default of each optional column."""
        given = {column.name: column.default for column in self.columns if not column.is_required}
        return {name: v.item() if isinstance(v, np.generic) else v for name, v in given.items()}

    def training(self, folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
        """Return the features of the original rows, numeric ones first, and their outcomes."""
        frame, outcomes = self.checked(self.read(self.read_training, folder), "read_training()")
        sizes = np.bincount(self.target.strata(outcomes), minlength=max(len(self.target.labels), 1))
        if np.sort(sizes)[-2:].min() < 2:
            which = " of each of two classes" if self.target.labels else ""
            self.refuse(f"read_training(): a model needs at least two rows{which}")
        return frame, outcomes

    def test(self, folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
        """Return the features and the outcomes of the test rows."""
        return self.checked(self.read(self.read_test, folder), "read_test()")

    def read(self, method: Callable[[Path], Any], folder: Path) -> "pd.DataFrame":
        """Return the rows of read_training() or read_test(); DatasetError if there are none."""
        import pandas as pd

        try:
            rows = method(folder)
        except DatasetError:
            raise
        except Exception as error:  # a mistake in the data set's file, or a file that is missing
            raise DatasetError(in_words(error, _file(type(self)))) from error
        if not isinstance(rows, pd.DataFrame):
            self.refuse(f"{method.__name__}() returns {type(rows).__name__}, not a DataFrame")
        return rows

    def checked(self, rows: "pd.DataFrame", where: str) -> tuple["pd.DataFrame", np.ndarray]:
        """Return features and outcomes of these rows; DatasetError if they are not as declared.

        Optional columns that are absent have their default.
        """
        if rows.columns.duplicated().any():
            twice = rows.columns[rows.columns.duplicated()][0]
            self.refuse(f"{where} returns the column {twice} twice")
        if not len(rows):
            self.refuse(f"{where} returns no row")
        for name in (*self.names, self.target.name):
            if name not in rows.columns:
                if name not in self.defaults:
                    self.refuse(f"{where} returns no column {name}")
                rows = rows.assign(**{name: self.defaults[name]})
        for column in self.columns:
            for wrong in column.first_wrong(rows[column.name]):
                problem = f"{column.name} is {column.kind}, expected {column.expected}"
                self.refuse(f"{where}: the column {problem}, got {repr(wrong)[:80]}")
        outcomes = np.empty(len(rows))
        for row, label in enumerate(rows[self.target.name].astype(object)):
            try:
                outcomes[row] = self.target.outcome_of(label)
            except ValueError as error:
                self.refuse(f"{where}, row {row}: {error}")
        features = rows[[*self.names]]
        objects = [name for name in features if features[name].dtype == object]
        return features.assign(**_without_nan(features[objects])), outcomes


def _without_nan(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows with None for each kind of missing value."""
    return rows.astype(object).where(rows.notna(), None)


def in_words(error: Exception, where: str) -> str:
    """Return an error as one sentence; where : the data set's file, whose line is added."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename.endswith(where)]
    if isinstance(error, SyntaxError) and str(error.filename).endswith(where):
        lines = [error.lineno]
    line = f", line {lines[-1]}" if lines else ""
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{where}{line}: {kind}{error}"


def _file(dataset: type[Dataset]) -> str:
    return f"{dataset.__module__.replace('.', '/')}.py"
