"""Follows the topics as any observer could, and says at any time how the pipeline is doing.

It reads committed records of all topics, without a group, and writes to no topic. Its figures are a
function of what is in the topics: the same whichever topic is read first, and however often the
monitor is killed. What it can't know is in Snapshot.following.
"""

import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kafka.errors import KafkaError

from monitoring.figures.database import Damaged, Database, remove
from monitoring.figures.decoding import Decoded, decode
from monitoring.figures.drift_watch import DriftWatch
from monitoring.figures.models_view import Models
from monitoring.figures.state import Counts, State
from monitoring.figures.view import history, snapshot
from monitoring.snapshot import History, Snapshot
from utils.console import say, warn
from utils.kafka_client.connection import is_reachable, outage
from utils.kafka_client.group_lag import GroupLag
from utils.kafka_client.reader import Polled, Positions, Reader
from utils.kafka_client.records import Position
from utils.kafka_client.topics import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    PREDICTOR_GROUP,
    RETRAIN_TOPIC,
)
from utils.process import restart_process
from utils.settings import settings

READS = (APP_MESSAGES, OUTCOMES_TOPIC, RETRAIN_TOPIC, DEAD_LETTER_TOPIC)
SAVE_EVERY = 10.0  # seconds: what came since then is read again after a kill
MOST_UNSAVED = 150_000  # rows; more are saved at once
CLEAN_EVERY = 600.0  # seconds
FETCH_WAIT = 500  # ms: two answers of Kafka a second are enough for a page that changes once
MOST_RECORDS = 8_000  # of a poll; the objects of more would have garbage collected in each one
FULL_POLL = 2_000  # records: a poll that returns so many has left others waiting, perhaps
LAST_RECORDS = 200  # of a partition, of which the newest says how old they are
RECOVERY_TIMEOUT = 60.0  # seconds of errors, while Kafka answers, until a restart
DAY = 86_400


