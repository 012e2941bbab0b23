"""The trainer's memory: one SQLite file with every request, outcome, offset and training.

What a poll brought in and the offsets that it moved are one SQLite transaction, so that a trainer
killed anywhere goes on exactly where its memory ends. SQLite runs in WAL mode: the training child
reads one consistent state while the trainer goes on writing.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from kafka import TopicPartition

from utils.console import say
from utils.files import locked
from utils.settings import settings

STORE = settings.data_dir / "observations.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS observations (
    request_id TEXT PRIMARY KEY,
    data BLOB,          -- JSON of the request's data, NULL until the request has come
    outcome REAL,       -- 0.0 or 1.0, NULL until the outcome has come
    seen REAL,          -- when the trainer saw the first of the two, seconds since the epoch
    first_trained INTEGER  -- the training, counted from 1, that was the first to have it
);
CREATE INDEX IF NOT EXISTS complete ON observations (first_trained)
    WHERE data IS NOT NULL AND outcome IS NOT NULL;
CREATE INDEX IF NOT EXISTS incomplete ON observations (seen)
    WHERE data IS NULL OR outcome IS NULL;
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT, partition INTEGER, next_offset INTEGER, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES
    ('retrain_requests', 0), ('retrain_requests_covered', 0),
    ('asked_by_hand', 0), ('asked_by_hand_covered', 0),
    ('last_model_id', 0), ('announced_model_id', 0), ('trainings', 0),
    ('training_model_id', 0), ('training_covers', 0), ('training_asked', 0),
    ('missed_records', 0), ('expired_records', 0);
"""

