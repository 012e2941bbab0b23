"""Which rows a model is trained on, and which rows judge it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.columns import narrow
from train.keys import is_for_judge
from train.snapshot import Snapshot
from utils.datasets import dataset

if TYPE_CHECKING:
    import pandas as pd

JUDGE_ROWS = 2_000  # at least; original rows are added if these observations are fewer
_DIGESTED = 65_536  # rows


@dataclass
class LabeledRows:
    """Rows of the data set, as a frame, and their true outcomes, 0.0 or 1.0.

    The frame has narrow numbers and categorical columns, which take a few bytes a value.
    """

    frame: "pd.DataFrame"
    outcomes: np.ndarray

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, chosen: np.ndarray | slice) -> "LabeledRows":
        return LabeledRows(self.frame[chosen], self.outcomes[chosen])

    def __add__(self, other: "LabeledRows") -> "LabeledRows":
        import pandas as pd

        if not len(self) or not len(other):
            return self if len(self) else other
        columns = {name: _append(self.frame[name], other.frame[name]) for name in self.frame}
        frame = pd.DataFrame(columns, copy=False)
        return LabeledRows(frame, np.concatenate([self.outcomes, other.outcomes]))

    def digest(self) -> str:
        """Return a SHA-256 of all values, in order, whatever types hold them."""
        import pandas as pd

        digest = hashlib.sha256()
        numeric = {name: float for name in self.frame if self.frame[name].dtype != "category"}
        for start in range(0, len(self), _DIGESTED):
            batch = self.frame[start : start + _DIGESTED].astype(numeric)
            digest.update(pd.util.hash_pandas_object(batch, index=False).to_numpy())
        digest.update(self.outcomes)
        return digest.hexdigest()


def _append(column: "pd.Series", other: "pd.Series"):
    """Return the values of both columns in one."""
    from pandas.api.types import union_categoricals

    if column.dtype == "category":
        return union_categoricals([column, other])
    return np.concatenate([column.to_numpy(), other.to_numpy()])


def original_rows(folder: Path) -> tuple[LabeledRows, np.ndarray]:
    """Return the original data, and which of its rows are for the judge."""
    frame, outcomes = dataset.read_training(folder)
    for name in dataset.NUMERIC_COLUMNS:
        frame[name] = narrow(frame[name].to_numpy(np.float64))
    for name in dataset.CATEGORICAL_COLUMNS:
        frame[name] = frame[name].astype("category")
    names = [*dataset.NUMERIC_COLUMNS, *dataset.CATEGORICAL_COLUMNS]
    for_judge = [is_for_judge(f"row-{position}") for position in range(len(outcomes))]
    return LabeledRows(frame[names], outcomes), np.array(for_judge)


@dataclass(frozen=True)
class TrainingData:
    """The rows of one training, and of the judge after it."""

    training: LabeledRows
    held_out: int  # rows of the window that are not in `training`, as they are for the judge
    judge: LabeledRows
    judge_groups: np.ndarray  # of each judge's row: the first training that used it, 0 for none


def training_data(folder: Path, snapshot: Snapshot, window: int) -> TrainingData:
    """Return the rows to train on and the rows to judge with.

    Training uses the newest `window` rows (original rows count as the oldest; 0 means all rows),
    without those for the judge. The judge uses its observations of the last W trainings.
    snapshot : read with the same window.
    """
    original, original_for_judge = original_rows(folder)
    observed, for_judge = LabeledRows(snapshot.frame, snapshot.outcomes), snapshot.for_judge
    before_window = max(len(original) + snapshot.observations - window, 0) if window else 0
    original_in_window = np.arange(len(original)) >= before_window
    recent = for_judge & snapshot.is_judged
    fill = original[original_for_judge][: max(JUDGE_ROWS - int(recent.sum()), 0)]
    chosen = ~original_for_judge & original_in_window, ~for_judge & snapshot.in_window
    in_window = int(original_in_window.sum() + snapshot.in_window.sum())
    training = original[chosen[0]] + observed[chosen[1]]
    return TrainingData(
        training=training,
        held_out=in_window - len(training),
        judge=fill + observed[recent],
        judge_groups=np.concatenate(
            [np.zeros(len(fill), dtype=int), snapshot.first_training[recent]]
        ),
    )