class Observer:
    """What the monitor knows, and how it learns more: step() again and again.

    path : of its file; None: memory only. keep : is given what each poll has returned, and decode()
    has made of it, before the positions behind it are saved. from_beginning : forget the file, read
    all that Kafka has. clock : returns the seconds since 1970. KafkaError if the topics can't be
    found.
    """

    def __init__(
        self,
        path: Path | None,
        keep: Callable[[Polled, Decoded], None] = lambda polled, decoded: None,
        from_beginning: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path, self._keep, self._clock = path, keep, clock
        self._notes: dict[str, str] = {}  # why the figures may miss something: by kind
        self._state = self._open(from_beginning)
        self._reader = self._read()
        self._saved_at = self._cleaned_at = time.monotonic()
        self._failing_since: float | None = None
        self._has_news = False  # since the last save
        self._models, self._drift = Models(), DriftWatch()
        self._lag = GroupLag(APP_MESSAGES, PREDICTOR_GROUP)
        self._read_at = 0.0  # _newest() of the last poll
        self._were_full = deque([False], 5)  # the last polls: more was waiting

    @property
    def counts(self) -> Counts:
        """The exact counts so far."""
        return self._state.counts

    @property
    def positions(self) -> Positions:
        """Behind what is known: what is read next."""
        return self._state.positions

    @property
    def path(self) -> Path | str:
        """Where the file is; ":memory:" if there is none."""
        return self._state.database.path

    def step(self) -> Polled:
        """Poll once, for half a second at most, and return what came; see Reader.poll().

        An error of Kafka is said once, and the next call tries again.
        """
        try:
            polled = self._reader.poll()
        except KafkaError as error:
            self._retry(error)
            return Polled({}, {})
        self._failing_since = None
        if self._is_of_another_topic(polled.positions):
            self._begin_anew("What the monitor knows is of a former topic")
            return Polled({}, {})
        now = self._clock()
        decoded = decode(polled.records, now)
        self._keep(polled, decoded)
        self._note_gaps(polled)
        self._were_full.append(sum(map(len, polled.records.values())) >= FULL_POLL)
        if polled.records:
            try:
                self._models.update(self._state)  # which ids are real
                self._state.add(polled.records, now, not any(self._were_full), decoded)
            except Damaged as error:
                self._begin_anew(f"{self.path} is damaged: {error}")
                return Polled({}, {})
            except sqlite3.OperationalError as error:
                self._note("reading", f"{self.path} can't be read: {error}. Trying again")
                time.sleep(1)
                self._reader.return_to(self._state.positions)
                return Polled({}, {})
            self._notes.pop("reading", None)
        self._state.positions |= polled.positions
        self._has_news |= bool(polled.positions)
        self._read_at = _newest(polled) / 1000
        self._save_if_due()
        return polled

    def read_all(self, stopping: Callable[[], bool]) -> None:
        """Read everything that can be read in the topics now."""
        ends = self._reader.ends(stable=True)
        while not stopping() and not self._reader.has_read(ends):
            self.step()
        self._read_at = 0.0

    def snapshot(self) -> Snapshot:
        """Return all figures at this moment; alerts are added by whoever has rules for them."""
        now = self._clock()
        self._models.update(self._state)
        drift = self._drift.look(self._state, self._models.champion_card, now)
        # Senders set timestamps: they say how old a record is only where others wait behind it.
        behind = max(now - self._read_at, 0.0) if self._read_at and any(self._were_full) else 0.0
        notes = [*self._notes.values()]
        found = snapshot(self._state, self._models, drift, now, behind, notes)
        found.following.kafka_away_since = outage.since
        found.flow.group_lag = self._lag.records
        return found

    def history(self, span: str) -> History:
        """Return the curves over "hour", "day" or "all"."""
        return history(self._state, self._models, span, self._clock())

    def mark(self, kind: str, text: str) -> None:
        """Put an event of another origin on the time axis, now."""
        self._state.control.mark(self._clock(), kind, text)
        self._has_news = True

    def save(self) -> None:
        """Write what is known into the file; a failure is said once."""
        self._saved_at = time.monotonic()
        try:
            self._state.save(self._clock())
        except Damaged as error:
            self._begin_anew(f"{self.path} is damaged: {error}")
            return
        except sqlite3.OperationalError as error:
            self._note("disk", f"{self.path} can't be written: {error}")
            if self._state.unsaved > 2 * MOST_UNSAVED:
                self._state.forget_unsaved()
            return
        self._has_news = False
        if self._notes.pop("disk", None):
            say(f"{self.path} can be written again.")
        if time.monotonic() > self._cleaned_at + CLEAN_EVERY:
            self._cleaned_at = time.monotonic()
            with suppress(sqlite3.OperationalError, Damaged):  # the next save says it
                self._state.forget_old(self._clock() - settings.outcome_days * DAY)
                self._has_news = True

    def close(self) -> None:
        """Save, and close consumer and file."""
        self.save()
        self._lag.close()
        self._reader.close()
        self._state.database.close()

    def _save_if_due(self) -> None:
        due = self._has_news and time.monotonic() > self._saved_at + SAVE_EVERY
        if due or (self._state.unsaved > MOST_UNSAVED and "disk" not in self._notes):
            self.save()

    def _note(self, kind: str, text: str) -> None:
        if kind not in self._notes:
            warn(text)
        self._notes[kind] = text

    def _open(self, from_beginning: bool) -> State:
        """Open the file and read the state in it; begin anew if that is not possible."""
        if self._path is None:
            return State(Database(":memory:"))
        try:
            if from_beginning:
                remove(self._path)
            return State(Database(self._path))
        except Damaged as error:
            warn(f"{self._path} can't be used: {error}. Reading everything from the beginning.")
        except (OSError, sqlite3.Error) as error:
            return self._open_in_memory(error)
        try:
            remove(self._path)
            return State(Database(self._path))
        except (OSError, sqlite3.Error, Damaged) as error:
            return self._open_in_memory(error)

    def _open_in_memory(self, error: Exception) -> State:
        self._note("file", f"{self._path} can't be used: {error}; nothing is saved until a restart")
        return State(Database(":memory:"))

    def _read(self) -> Reader:
        """Return a reader of what the state does not know yet."""
        reader, positions = (
            Reader(self._state.positions, *READS, wait_ms=FETCH_WAIT, most_records=MOST_RECORDS),
            self._state.positions,
        )
        begins = {p: n for p, n in reader.begins().items() if n and p not in positions}
        self._state.positions = positions | {p: Position(n) for p, n in begins.items()}
        self._note_missed(sum(begins.values()))
        return reader

    def _is_of_another_topic(self, positions: Positions) -> bool:
        known = {p.topic: place.topic_id for p, place in self._state.positions.items()}
        return any(
            place.topic_id and known.get(p.topic) not in (None, "", place.topic_id)
            for p, place in positions.items()
        )

    def _begin_anew(self, why: str) -> None:
        """Forget everything, and read what the topics have now."""
        warn(f"{why}: reading everything from the beginning.")
        with suppress(sqlite3.Error):
            self._state.database.close()
        self._notes.clear()
        self._state = self._open(from_beginning=True)
        self._reader.close()
        self._reader = self._read()

    def _note_gaps(self, polled: Polled) -> None:
        """Count what Kafka has deleted before it was read, or lost after that."""
        state, before = self._state, self._state.positions
        self._note_missed(polled.missed)
        for partition, place in polled.positions.items():
            if partition in before and place.offset < before[partition].offset:
                state.counts.cut += before[partition].offset - place.offset

    def _note_missed(self, records: int) -> None:
        if records:
            self._state.counts.missed += records
            text = f"{records:,} records were deleted by Kafka before they were read"
            self._state.control.mark(self._clock(), "missed", text)

    def _retry(self, error: KafkaError) -> None:
        """Say an error once, and go back to the known positions."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
            warn(f"{type(error).__name__}: {error}. Trying again.")
        elif not is_reachable():
            self._failing_since = now
        elif now > self._failing_since + RECOVERY_TIMEOUT:
            self.save()
            restart_process(f"{type(error).__name__} although Kafka answers")
        time.sleep(1)
        self._reader.return_to(self._state.positions)


def _newest(polled: Polled) -> int:
    """Return the timestamp up to which the requests are read, ms; 0 if none came.

    Of each partition that is the largest of the last ones: some senders may have wrong clocks.
    """
    newest = [
        max(record.timestamp for record in found[-LAST_RECORDS:])
        for partition, found in polled.records.items()
        if partition.topic == APP_MESSAGES
    ]
    return min(newest, default=0)
