"""What a training reads from the store: its observations at one moment, as columns."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from train.store.columns import FrameBuilder
from train.store.database import Database, StoreUnreachable
from train.store.place import Place, open_database
from train.store.segments import read_blocks
from train.store.stored_target import check_target
from utils.datasets import dataset
from utils.process import return_free_pages
from utils.settings import settings

if TYPE_CHECKING:
    import pandas as pd

JUDGED_TRAININGS = 5  # W: the judge uses the observations that the last five trainings added
JUDGED_OBSERVATIONS = 40_000  # of each of them at most, the newest; one in ten is for the judge


@dataclass
class Snapshot:
    """Observations at one moment, oldest first, and up to where topics were read.

    These are the observations that a training or the judge after it may use. Arrays have the shape
    (rows,).
    """

    frame: "pd.DataFrame"
    positions: np.ndarray  # in the order in which they were complete, from 0; they never change
    outcomes: np.ndarray  # float64, see utils/datasets/target.py
    first_training: np.ndarray  # number, from 1, of the first training that used the observation
    in_window: np.ndarray  # bool: among the newest `window` rows
    is_judged: np.ndarray  # bool: the judge may use it, if it is on its side
    training: int  # the number of the training that reads this snapshot
    end: int  # the position after the newest observation
    observations: int  # how many there are in the store
    offsets: dict[str, int]  # "topic-partition" -> the offset to read next
    missed_records: int
    expired_records: int
    filled: dict[str, int]  # see FrameBuilder

    def forget_rows(self) -> None:
        """Free the memory of all rows; what describes the snapshot remains."""
        for name in ("frame", "positions", "outcomes", "first_training", "in_window", "is_judged"):
            delattr(self, name)


def read_snapshot(place: Place, window: int = 0, of: tuple[int, int] | None = None) -> Snapshot:
    """Return observations of the store at one moment; StoreError if it can't be read.

    window : the newest rows, to which the training is limited; 0 for all. Only these, and those for
    the judge, are read. of : (end, training) of an earlier snapshot, whose rows are wanted again.
    Where a server can't be reached, this is tried again for BROKER_TIMEOUT.
    """
    deadline = time.monotonic() + settings.broker_timeout
    while True:
        try:
            return _read_snapshot(place, window, of)
        except StoreUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def _read_snapshot(place: Place, window: int, of: tuple[int, int] | None) -> Snapshot:
    with closing(open_database(place, read_only=True)) as db:
        db.query("BEGIN")  # all that follows reads the same state
        check_target(db, place)
        counters = dict(db.query("SELECT name, value FROM counters"))
        offsets = dict(db.query("SELECT topic || '-' || partition, next_offset FROM offsets"))
        borders = db.query("SELECT number, observations FROM trainings ORDER BY number")
        end, training = of or (counters["observations"], counters["trainings"] + 1)
        newest = (max(end - window, 0) if window else 0, end)
        judged = judged_ranges(borders, training, end)
        read = _read_rows(db, [newest, *judged])
    rows = read()
    positions = rows["positions"]
    return Snapshot(
        **rows,
        first_training=first_trainings(positions, borders, training),
        in_window=_is_in(positions, [newest]),
        is_judged=_is_in(positions, judged),
        training=training,
        end=end,
        observations=end - counters["observations_deleted"],
        offsets=offsets,
        missed_records=counters["missed_records"],
        expired_records=counters["expired_records"],
    )


def judged_ranges(borders: list[tuple[int, int]], training: int, end: int) -> list[tuple[int, int]]:
    """Return the [first, end) positions that the judge after this training uses observations of.

    borders : (number, observations when it began) of each training.
    """
    begun = {number: size for number, size in borders if number < training}
    ranges = []
    for number in range(max(training - JUDGED_TRAININGS, 0) + 1, training + 1):
        last = begun.get(number, end)
        ranges.append((max(begun.get(number - 1, 0), last - JUDGED_OBSERVATIONS), last))
    return ranges


def first_trainings(positions: np.ndarray, borders: list, training: int) -> np.ndarray:
    """Return for each position the number of the first training that used it."""
    numbers = [number for number, _ in borders] or [training]
    sizes = [size for _, size in borders]
    found = numbers[0] + np.searchsorted(sizes, positions, side="right")
    return np.minimum(found, training)


def _is_in(positions: np.ndarray, ranges: list[tuple[int, int]]) -> np.ndarray:
    inside = np.zeros(len(positions), dtype=bool)
    for first, end in ranges:
        inside |= (positions >= first) & (positions < end)
    return inside


def _read_rows(db: Database, ranges: list[tuple[int, int]]) -> Callable[[], dict]:
    """Read the rows in these ranges; return what makes the fields of Snapshot that hold them.

    That takes long, and the database is not needed for it any more.
    """
    builder = FrameBuilder(dataset.numeric, dataset.categorical, dataset.defaults)
    positions, outcomes = [np.empty(0, int)], [np.empty(0)]
    for block, columns, known in read_blocks(db, ranges):
        chosen = _is_in(block, ranges)
        builder.add(columns, chosen)
        positions.append(block[chosen])
        outcomes.append(known[chosen])

    def rows() -> dict:
        frame = builder.frame()
        return_free_pages()  # of the columns' parts: as much as the frame takes
        return {
            "frame": frame,
            "filled": builder.filled,
            "positions": np.concatenate(positions),
            "outcomes": np.concatenate(outcomes),
        }

    return rows
