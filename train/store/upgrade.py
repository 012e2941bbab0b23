"""How a store of an earlier version becomes one of today."""

import time
from collections.abc import Iterator

from train.store.database import Database
from train.store.keys import key_of
from train.store.schema import SCHEMA, SEGMENT_ROWS, add_positions, write_segment
from utils.console import say

SAY_EVERY = 500_000  # observations


def upgrade_from_4(db: Database) -> None:
    """Do nothing: the table target is new, and the trainer fills it."""


def upgrade_from_3(db: Database) -> None:
    """Drop the columns that told which rows are for the judge: now the rows' values do."""
    for table in ("waiting", "recent", "segments"):
        db.query(f"ALTER TABLE {table} DROP COLUMN for_judge")


def upgrade_from_2(db: Database) -> None:
    """Turn the tables of version 2, where each observation was a row of JSON, into today's.

    Called within a transaction: whatever ends it, the file is as it was. Observations keep their
    order and their first trainings.
    """
    rename = "ALTER TABLE observations RENAME TO old; ALTER TABLE offsets RENAME TO old_offsets;"
    db.execute_script(rename + SCHEMA)
    db.query("INSERT INTO offsets SELECT *, -1, '' FROM old_offsets")
    [(rows,)] = db.query("SELECT count(*) FROM old")
    say(f"Converting the observations of an earlier version: {rows:,} rows.")
    now = time.time()
    db.query("UPDATE counters SET value = ? WHERE name = 'wall_clock'", (int(now),))
    waiting = "SELECT * FROM old WHERE data IS NULL OR outcome IS NULL ORDER BY seen"
    db.execute_many("INSERT INTO waiting VALUES (?, ?, ?, ?)", _rows(db.iterate(waiting), now))
    _upgrade_trainings(db)
    complete = _upgrade_complete(db, now)
    db.query("UPDATE counters SET value = ? WHERE name = 'observations'", (complete,))
    db.execute_script("DROP TABLE old; DROP TABLE old_offsets")


def _rows(old: Iterator[tuple], now: float) -> Iterator[tuple]:
    """Yield (key, data, outcome, seen), on a clock that is 0 now; see StoreClock."""
    for request_id, data, outcome, seen, _ in old:
        yield key_of(request_id), data, outcome, min(seen - now, 0)


def _upgrade_trainings(db: Database) -> None:
    complete = 0
    for number, size in db.query(
        "SELECT first_training, count(*) FROM old"
        " WHERE data NOT NULL AND outcome NOT NULL AND first_training NOT NULL GROUP BY 1"
    ):
        complete += size
        db.query("INSERT INTO trainings VALUES (?, ?)", (number, complete))


def _upgrade_complete(db: Database, now: float) -> int:
    """Store all complete observations; return how many."""
    old = db.iterate(
        "SELECT * FROM old WHERE data NOT NULL AND outcome NOT NULL"
        " ORDER BY coalesce(first_training, 1e18), rowid"
    )
    complete, rows = 0, []
    for complete, row in enumerate(_rows(old, now), 1):
        rows.append((complete - 1, *row))
        if len(rows) == SEGMENT_ROWS:
            write_segment(db, rows)
            add_positions(db, rows)
            rows = []
        if complete % SAY_EVERY == 0:
            say(f"{complete:,} observations are converted.")
    db.execute_many("INSERT INTO recent VALUES (?, ?, ?, ?, ?)", rows)
    add_positions(db, rows)
    return complete


UPGRADES = {2: upgrade_from_2, 3: upgrade_from_3, 4: upgrade_from_4}
