"""The trainer's memory: one SQLite file with every request, outcome, offset and training.

What a poll brought in and the offsets that it moved are one SQLite transaction, so that a trainer
killed anywhere goes on exactly where its memory ends. SQLite runs in WAL mode: the training child
reads one consistent state while the trainer goes on writing.
"""

import fcntl
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import IO

from kafka import TopicPartition

from utils.console import say

_SCHEMA = """
CREATE TABLE IF NOT EXISTS observations (
    request_id TEXT PRIMARY KEY,
    data BLOB,      -- JSON of the request's data, NULL until the request has come
    outcome REAL    -- 0.0 or 1.0, NULL until the outcome has come
);
CREATE INDEX IF NOT EXISTS complete ON observations (request_id)
    WHERE data IS NOT NULL AND outcome IS NOT NULL;
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT, partition INTEGER, next_offset INTEGER, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES
    ('retrain_requests', 0), ('retrain_requests_covered', 0), ('last_model_id', 0),
    ('training_model_id', 0), ('training_covers', 0), ('missed_records', 0);
"""

# The first request of an id wins, the last outcome does.
_UPSERT = """
INSERT INTO observations VALUES (?, ?, ?) ON CONFLICT (request_id) DO UPDATE SET
    data = coalesce(observations.data, excluded.data),
    outcome = coalesce(excluded.outcome, observations.outcome)
"""
_COMPLETE = "data IS NOT NULL AND outcome IS NOT NULL"


class Observations:
    """The store, open for writing; only one process has it at a time (see `only_trainer`)."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def offsets(self) -> dict[TopicPartition, int]:
        """Return the offset to read next, of every partition read so far."""
        rows = self._db.execute("SELECT topic, partition, next_offset FROM offsets")
        return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    def add(
        self,
        observed: Iterable[tuple[str, bytes | None, float | None]],
        retrain_requests: int,
        offsets: dict[TopicPartition, int],
    ) -> None:
        """Take in what one poll brought: (request_id, data, outcome) rows, offsets, one commit."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_UPSERT, observed)
            self._db.execute(
                "UPDATE counters SET value = value + ? WHERE name = 'retrain_requests'",
                (retrain_requests,),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
                [(*partition, offset) for partition, offset in offsets.items()],
            )

    def add_missed(self, records: int) -> None:
        """Count records that were deleted before this trainer saw them."""
        self._set_counters(missed_records=self.counter("missed_records") + records)

    def counter(self, name: str) -> int:
        """Return one of the counters of the schema above."""
        return self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()[0]

    def _set_counters(self, **values: int) -> None:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "UPDATE counters SET value = ? WHERE name = ?",
                [(value, name) for name, value in values.items()],
            )

    def requests_due(self, retrain_every: int) -> int:
        """Return how many retrain requests a training that starts now would cover; 0 if none.

        Retraining waits for outcomes: R retrain requests and O observations make
        min(R, O // retrain_every) requests due.
        """
        requests = self.counter("retrain_requests")
        covered = self.counter("retrain_requests_covered")
        if requests <= covered:  # spares the count of a large table
            return 0
        due = min(requests, self.count() // retrain_every)
        return due if due > covered else 0

    def count(self) -> int:
        """Return the number of complete observations: requests whose outcome is known."""
        return self._db.execute(f"SELECT count(*) FROM observations WHERE {_COMPLETE}").fetchone()[
            0
        ]

    def begin_training(self, covers: int, at_least: int) -> int:
        """Note that a training begins and return the id of its model, never given out before."""
        model_id = max(self.counter("last_model_id") + 1, at_least)
        self._set_counters(
            last_model_id=model_id, training_model_id=model_id, training_covers=covers
        )
        return model_id

    def unfinished_training(self) -> tuple[int, int] | None:
        """Return (model_id, covers) of a training that was begun and has not ended, or None."""
        model_id = self.counter("training_model_id")
        return (model_id, self.counter("training_covers")) if model_id else None

    def end_training(self, covered: int) -> None:
        """Note that the training has ended, whatever came of it, and covers its requests."""
        self._set_counters(retrain_requests_covered=covered, training_model_id=0)


def read_snapshot(path: Path) -> tuple[list[tuple[bytes, float]], dict]:
    """Return all complete observations as (data, outcome), and what a card says of their origin.

    Both are of one moment, whatever the trainer writes meanwhile. The origin: `offsets`, up to
    which the topics were read, and `missed_records`, deleted before they could be read.
    """
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("BEGIN")
        offsets = db.execute("SELECT topic || '-' || partition, next_offset FROM offsets")
        origin = {"offsets": dict(offsets.fetchall())}
        missed = db.execute("SELECT value FROM counters WHERE name = 'missed_records'")
        origin["missed_records"] = missed.fetchone()[0]
        query = f"SELECT data, outcome FROM observations WHERE {_COMPLETE} ORDER BY rowid"
        return db.execute(query).fetchall(), origin
    finally:
        db.close()


@contextmanager
def only_trainer(store: Path, stop: Event) -> Iterator[None]:
    """Wait until no other trainer works on this store, then hold an OS lock beside it.

    The system lets go of the lock when the process ends, however it ends. SystemExit if `stop` is
    set while waiting.
    """
    with open(store.with_suffix(".lock"), "a") as file:
        said = False
        while not _lock(file):
            if not said:
                say("Another trainer is at work; this one takes over when that one ends.")
                said = True
            if stop.wait(0.2):
                raise SystemExit(0)
        yield


def _lock(file: IO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
