"""Who left, when, and whether somebody wrote to them: one SQLite file.

What a poll returned and the positions behind it are stored in one SQLite transaction. So a process
that is killed at any moment goes on where its store ends, and no event is lost or counted twice.
A compacted topic would do as well, but has to be read from its beginning at each start, and asking
who is due needs an index of our own over it: SQLite has both.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from examples.follow_up.events import Event
from utils.kafka_client.records import Position

DAY = 86_400  # seconds; a visitor who bought or was written to is left alone for so long
KEEP = 7 * DAY  # seconds after the last event or prediction of a session, then it is deleted

_SCHEMA = """
CREATE TABLE IF NOT EXISTS positions (
    topic TEXT, partition INTEGER, offset INTEGER, leader_epoch INTEGER, topic_id TEXT,
    PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS sessions (
    session TEXT PRIMARY KEY,
    email TEXT COLLATE NOCASE,
    item TEXT,
    worth INTEGER NOT NULL DEFAULT 0, -- by the last prediction
    active_at REAL NOT NULL DEFAULT 0, -- the last event but "left"
    left_at REAL, -- NULL: the visitor is there
    retry_at REAL NOT NULL DEFAULT 0, -- not before
    attempts INTEGER NOT NULL DEFAULT 0, -- to hand it over, whose end is not known
    settled_at REAL, -- NULL: may get an e-mail
    outcome TEXT, -- bought, sent or refused
    touched_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting ON sessions (left_at) WHERE worth AND settled_at IS NULL;
CREATE INDEX IF NOT EXISTS emails ON sessions (email);
CREATE INDEX IF NOT EXISTS ages ON sessions (touched_at);
"""

# Another session of the same visitor counts too: a phone, another browser, the next day.
_DUE = """
SELECT session, email, item, left_at + :delay, attempts FROM sessions AS mine
WHERE worth AND settled_at IS NULL AND email IS NOT NULL
  AND left_at BETWEEN :now - :delay - :too_late AND :now - :delay AND retry_at <= :now
  AND NOT EXISTS (
    SELECT 1 FROM sessions AS other
    WHERE other.email = mine.email AND other.session != mine.session
      AND (other.active_at > mine.left_at OR other.settled_at > :now - :peace))
ORDER BY left_at LIMIT 1
"""


class Due(NamedTuple):
    """An e-mail that is due."""

    session: str
    email: str
    item: str | None
    due_at: float  # seconds since 1970
    attempts: int  # so far, whose end is not known


class Schedule:
    """The store, open for one process at a time. Every method may raise sqlite3.Error."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")  # what was committed survives a power cut
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def positions(self) -> dict[tuple[str, int], Position]:
        """Return the position to read next for every partition that was read before."""
        rows = self._db.execute("SELECT * FROM positions")
        return {(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    def add(
        self,
        events: Iterable[tuple[Event, float]],
        predictions: Iterable[tuple[str, bool]],
        positions: dict[tuple[str, int], Position],
    ) -> None:
        """Store what one poll returned, and the positions to read next, in one transaction.

        events : each with its time, in seconds since 1970; predictions : (session, whether it is
        worth an e-mail).
        """
        with self._transaction():
            for event, at in events:
                self._add_event(event, at)
            self._db.executemany(
                "INSERT INTO sessions (session, worth, touched_at) VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET worth = excluded.worth, "
                "touched_at = excluded.touched_at",
                [(session, worth, time.time()) for session, worth in predictions],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                [(*partition, *position) for partition, position in positions.items()],
            )
            self._db.execute("DELETE FROM sessions WHERE touched_at < ?", (time.time() - KEEP,))

    def _add_event(self, event: Event, at: float) -> None:
        self._db.execute(
            "INSERT INTO sessions (session, email, item, touched_at) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET email = coalesce(excluded.email, email), "
            "item = coalesce(excluded.item, item), touched_at = excluded.touched_at",
            (event.session, event.email, event.item, time.time()),
        )
        if event.is_leaving:  # a repeated one postpones nothing
            change = "left_at = coalesce(left_at, :at)"
        elif event.is_purchase:
            change = (
                "left_at = NULL, active_at = :at, settled_at = coalesce(settled_at, :at), "
                "outcome = coalesce(outcome, 'bought')"
            )
        else:
            change = "left_at = NULL, active_at = :at"
        sql = f"UPDATE sessions SET {change} WHERE session = :session"  # noqa: S608 (constants)
        self._db.execute(sql, {"at": at, "session": event.session})

    def due(self, delay: float, too_late: float) -> Due | None:
        """Return the e-mail that has been due for the longest time, None if none is.

        It is due `delay` seconds after the visitor left, and given up `too_late` seconds later.
        """
        values = {"now": time.time(), "delay": delay, "too_late": too_late, "peace": DAY}
        row = self._db.execute(_DUE, values).fetchone()
        return Due(*row) if row else None

    def begin_attempt(self, session: str, retry: float) -> None:
        """Note that an e-mail is about to be handed over: not again within `retry` seconds."""
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET attempts = attempts + 1, retry_at = ? WHERE session = ?",
                (time.time() + retry, session),
            )

    def postpone(self, session: str, retry: float) -> None:
        """Note that the server took no e-mail for now: not again within `retry` seconds."""
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET attempts = 0, retry_at = ? WHERE session = ?",
                (time.time() + retry, session),
            )

    def settle(self, session: str, outcome: str) -> None:
        """Note that a session's e-mail was sent, or refused for good."""
        with self._transaction():
            self._db.execute(
                "UPDATE sessions SET settled_at = ?, outcome = ? WHERE session = ?",
                (time.time(), outcome, session),
            )
