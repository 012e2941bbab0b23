"""Which rows a model is trained on, and which rows judge it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from train.held_out import OBSERVED, Split, is_for_judge
from train.row_hash import hash_frame, shuffle
from train.store.columns import narrow
from train.store.place import STORE
from train.store.snapshot import Snapshot, read_snapshot
from utils.datasets import dataset

if TYPE_CHECKING:
    import pandas as pd

# At least; original rows are added if these observations are fewer. The observations count only if
# they are at least half of all: see train/judge.py.
JUDGE_ROWS = 2_000
# If fewer rows are distinct, the interval is too long to promote a model that is as good; and they
# have so few possible values that equal rows are different visitors.
DISTINCT_ROWS = 100


@dataclass
class LabeledRows:
    """Rows of the data set, as a frame, and their true outcomes; see utils/datasets/target.py.

    The frame has narrow numbers and categorical columns, which take a few bytes a value.
    """

    frame: "pd.DataFrame"
    outcomes: np.ndarray

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, chosen: np.ndarray | slice) -> "LabeledRows":
        return LabeledRows(self.frame.iloc[chosen], self.outcomes[chosen])

    def __add__(self, other: "LabeledRows") -> "LabeledRows":
        import pandas as pd

        if not len(self) or not len(other):
            return self if len(self) else other
        columns = {name: _append(self.frame[name], other.frame[name]) for name in self.frame}
        frame = pd.DataFrame(columns, copy=False)
        return LabeledRows(frame, np.concatenate([self.outcomes, other.outcomes]))

    def held_out(self, split: Split) -> np.ndarray:
        """Return which of these rows, the original ones, are for the judge."""
        return is_for_judge(split.hashes(self.frame, np.arange(len(self))))

    def digest(self) -> str:
        """Return a SHA-256 of the rows' hashes (see train/row_hash.py) and outcomes, in order."""
        digest = hashlib.sha256(hash_frame(self.frame))
        digest.update(self.outcomes)
        return digest.hexdigest()


def as_categories(column: "pd.Series") -> "pd.Categorical":
    """Return a column of strings and nulls as a Categorical, also if there are nulls alone."""
    import pandas as pd

    codes, categories = pd.factorize(column, sort=True)
    return pd.Categorical.from_codes(codes, pd.Index(categories, dtype="str"))


def _append(column: "pd.Series", other: "pd.Series"):
    """Return the values of both columns in one."""
    from pandas.api.types import union_categoricals

    if column.dtype == "category":
        return union_categoricals([column, other])
    return np.concatenate([column.to_numpy(), other.to_numpy()])


def _moved(rows: LabeledRows, observed: LabeledRows, chosen: np.ndarray) -> LabeledRows:
    """Return the rows and the chosen observed ones, which are taken out column by column.

    So memory never holds two copies of them.
    """
    import pandas as pd

    columns = {}
    for name in list(observed.frame):
        column = observed.frame.pop(name)[chosen]
        columns[name] = _append(rows.frame[name], column) if len(rows) else column
    outcomes = np.concatenate([rows.outcomes, observed.outcomes[chosen]])
    return LabeledRows(pd.DataFrame(columns, copy=False), outcomes)


def original_rows(folder: Path) -> LabeledRows:
    """Return the original data."""
    frame, outcomes = dataset.training(folder)
    numbers = {name: narrow(frame[name].to_numpy(np.float64)) for name in dataset.numeric}
    categories = {name: as_categories(frame[name]) for name in dataset.categorical}
    return LabeledRows(frame.assign(**numbers, **categories), outcomes)


def rows_to_share(snapshot: Snapshot, window: int, split: Split) -> dict:
    """Return, for JSON, where a process on another host finds the rows of a training."""
    of = {"end": snapshot.end, "training": snapshot.training}
    return {**of, "window": window, "split": asdict(split)}


def shared_rows(folder: Path, end: int, training: int, window: int, split: dict) -> "LabeledRows":
    """Return the rows of another process's training; the arguments are rows_to_share()'s."""
    snapshot = read_snapshot(STORE, window, of=(end, training))
    return training_data(folder, snapshot, window, Split(**split)).training


def newest_of_equal(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return which rows have no equal row after them in their group; all shapes are (n,).

    The judge's statistics take its rows for independent, which a row and its copy are not.
    """
    keys = hashes ^ shuffle(groups.astype(np.uint64), seed=0)
    _, from_end = np.unique(keys[::-1], return_index=True)
    newest = np.zeros(len(hashes), dtype=bool)
    newest[len(hashes) - 1 - from_end] = True
    return newest


def rows_that_judge(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return which of the rows that are for the judge it uses; all shapes are (n,).

    All observations, and the first original rows (those of group 0) until there are JUDGE_ROWS. Of
    equal rows of a group only the newest, unless fewer than DISTINCT_ROWS would remain.
    """
    chosen = newest_of_equal(hashes, groups)
    if chosen.sum() < DISTINCT_ROWS:
        chosen[:] = True
    observed = np.count_nonzero(groups[chosen])
    chosen[np.flatnonzero(chosen & (groups == 0))[max(JUDGE_ROWS - observed, 0) :]] = False
    return chosen


@dataclass(frozen=True)
class TrainingData:
    """The rows of one training, and of the judge after it."""

    training: LabeledRows
    held_out: int  # rows of the window that are not in `training`, as they are for the judge
    split: Split  # which rows these are
    judge: LabeledRows  # see rows_that_judge()
    judge_groups: np.ndarray  # of each judge's row: the first training that used it, 0 for none


def training_data(
    folder: Path, snapshot: Snapshot, window: int, split: Split | None = None
) -> TrainingData:
    """Return the rows to train on and the rows to judge with.

    Training uses the newest `window` rows (original rows count as the oldest; 0 means all rows),
    without those for the judge. The judge uses its observations of the last W trainings.
    snapshot : read with the same window; its frame is empty afterwards. split : that of the
    champion's successor, None for that of a first model.
    """
    original, observed = original_rows(folder), LabeledRows(snapshot.frame, snapshot.outcomes)
    split = split or Split.of_first_model(original.frame)
    split = split.for_rows(max(original.frame, observed.frame, key=len))
    hashes = split.hashes(original.frame, np.arange(len(original)))
    observed_hashes = split.hashes(observed.frame, OBSERVED + snapshot.positions)
    original_for_judge, for_judge = is_for_judge(hashes), is_for_judge(observed_hashes)
    before_window = max(len(original) + snapshot.observations - window, 0) if window else 0
    original_in_window = np.arange(len(original)) >= before_window
    fill = np.flatnonzero(original_for_judge)
    recent = np.flatnonzero(for_judge & snapshot.is_judged)
    groups = np.concatenate([np.zeros(len(fill), dtype=int), snapshot.first_training[recent]])
    judging = rows_that_judge(np.concatenate([hashes[fill], observed_hashes[recent]]), groups)
    fill, recent = fill[judging[: len(fill)]], recent[judging[len(fill) :]]
    chosen = ~original_for_judge & original_in_window, ~for_judge & snapshot.in_window
    in_window = int(original_in_window.sum() + snapshot.in_window.sum())
    judge = original[fill] + observed[recent]
    training = _moved(original[chosen[0]], observed, chosen[1])
    return TrainingData(
        training=training,
        held_out=in_window - len(training),
        split=split,
        judge=judge,
        judge_groups=groups[judging],
    )
