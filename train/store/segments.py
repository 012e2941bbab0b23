"""Segments: the store's older observations, as columns; sealed, corrected, deleted, read."""

from bisect import bisect_left
from collections.abc import Iterator

import numpy as np

from train.store.columns import Columns, columns_of, decode_columns
from train.store.database import Database
from train.store.keys import KEY_BYTES
from train.store.schema import as_bytes, write_segment
from utils.datasets import dataset


def seal(db: Database, size: int) -> bool:
    """Move the oldest `size` recent observations into a segment; False if there are fewer."""
    [(first, last)] = db.query("SELECT min(position), max(position) FROM recent")
    if first is None or last - first + 1 < size:
        return False
    rows = db.query("SELECT * FROM recent WHERE position < ? ORDER BY position", (first + size,))
    write_segment(db, rows)
    db.query("DELETE FROM recent WHERE position < ?", (first + size,))
    return True


def correct_outcomes(db: Database, outcomes: dict[int, float]) -> None:
    """Replace the outcomes of observations, wherever they are; outcomes : by position."""
    if not outcomes:
        return
    change = "UPDATE recent SET outcome = ? WHERE position = ?"
    db.execute_many(change, [(outcome, position) for position, outcome in outcomes.items()])
    left = sorted(outcomes)
    last = "SELECT first, size FROM segments WHERE first <= ? ORDER BY first DESC LIMIT 1"
    while left and (found := db.query(last, (left[-1],))):
        [(first, size)] = found
        within = left[bisect_left(left, first) :]
        values = {p - first: as_bytes([outcomes[p]]) for p in within if p < first + size}
        if values:
            db.write_bytes("segments", "outcomes", first, values)
        del left[-len(within) :]


def delete_oldest(db: Database, keep_rows: int | None, seen_before: float | None) -> int:
    """Delete the oldest segment unless it must be kept; return its number of observations.

    At least the newest `keep_rows` observations are kept, and those seen later than `seen_before`;
    None for all. Recent observations are deleted one by one, but only by age.
    """
    [(end,)] = db.query("SELECT value FROM counters WHERE name = 'observations'")
    oldest = db.query("SELECT first, size, seen FROM segments ORDER BY first LIMIT 1")
    for first, size, seen in oldest:
        too_many = keep_rows is not None and end - (first + size) >= keep_rows
        if too_many or (seen_before is not None and seen < seen_before):
            _delete_segment(db, first)
            return size
    if oldest or seen_before is None:
        return 0
    # Positions have no gaps, so rows can only go from the oldest to the newest.
    old = db.query(
        "SELECT key FROM recent WHERE position < coalesce("
        "(SELECT min(position) FROM recent WHERE seen >= ?), ?)",
        (seen_before, end),
    )
    db.execute_many("DELETE FROM positions WHERE key = ?", old)
    db.execute_many("DELETE FROM recent WHERE key = ?", old)
    return len(old)


def _delete_segment(db: Database, first: int) -> None:
    [(keys,)] = db.query("SELECT keys FROM segments WHERE first = ?", (first,))
    split = ((keys[at : at + KEY_BYTES],) for at in range(0, len(keys), KEY_BYTES))
    db.execute_many("DELETE FROM positions WHERE key = ?", sorted(split))
    db.query("DELETE FROM segments WHERE first = ?", (first,))


def read_blocks(
    db: Database, ranges: list[tuple[int, int]]
) -> Iterator[tuple[np.ndarray, Columns, np.ndarray]]:
    """Yield (positions, columns, outcomes) of blocks that reach into the ranges.

    Blocks come in the order of their positions; ranges : [first, end) positions.
    """

    def is_wanted(first: int, size: int) -> bool:
        return any(begin < first + size and first < end for begin, end in ranges)

    for first, size in db.query("SELECT first, size FROM segments ORDER BY first"):
        if is_wanted(first, size):
            what = "SELECT outcomes, columns FROM segments WHERE first = ?"
            [(outcomes, columns)] = db.query(what, (first,))
            known = np.frombuffer(outcomes, dataset.target.outcome_dtype)
            yield np.arange(first, first + size), decode_columns(columns), known
    rows = db.query("SELECT position, data, outcome FROM recent ORDER BY position")
    if rows and is_wanted(rows[0][0], len(rows)):
        positions, data, outcomes = zip(*rows, strict=True)
        yield np.array(positions), columns_of(data), np.array(outcomes)
