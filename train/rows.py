"""Which rows a model is trained on, and which ones judge it."""

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

HELD_OUT = 10  # one row in so many is never trained on
JUDGED_TRAININGS = 5  # W: the judge looks at what these last trainings brought
JUDGE_ROWS = 2_000  # at least; where there are not so many, original rows fill up


@dataclass
class Rows:
    """Rows of the data set and what was true: a frame, and 0.0 or 1.0 for each of its rows."""

    frame: "pd.DataFrame"
    outcomes: np.ndarray

    def __len__(self) -> int:
        return len(self.outcomes)

    def __getitem__(self, chosen: np.ndarray | slice) -> "Rows":
        return Rows(self.frame[chosen], self.outcomes[chosen])

    def __add__(self, other: "Rows") -> "Rows":
        import pandas as pd

        if not len(self) or not len(other):
            return self if len(self) else other
        frame = pd.concat([self.frame, other.frame], ignore_index=True)
        return Rows(frame, np.concatenate([self.outcomes, other.outcomes]))

    def digest(self) -> str:
        """Return a SHA-256 of all values, in order."""
        import pandas as pd

        hashes = pd.util.hash_pandas_object(self.frame.astype(str), index=False)
        return hashlib.sha256(hashes.to_numpy().tobytes() + self.outcomes.tobytes()).hexdigest()


def is_held_out(keys: Iterable[str]) -> np.ndarray:
    """Return for each key (a row's position, or its request_id) whether its row is held out.

    A digest decides: the same row always meets the same fate.
    """
    digests = (hashlib.blake2b(key.encode(), digest_size=4).digest() for key in keys)
    return np.array([int.from_bytes(digest) % HELD_OUT == 0 for digest in digests], dtype=bool)


def original_rows(folder: Path) -> tuple[Rows, np.ndarray]:
    """Return the original data, and which of its rows are held out."""
    rows = Rows(*dataset.read_training(folder))
    return rows, is_held_out(f"row-{position}" for position in range(len(rows)))


def observed_rows(snapshot: Snapshot) -> tuple[Rows, np.ndarray]:
    """Return the observations, oldest first, and which of them are held out."""
    import pandas as pd

    columns = [*dataset.NUMERIC_COLUMNS, *dataset.CATEGORICAL_COLUMNS]
    values = itemgetter(*columns)
    decoded = [values(msgspec.json.decode(content)) for content in snapshot.data]
    frame = pd.DataFrame.from_records(decoded, columns=columns)
    return Rows(frame, np.array(snapshot.outcomes)), is_held_out(snapshot.request_ids)


@dataclass(frozen=True)
class Split:
    """The rows of one training, and of its judge."""

    training: Rows
    held_out: int  # rows that the training would have, were they not held out
    judge: Rows
    groups: np.ndarray  # of the judge's rows: the first training that had it, 0 for original ones


def split(folder: Path, snapshot: Snapshot, window: int) -> Split:
    """Return which rows are for training, and which for the judge.

    Training takes the newest `window` rows (original ones first, then the observed ones; 0 means
    all) that are not held out. The judge takes held-out rows that the last W trainings brought.
    """
    original, original_out = original_rows(folder)
    observed, observed_out = observed_rows(snapshot)
    observed.frame = observed.frame[list(original.frame.columns)]
    rows, out = original + observed, np.concatenate([original_out, observed_out])
    newest = np.arange(len(rows)) >= (len(rows) - window if window else 0)
    first = np.array(snapshot.first_trained, dtype=int)
    judging = observed_out & (first > snapshot.training - JUDGED_TRAININGS)
    fill = original[original_out][: max(JUDGE_ROWS - int(judging.sum()), 0)]
    groups = np.concatenate([np.zeros(len(fill), dtype=int), first[judging]])
    held_out = int((out & newest).sum())
    return Split(rows[~out & newest], held_out, fill + observed[judging], groups)
