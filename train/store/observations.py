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
from utils.kafka_client.records import Position
from utils.settings import settings
from utils.telemetry import telemetry

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
_REPLACE_TRAINING = """
INSERT INTO trainings VALUES (?, ?)
    ON CONFLICT (number) DO UPDATE SET observations = excluded.observations
"""


class Observations:
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
        self._db = database or open_database(place)
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

    def ask_by_hand(self) -> None:
        """Make a training due now, whatever the counts are; safe while a trainer is running."""
        with self._db.transaction():
            self._increase(asked_by_hand=1)

    def counter(self, name: str) -> int:
        """Return a counter; train/store/schema.py has their names."""
        return self._db.query("SELECT value FROM counters WHERE name = ?", (name,))[0][0]

    def _keep_time(self) -> None:
        self._set(clock=int(self._clock.now()), wall_clock=int(time.time()))

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

    def count(self) -> int:
        """Return the number of observations in the store: requests whose outcome is known."""
        return self.counter("observations") - self.counter("observations_deleted")

    def training_due(self, retrain_every: int) -> int | None:
        """Return how many retrain requests a training would cover, or None if no training is due.

        Retraining waits for outcomes: a training covers retrain requests, and `retrain_every`
        observations for each of them. With one value of `retrain_every` these are the first
        min(R, O // retrain_every) of R retrain requests, O being the observations so far. A
        training asked for by hand does not wait.
        """
        requests = self.counter("retrain_requests")
        covered = self.counter("retrain_requests_covered")
        by_hand = self.counter("asked_by_hand") > self.counter("asked_by_hand_covered")
        if requests <= covered and not by_hand:
            return None
        if retrain_every != self.counter("retrain_every"):
            self._change_retrain_every(retrain_every, requests - covered)
        new = self.counter("observations") - self.counter("observations_covered")
        due = covered + min(requests - covered, new // retrain_every)
        return max(due, covered) if due > covered or by_hand else None

    def _change_retrain_every(self, retrain_every: int, waiting: int) -> None:
        """Count the observations covered in a new unit, which `retrain_every` is.

        Of those not covered at most what the waiting requests stand for remains, and less than one
        more request: otherwise a smaller value would make trainings due that have nothing new.
        """
        observations, before = self.counter("observations"), self.counter("retrain_every")
        covered = self.counter("observations_covered")
        if not before:  # a new store, or one of an earlier version, which did not keep the value
            covered = self.counter("retrain_requests_covered") * retrain_every
        least = observations + 1 - (max(waiting, 0) + 1) * retrain_every if before else 0
        with self._db.transaction():
            self._set(
                observations_covered=min(max(covered, least), observations),
                retrain_every=retrain_every,
            )

    def begin_training(self, requests_covered: int, at_least: int) -> int:
        """Record that a training begins; return the id of its model, which was never used before.

        requests_covered : as training_due() returned it; at_least : the smallest id allowed.
        """
        with self._db.transaction():
            model_id = self._next_model_id(at_least)
            self._set(
                training_model_id=model_id,
                training_covers=requests_covered,
                training_asked=self.counter("asked_by_hand"),
            )
            # Observations that become complete between now and the child's snapshot are used by
            # this training too, but count as new ones of the next.
            border = (self.counter("trainings") + 1, self.counter("observations"))
            self._db.query(_REPLACE_TRAINING, border)
        return model_id

    def new_model_id(self, at_least: int) -> int:
        """Return the id for a model that is no training's; safe while a trainer is running.

        It was never used before, nor will it be by a training; at_least : the smallest allowed.
        """
        with self._db.transaction():
            return self._next_model_id(at_least)

    def _next_model_id(self, at_least: int) -> int:
        model_id = max(self.counter("last_model_id") + 1, at_least)
        self._set(last_model_id=model_id)
        return model_id

    def unfinished_training(self) -> tuple[int, int] | None:
        """Return (model_id, requests_covered) of a training that has begun and not ended."""
        model_id = self.counter("training_model_id")
        return (model_id, self.counter("training_covers")) if model_id else None

    def abandon_training(self) -> None:
        """Record that a training ended without a result: what it would cover is still due."""
        with self._db.transaction():
            self._set(training_model_id=0)

    def end_training(self, requests_covered: int, result: str = "") -> None:
        """Record that a training has ended: the requests it covers are done.

        result : "promoted", "rejected" or "failed", for the metrics of this process.
        """
        was_running = self.counter("training_model_id")  # a failed call is repeated as a whole
        with self._db.transaction():
            # A training without new observations gets no number: the judge compares models on the
            # observations that the last trainings added.
            number = self.counter("trainings") + 1
            last_two = "SELECT number, observations FROM trainings WHERE number >= ?"
            sizes = dict(self._db.query(last_two, (number - 1,)))
            if sizes.get(number, 0) > sizes.get(number - 1, 0):
                self._increase(trainings=1)
            requests = max(requests_covered - self.counter("retrain_requests_covered"), 0)
            self._increase(observations_covered=requests * self.counter("retrain_every"))
            self._set(
                retrain_requests_covered=requests_covered,
                asked_by_hand_covered=self.counter("training_asked"),
                training_model_id=0,
            )
        if was_running:
            telemetry.trainer.add_result(result)

    def note_announced(self, model_id: int) -> None:
        """Record which champion was announced last."""
        with self._db.transaction():
            self._set(announced_model_id=model_id)


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