# The first request of an id wins, the last outcome does.
_UPSERT = """
INSERT INTO observations VALUES (?, ?, ?, ?, NULL) ON CONFLICT (request_id) DO UPDATE SET
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

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield self._db

    def offsets(self) -> dict[TopicPartition, int]:
        """Return the offset to read next, of every partition read so far."""
        rows = self._db.execute("SELECT topic, partition, next_offset FROM offsets")
        return {TopicPartition(topic, partition): offset for topic, partition, offset in rows}

    def add(
        self,
        observed: Iterable[tuple[str, bytes | None, float | None]],
        retrain_requests: int,
        offsets: dict[TopicPartition, int],
        announced: int | None = None,
    ) -> None:
        """Take in what one poll brought: (request_id, data, outcome) rows, offsets, one commit.

        announced : the champion that retrain_topic named last, if it named one.
        """
        now = time.time()
        with self._transaction() as db:
            db.executemany(_UPSERT, ((*row, now) for row in observed))
            db.executemany(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
                [(*partition, offset) for partition, offset in offsets.items()],
            )
            self._increase(retrain_requests=retrain_requests)
            if announced is not None:
                self._set(announced_model_id=announced)

    def expire(self, seconds: float) -> int:
        """Forget requests without an outcome, and outcomes without a request, after so long.

        What counts is when the trainer saw them: a record's own timestamp is the sender's word.
        Returns how many there were.
        """
        with self._transaction() as db:
            old = "(data IS NULL OR outcome IS NULL) AND seen < ?"
            where = (time.time() - seconds,)
            expired = db.execute(f"DELETE FROM observations WHERE {old}", where).rowcount
            self._increase(expired_records=expired)
        return expired

    def add_missed(self, records: int) -> None:
        """Count records that were deleted before this trainer saw them."""
        with self._transaction():
            self._increase(missed_records=records)

    def ask_by_hand(self) -> None:
        """Ask for a training, whatever the counts say; safe while a trainer is at work."""
        with self._transaction():
            self._increase(asked_by_hand=1)

    def counter(self, name: str) -> int:
        """Return one of the counters of the schema above."""
        return self._db.execute("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()[0]

    def _increase(self, **steps: int) -> None:
        self._db.executemany(
            "UPDATE counters SET value = value + ? WHERE name = ?",
            [(step, name) for name, step in steps.items() if step],
        )

    def _set(self, **values: int) -> None:
        self._db.executemany(
            "UPDATE counters SET value = ? WHERE name = ?",
            [(value, name) for name, value in values.items()],
        )

    def training_due(self, retrain_every: int) -> int | None:
        """Return how many retrain requests a training that is due now covers; None if none is due.

        Retraining waits for outcomes: R retrain requests and O observations make
        min(R, O // retrain_every) requests due. Somebody who asked by hand does not wait.
        """
        requests = self.counter("retrain_requests")
        covered = self.counter("retrain_requests_covered")
        by_hand = self.counter("asked_by_hand") > self.counter("asked_by_hand_covered")
        if requests <= covered and not by_hand:  # spares the count of a large table
            return None
        due = min(requests, self.count() // retrain_every)
        return max(due, covered) if due > covered or by_hand else None

    def count(self) -> int:
        """Return the number of complete observations: requests whose outcome is known."""
        query = f"SELECT count(*) FROM observations WHERE {_COMPLETE}"
        return self._db.execute(query).fetchone()[0]

    def begin_training(self, covers: int, at_least: int) -> int:
        """Note that a training begins and return the id of its model, never given out before."""
        with self._transaction() as db:
            model_id = max(self.counter("last_model_id") + 1, at_least)
            self._set(
                last_model_id=model_id,
                training_model_id=model_id,
                training_covers=covers,
                training_asked=self.counter("asked_by_hand"),
            )
            # Those that come between now and the child's snapshot are the next training's new ones.
            new = f"UPDATE observations SET first_trained = ? WHERE {_COMPLETE}"
            db.execute(f"{new} AND first_trained IS NULL", (self.counter("trainings") + 1,))
        return model_id

    def unfinished_training(self) -> tuple[int, int] | None:
        """Return (model_id, covers) of a training that was begun and has not ended, or None."""
        model_id = self.counter("training_model_id")
        return (model_id, self.counter("training_covers")) if model_id else None

    def abandon_training(self) -> None:
        """Forget a training that was killed before it came to anything."""
        with self._transaction():
            self._set(training_model_id=0)

    def end_training(self, covered: int) -> None:
        """Note that the training has ended, whatever came of it, and covers its requests."""
        with self._transaction() as db:
            # One that brought nothing new does not count: the judge looks at what others brought.
            new = "SELECT 1 FROM observations WHERE first_trained = counters.value + 1"
            where = f"name = 'trainings' AND EXISTS ({new} AND {_COMPLETE})"
            db.execute(f"UPDATE counters SET value = value + 1 WHERE {where}")
            self._set(
                retrain_requests_covered=covered,
                asked_by_hand_covered=self.counter("training_asked"),
                training_model_id=0,
            )

    def note_announced(self, model_id: int) -> None:
        """Remember which champion the predictors were told of last."""
        with self._transaction():
            self._set(announced_model_id=model_id)


@dataclass(frozen=True)
class Snapshot:
    """All complete observations at one moment, oldest first, and where they came from."""

    request_ids: list[str]
    data: list[bytes]
    outcomes: list[float]
    first_trained: list[int]  # the training that was the first to have it, counted from 1
    training: int  # the number of the training that reads this
    offsets: dict[str, int]  # "topic-partition": up to which offset it was read
    missed_records: int
    expired_records: int


def read_snapshot(path: Path) -> Snapshot:
    """Return what the store knows at one moment, whatever the trainer writes meanwhile."""
    db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        db.execute("BEGIN")
        counters = dict(db.execute("SELECT name, value FROM counters"))
        offsets = db.execute("SELECT topic || '-' || partition, next_offset FROM offsets")
        read_up_to = dict(offsets.fetchall())
        training = counters["trainings"] + 1
        query = "SELECT request_id, data, outcome, coalesce(first_trained, ?) FROM observations"
        oldest_first = "ORDER BY coalesce(first_trained, ?), rowid"
        query = f"{query} WHERE {_COMPLETE} {oldest_first}"
        rows = db.execute(query, (training, training)).fetchall()
        columns = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
        missed, expired = counters["missed_records"], counters["expired_records"]
        return Snapshot(*columns, training, read_up_to, missed, expired)
    finally:
        db.close()


@contextmanager
def only_trainer(store: Path, stop: Event) -> Iterator[None]:
    """Wait until no other trainer works on this store, then hold an OS lock beside it.

    SystemExit if `stop` is set while waiting.
    """
    told = False

    def wait() -> None:
        nonlocal told
        if not told:
            say("Another trainer is running; this one takes over when that one ends.")
            told = True
        if stop.wait(0.2):
            raise SystemExit(0)

    with locked(store.with_suffix(".lock"), wait):
        yield
