"""The trainer's store: one SQLite file with all requests, outcomes, offsets and trainings.

What a poll returned and the offsets after it are stored in one SQLite transaction. So a trainer
that is killed at any moment continues where its store ends, and no observation is lost or counted
twice. The training child reads one consistent snapshot while the trainer goes on writing.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import MappingProxyType

from train.database import Database
from utils.console import say
from utils.files import locked
from utils.kafka_client.records import Position
from utils.settings import settings

STORE = settings.data_dir / "observations.db"
Partition = tuple[str, int]  # topic and number; equal to kafka-python's TopicPartition

SCHEMA_VERSION = 2  # raise it with every change of the schema
_SCHEMA = """
CREATE TABLE IF NOT EXISTS observations (
    request_id TEXT PRIMARY KEY,
    data BLOB,              -- JSON of the request's data; NULL until the request is read
    outcome REAL,           -- 0.0 or 1.0; NULL until the outcome is read
    seen REAL,              -- when the trainer read the first of the two, in seconds since 1970
    first_training INTEGER  -- number, from 1, of the first training that used it; NULL if none did
);
CREATE INDEX IF NOT EXISTS complete ON observations (first_training)
    WHERE data IS NOT NULL AND outcome IS NOT NULL;
CREATE INDEX IF NOT EXISTS incomplete ON observations (seen)
    WHERE data IS NULL OR outcome IS NULL;
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT, partition INTEGER, next_offset INTEGER, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS origins (  -- the log that an offset is of, see kafka_client/reader.py
    topic TEXT, partition INTEGER, topic_id TEXT, leader_epoch INTEGER,
    PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
INSERT OR IGNORE INTO counters VALUES
    ('retrain_requests', 0), ('retrain_requests_covered', 0),
    ('asked_by_hand', 0), ('asked_by_hand_covered', 0),
    ('last_model_id', 0), ('announced_model_id', 0), ('trainings', 0),
    ('training_model_id', 0), ('training_covers', 0), ('training_asked', 0),
    ('missed_records', 0), ('expired_records', 0);
"""

# Of several requests with the same id the first one counts, of several outcomes the last one.
_UPSERT = """
INSERT INTO observations VALUES (?, ?, ?, ?, NULL) ON CONFLICT (request_id) DO UPDATE SET
    data = coalesce(observations.data, excluded.data),
    outcome = coalesce(excluded.outcome, observations.outcome)
"""
_COMPLETE = "data IS NOT NULL AND outcome IS NOT NULL"


class Observations:
    """The store, open for writing by one process at a time (see `only_trainer`).

    Every method raises StoreError if the file can't be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._db = Database(path, _SCHEMA, SCHEMA_VERSION)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def offsets(self) -> dict[Partition, int]:
        """Return the offset to read next for every partition that was read before."""
        rows = self._db.query("SELECT topic, partition, next_offset FROM offsets")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def positions(self) -> dict[Partition, Position]:
        """Return the position to read next for every partition that was read before."""
        rows = self._db.query(
            "SELECT topic, partition, next_offset, coalesce(leader_epoch, -1),"
            " coalesce(topic_id, '') FROM offsets LEFT JOIN origins USING (topic, partition)"
        )
        return {(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    def add(
        self,
        observed: Iterable[tuple[str, bytes | None, float | None]],
        retrain_requests: int,
        offsets: dict[Partition, int],
        announced: int | None = None,
        missed: int = 0,
        origins: Mapping[Partition, tuple[str, int]] = MappingProxyType({}),
    ) -> None:
        """Store what one poll returned, and the offsets to read next, in one transaction.

        observed : (request_id, data, outcome); announced : the model that the last announcement of
        a new champion names, None if there was no announcement; missed : records that Kafka deleted
        before they were read; origins : (topic id, leader epoch) of the offsets. All offsets of a
        topic are replaced where its id has changed: an offset is of no other topic.
        """
        now = time.time()
        with self._db.transaction():
            self._db.execute_many(_UPSERT, ((*row, now) for row in observed))
            self._set_origins(origins)
            self._db.execute_many(
                "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)",
                [(*partition, offset) for partition, offset in offsets.items()],
            )
            self._increase(retrain_requests=retrain_requests, missed_records=missed)
            if announced is not None:
                self._set(announced_model_id=announced)

    def _set_origins(self, origins: Mapping[Partition, tuple[str, int]]) -> None:
        ids = {topic: topic_id for (topic, _), (topic_id, _) in origins.items()}
        other = "SELECT 1 FROM origins WHERE topic = ? AND topic_id NOT IN ('', ?)"
        for topic, topic_id in ids.items():
            if self._db.query(other, (topic, topic_id)):
                self._db.query("DELETE FROM offsets WHERE topic = ?", (topic,))
                self._db.query("DELETE FROM origins WHERE topic = ?", (topic,))
        rows = [(*partition, *origin) for partition, origin in origins.items()]
        self._db.execute_many("INSERT OR REPLACE INTO origins VALUES (?, ?, ?, ?)", rows)

    def expire(self, seconds: float) -> int:
        """Delete unmatched requests and outcomes that are older; return how many.

        Age counts from when the trainer read them: a record's timestamp is set by its sender.
        """
        with self._db.transaction():
            old = "(data IS NULL OR outcome IS NULL) AND seen < ?"
            self._db.query(f"DELETE FROM observations WHERE {old}", (time.time() - seconds,))
            expired = self._db.query("SELECT changes()")[0][0]
            self._increase(expired_records=expired)
        return expired

    def ask_by_hand(self) -> None:
        """Make a training due now, whatever the counts are; safe while a trainer is running."""
        with self._db.transaction():
            self._increase(asked_by_hand=1)

    def counter(self, name: str) -> int:
        """Return a counter; the schema above has their names."""
        return self._db.query("SELECT value FROM counters WHERE name = ?", (name,))[0][0]

    def _increase(self, **steps: int) -> None:
        self._db.execute_many(
            "UPDATE counters SET value = value + ? WHERE name = ?",
            [(step, name) for name, step in steps.items() if step],
        )

    def _set(self, **values: int) -> None:
        self._db.execute_many(
            "UPDATE counters SET value = ? WHERE name = ?",
            [(value, name) for name, value in values.items()],
        )

    def training_due(self, retrain_every: int) -> int | None:
        """Return how many retrain requests a training would cover, or None if no training is due.

        Retraining waits for outcomes: with R retrain requests and O complete observations,
        min(R, O // retrain_every) of them are due. A training asked for by hand does not wait.
        """
        requests = self.counter("retrain_requests")
        covered = self.counter("retrain_requests_covered")
        by_hand = self.counter("asked_by_hand") > self.counter("asked_by_hand_covered")
        if requests <= covered and not by_hand:  # saves counting the rows of a large table
            return None
        due = min(requests, self.count() // retrain_every)
        return max(due, covered) if due > covered or by_hand else None

    def count(self) -> int:
        """Return the number of complete observations: requests whose outcome is known."""
        return self._db.query(f"SELECT count(*) FROM observations WHERE {_COMPLETE}")[0][0]

    def begin_training(self, requests_covered: int, at_least: int) -> int:
        """Record that a training begins; return the id of its model, which was never used before.

        requests_covered : as training_due() returned it; at_least : the smallest id allowed.
        """
        with self._db.transaction():
            model_id = max(self.counter("last_model_id") + 1, at_least)
            self._set(
                last_model_id=model_id,
                training_model_id=model_id,
                training_covers=requests_covered,
                training_asked=self.counter("asked_by_hand"),
            )
            # Observations that become complete between now and the child's snapshot are used by
            # this training too, but count as new ones of the next.
            update = f"UPDATE observations SET first_training = ? WHERE {_COMPLETE}"
            number = (self.counter("trainings") + 1,)
            self._db.query(f"{update} AND first_training IS NULL", number)
        return model_id

    def unfinished_training(self) -> tuple[int, int] | None:
        """Return (model_id, requests_covered) of a training that has begun and not ended."""
        model_id = self.counter("training_model_id")
        return (model_id, self.counter("training_covers")) if model_id else None

    def abandon_training(self) -> None:
        """Record that a training ended without a result: what it would cover is still due."""
        with self._db.transaction():
            self._set(training_model_id=0)

    def end_training(self, requests_covered: int) -> None:
        """Record that a training has ended, with any result: the requests it covers are done."""
        with self._db.transaction():
            # A training without new observations gets no number: the judge compares models on the
            # observations that the last trainings added.
            new = "SELECT 1 FROM observations WHERE first_training = counters.value + 1"
            where = f"name = 'trainings' AND EXISTS ({new} AND {_COMPLETE})"
            self._db.query(f"UPDATE counters SET value = value + 1 WHERE {where}")
            self._set(
                retrain_requests_covered=requests_covered,
                asked_by_hand_covered=self.counter("training_asked"),
                training_model_id=0,
            )

    def note_announced(self, model_id: int) -> None:
        """Record which champion was announced last."""
        with self._db.transaction():
            self._set(announced_model_id=model_id)


@dataclass(frozen=True)
class Snapshot:
    """All complete observations at one moment, oldest first, and up to where topics were read."""

    request_ids: list[str]
    data: list[bytes]
    outcomes: list[float]
    first_training: list[int]  # number, from 1, of the first training that used the observation
    training: int  # the number of the training that reads this snapshot
    offsets: dict[str, int]  # "topic-partition" -> the offset to read next
    missed_records: int
    expired_records: int


def read_snapshot(path: Path) -> Snapshot:
    """Return the content of the store at one moment; StoreError if it can't be read."""
    with closing(Database(path, read_only=True)) as db:
        db.query("BEGIN")  # all that follows reads the same state
        counters = dict(db.query("SELECT name, value FROM counters"))
        offsets = dict(db.query("SELECT topic || '-' || partition, next_offset FROM offsets"))
        training = counters["trainings"] + 1
        rows = db.query(
            "SELECT request_id, data, outcome, coalesce(first_training, ?) AS first"
            f" FROM observations WHERE {_COMPLETE} ORDER BY first, rowid",
            (training,),
        )
    columns = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    missed, expired = counters["missed_records"], counters["expired_records"]
    return Snapshot(*columns, training, offsets, missed, expired)


@contextmanager
def only_trainer(store: Path, stop: Event) -> Iterator[None]:
    """Hold an OS lock beside the store, and first wait until no other trainer holds it.

    SystemExit if `stop` is set while waiting.
    """
    announced = False

    def wait() -> None:
        nonlocal announced
        if not announced:
            say("Another trainer is running; this one takes over when it ends.")
            announced = True
        if stop.wait(0.2):
            raise SystemExit(0)

    with locked(store.with_suffix(".lock"), wait):
        yield
