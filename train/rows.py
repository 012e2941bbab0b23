"""Which rows a model is trained on, and which rows judge it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from train.observations import Snapshot
from utils.datasets import dataset

if TYPE_CHECKING:
    import pandas as pd

JUDGE_ONE_IN = 10  # one row in ten is never trained on: it judges models
JUDGED_TRAININGS = 5  # W: the judge uses the observations that the last five trainings added
JUDGE_ROWS = 2_000  # at least; original rows are added if these observations are fewer


@dataclass
class LabeledRows:
    """Rows of the data set, as a frame, and their true outcomes, 0.0 or 1.0."""

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
        frame = pd.concat([self.frame, other.frame], ignore_index=True)
        return LabeledRows(frame, np.concatenate([self.outcomes, other.outcomes]))

    def digest(self) -> str:
        """Return a SHA-256 of all values, in order."""
        import pandas as pd

        hashes = pd.util.hash_pandas_object(self.frame.astype(str), index=False)
        return hashlib.sha256(hashes.to_numpy().tobytes() + self.outcomes.tobytes()).hexdigest()


def is_for_judge(keys: Iterable[str]) -> np.ndarray:
    """Return for each row's key (its position, or its request_id) whether it is for the judge.

    A digest of the key decides, so a row is on the same side in every training.
    """
    digests = (hashlib.blake2b(key.encode(), digest_size=4).digest() for key in keys)
    return np.array([int.from_bytes(digest) % JUDGE_ONE_IN == 0 for digest in digests], dtype=bool)


def original_rows(folder: Path) -> tuple[LabeledRows, np.ndarray]:
    """Return the original data, and which of its rows are for the judge."""
    rows = LabeledRows(*dataset.read_training(folder))
    return rows, is_for_judge(f"row-{position}" for position in range(len(rows)))


def observed_rows(snapshot: Snapshot) -> tuple[LabeledRows, np.ndarray]:
    """Return the observations, oldest first, and which of them are for the judge."""
    import pandas as pd

    columns = [*dataset.NUMERIC_COLUMNS, *dataset.CATEGORICAL_COLUMNS]
    values = itemgetter(*columns)
    decoded = [values(msgspec.json.decode(content)) for content in snapshot.data]
    frame = pd.DataFrame.from_records(decoded, columns=columns)
    return LabeledRows(frame, np.array(snapshot.outcomes)), is_for_judge(snapshot.request_ids)


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
    """
    original, original_for_judge = original_rows(folder)
    observed, observed_for_judge = observed_rows(snapshot)
    observed.frame = observed.frame[list(original.frame.columns)]
    rows = original + observed
    for_judge = np.concatenate([original_for_judge, observed_for_judge])
    in_window = np.arange(len(rows)) >= (len(rows) - window if window else 0)
    first = np.array(snapshot.first_training, dtype=int)
    recent = observed_for_judge & (first > snapshot.training - JUDGED_TRAININGS)
    fill = original[original_for_judge][: max(JUDGE_ROWS - int(recent.sum()), 0)]
    return TrainingData(
        training=rows[~for_judge & in_window],
        held_out=int((for_judge & in_window).sum()),
        judge=fill + observed[recent],
        judge_groups=np.concatenate([np.zeros(len(fill), dtype=int), first[recent]]),
    )
