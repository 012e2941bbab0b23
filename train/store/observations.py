"""The trainer's store: all requests, outcomes, offsets and trainings, in SQLite or PostgreSQL.

What a poll returned and the offsets after it are stored in one transaction. So a trainer that is
killed at any moment continues where its store ends, and no observation is lost or counted twice.
The training child reads one consistent snapshot (snapshot.py) while the trainer goes on writing.
Memory and the time of each step do not grow with the store, and it has an upper bound if
OBSERVATIONS_KEEP is set.
"""

import time
from collections.abc import Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from train.store.clock import StoreClock
from train.store.join import COUNT_WAITING, Join
from train.store.place import STORE, Place, open_database
from train.store.schema import SEGMENT_ROWS
from train.store.segments import delete_oldest
from train.store.stored_target import adapt_target
from train.store.trainings import Trainings
from utils.kafka_client.records import Position
from utils.settings import settings

if TYPE_CHECKING:
    from train.store.postgres import Postgres

CLEAN_UP_EVERY = 60  # seconds
MOST_EXPIRED = 100_000  # records that one call deletes: it takes a second
Partition = tuple[str, int]  # topic and number; equal to kafka-python's TopicPartition

_REPLACE_OFFSETS = """
INSERT INTO offsets VALUES (?, ?, ?, ?, ?) ON CONFLICT (topic, partition) DO UPDATE SET
    next_offset = excluded.next_offset, leader_epoch = excluded.leader_epoch,
    topic_id = excluded.topic_id
"""


class Observations(Trainings):
    """The store, open for writing by one process at a time (see `only_trainer`).

    Every method raises StoreError if the file can't be read or written, or the server not reached.
    """

    def __init__(
        self,
        place: Place,
        segment_rows: int = SEGMENT_ROWS,
        database: "Postgres | None" = None,
    ) -> None:
        """database : of this place, if it is open already."""
        super().__init__(database or open_database(place))
        with self._db.transaction():
            self._db.execute_script(COUNT_WAITING)
        self._place = place
        self._segment_rows = segment_rows
        self._clock = StoreClock(self.counter("clock"), self.counter("wall_clock"))
        self._cleaned_up = time.monotonic() - CLEAN_UP_EVERY

    def adapt_target(self) -> None:
        """Let stored outcomes mean what the data set says today; see stored_target.py."""
        adapt_target(self._db, self._place)

    def still_mine(self) -> None:
        """Raise StoreReplaced if another trainer has taken over, or the file is another one."""
        with self._db.transaction():
            pass

    def close(self) -> None:
        """Close the file, or the connection."""
        self._db.close()

    def positions(self) -> dict[Partition, Position]:
        """Return the position to read next for every partition that was read before."""
        rows = self._db.query("SELECT * FROM offsets")
        return {(topic, partition): Position(*rest) for topic, partition, *rest in rows}

    def add(
        self,
        observed: Iterable[tuple[str, bytes | None, float | None]],
        retrain_requests: int,
        positions: dict[Partition, Position],
        announced: int | None = None,
        missed: int = 0,
        asked: int = 0,
    ) -> None:
        """Store what one poll returned, and the positions to read next, in one transaction.

        observed : (request_id, data, outcome); announced : the model that the last announcement of
        a new champion names, None if there was no announcement; missed : records that Kafka deleted
        before they were read; asked : requests for a training now. All positions of a topic are
        replaced where its id has changed: an offset is of no other topic.
        """
        with self._db.transaction():
            join = Join(self._db, self._clock.now())
            complete = join.add(observed, first=self.counter("observations"))
            self._increase(
                observations=complete,
                retrain_requests=retrain_requests,
                missed_records=missed,
                asked_by_hand=asked,
                **join.more_waiting,
            )
            join.seal(self._segment_rows)
            self._set_positions(positions)
            self._keep_time()
            if announced is not None:
                self._set(announced_model_id=announced)

    def _set_positions(self, positions: dict[Partition, Position]) -> None:
        ids = {topic: position.topic_id for (topic, _), position in positions.items()}
        former = "DELETE FROM offsets WHERE topic = ? AND topic_id NOT IN ('', ?)"
        self._db.execute_many(former, ids.items())
        rows = [(*partition, *position) for partition, position in positions.items()]
        self._db.execute_many(_REPLACE_OFFSETS, rows)

    def clean_up(self) -> None:
        """Delete what OUTCOME_DAYS and OBSERVATIONS_KEEP say; to be called after every poll.

        One call deletes at most one segment. Waiting records are looked at once a minute.
        """
        rows, seconds = settings.observations_kept
        with self._db.transaction():
            deleted = delete_oldest(
                self._db,
                keep_rows=rows,
                seen_before=None if seconds is None else self._clock.now() - seconds,
            )
            self._increase(observations_deleted=deleted)
        if time.monotonic() - self._cleaned_up >= CLEAN_UP_EVERY:
            if self.expire(settings.outcome_days * 86_400) < MOST_EXPIRED:
                self._cleaned_up = time.monotonic()
            self._db.shrink()

    def expire(self, seconds: float) -> int:
        """Delete unmatched requests and outcomes that are older; return how many.

        One call deletes at most MOST_EXPIRED. Age counts from when the trainer read them (a
        record's timestamp is set by its sender), on the store's own clock: see StoreClock.
        """
        with self._db.transaction():
            self._keep_time()
            young = "SELECT rowid FROM waiting WHERE seen >= ? ORDER BY rowid LIMIT 1"
            surplus = "SELECT rowid FROM waiting ORDER BY rowid LIMIT 1 OFFSET ?"
            found = self._db.query(young, (self._clock.now() - seconds,))
            found += self._db.query(surplus, (MOST_EXPIRED,))
            before = min(found, default=(2**63 - 1,))
            old = "SELECT count(data), count(outcome) FROM waiting WHERE rowid < ?"
            [(requests, outcomes)] = self._db.query(old, before)
            self._db.query("DELETE FROM waiting WHERE rowid < ?", before)
            self._increase(waiting_requests=-requests, waiting_outcomes=-outcomes)
            self._increase(expired_records=requests + outcomes)
        return requests + outcomes

    def _keep_time(self) -> None:
        self._set(clock=int(self._clock.now()), wall_clock=int(time.time()))

    def count(self) -> int:
        """Return the number of observations in the store: requests whose outcome is known."""
        return self.counter("observations") - self.counter("observations_deleted")


def unused_model_id(newest: int) -> int:
    """Return an id that no model has, nor the training that a trainer may be running now.

    newest : the largest id of a model, -1 if there is none; the first model has the id 0.
    """
    if newest < 0:
        return 0
    with closing(open_store()) as store:
        return store.new_model_id(at_least=newest + 1)


def open_store() -> Observations:
    """Open the store that the settings name: in DATA_DIR, or at OBSERVATIONS_URL."""
    return Observations(STORE)
