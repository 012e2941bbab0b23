"""The tables of the trainer's store.

An observation is a request whose outcome is known. It waits in `waiting` until both are read. Then
it gets its position: how many observations were complete before it. The newest complete ones are
rows of `recent`; SEGMENT_ROWS of them at a time become one row of `segments`, as columns.

Invariants, after every transaction:

- `waiting` and `recent` are in the order of `seen`: the clock that it is read from never goes back.
- A key is in at most one of `waiting` and `positions`; a position is in exactly one of `recent`
  and `segments`.
- The positions in the store are `observations_deleted` to `observations` - 1, without gaps;
  all those in `segments` are smaller than those in `recent`.
"""

from collections.abc import Sequence

import numpy as np

from train.store.columns import columns_of, encode_columns
from train.store.database import Database
from utils.datasets import dataset

SCHEMA_VERSION = 5  # raise it with every change of the schema
SEGMENT_ROWS = 8_192

SCHEMA = """
CREATE TABLE IF NOT EXISTS waiting (
    key BLOB PRIMARY KEY,   -- digest of the request id, see train/store/keys.py
    data BLOB,              -- JSON of the request's data; NULL until the request is read
    outcome REAL,           -- see the table target; NULL until the outcome is read
    seen REAL               -- when the first of the two was read; see StoreClock
);
CREATE TABLE IF NOT EXISTS recent (
    position INTEGER PRIMARY KEY, key BLOB, data BLOB, outcome REAL, seen REAL
);
CREATE TABLE IF NOT EXISTS segments (
    first INTEGER PRIMARY KEY,  -- position of its first observation
    size INTEGER,               -- how many observations
    seen REAL,                  -- when the newest one was complete
    outcomes BLOB,              -- one byte each if they are classes, else a float64 each
    columns BLOB,               -- see train/store/columns.py
    keys BLOB                   -- KEY_BYTES each
);
CREATE TABLE IF NOT EXISTS positions (key BLOB PRIMARY KEY, position INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trainings (
    number INTEGER PRIMARY KEY,  -- from 1; trainings without new observations have none
    observations INTEGER         -- how many observations were complete when it began
);
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT, partition INTEGER, next_offset INTEGER,
    leader_epoch INTEGER,   -- of the last record before; -1 if unknown
    topic_id TEXT,          -- the offset is of this topic only; '' if unknown
    PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS target (  -- one row: what outcomes mean; see stored_target.py
    dataset TEXT, kind TEXT, labels TEXT  -- JSON: the classes, in the order of their outcomes
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT INTO counters VALUES
    ('observations', 0), ('observations_deleted', 0), ('observations_covered', 0),
    ('retrain_requests', 0), ('retrain_requests_covered', 0), ('retrain_every', 0),
    ('asked_by_hand', 0), ('asked_by_hand_covered', 0),
    ('last_model_id', 0), ('announced_model_id', 0), ('trainings', 0),
    ('training_model_id', 0), ('training_covers', 0), ('training_asked', 0),
    ('missed_records', 0), ('expired_records', 0),
    ('clock', 0), ('wall_clock', 0)
ON CONFLICT DO NOTHING;
"""


def write_segment(db: Database, rows: list[tuple]) -> None:
    """Store rows (position, key, data, outcome, seen), oldest first, as a segment."""
    positions, keys, data, outcomes, seen = zip(*rows, strict=True)
    columns = encode_columns(columns_of(data))
    row = (positions[0], len(rows), max(seen), as_bytes(outcomes), columns, b"".join(keys))
    db.query("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", row)


def as_bytes(outcomes: Sequence[float]) -> bytes:
    """Return outcomes as a segment holds them."""
    return np.array(outcomes, dataset.target.outcome_dtype).tobytes()


def add_positions(db: Database, rows: list[tuple]) -> None:
    """Remember the keys of these rows, which begin with (position, key)."""
    known = sorted((key, position) for position, key, *_ in rows)  # touches fewer pages
    db.execute_many("INSERT INTO positions VALUES (?, ?)", known)
