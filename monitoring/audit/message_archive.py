"""The messages that the monitor has read, kept for an audit when Kafka has deleted them.

They are in DATA_DIR/audit.db, in blocks of some thousand: a block is one compressed blob, and the
sorted 64-bit hashes of the request ids in it. So a message costs about a microsecond and some dozen
bytes, and a lookup compares its hashes with those of each block. The newest messages, too few for a
block yet, are rows. The position behind the last message of each partition is written in the same
transaction: what is read again, after kill -9 for example, is not kept twice. A power cut may take
the last seconds; Kafka still has these.

Limits are AUDIT_DAYS, AUDIT_REQUESTS and, whatever senders send, 1 kB of blocks per AUDIT_REQUESTS;
the oldest blocks are deleted, once an hour and whenever a tenth of that was written.
"""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

from kafka.consumer.fetcher import ConsumerRecord

from monitoring.audit.message_blocks import Message, index_of, pack
from monitoring.audit.message_runs import BLOCK, BLOCK_BYTES, Run, parts, run_of
from monitoring.figures.decoding import Decoded
from utils.console import say, warn
from utils.kafka_client.reader import Polled, Positions
from utils.kafka_client.topics import DEAD_LETTER_TOPIC
from utils.settings import settings

MESSAGES = settings.data_dir / "audit.db"
BYTES_PER_REQUEST = 1_000  # of the file, for all messages of one
CLEAN_UP_INTERVAL = 3_600.0  # seconds
MOST_JOURNAL_BYTES = 2**24  # of audit.db-wal, after it was larger
RETRY_INTERVAL = 30.0  # seconds between attempts to write after a failure
LOCK_TIMEOUT = 10.0  # seconds
NOT_DECODED = Decoded({}, [], 0)
_DAY = 86_400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, requests, written, first, last, hashes, content
);
CREATE TABLE IF NOT EXISTS tail (topic, partition, offset, time, value, written);
CREATE TABLE IF NOT EXISTS positions (
    topic, partition, topic_id, next, PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS gaps (written);
"""


class MessageArchive:
    """Writes the archive; a disk that is full or a damaged file stops nothing, and is said once.

    A damaged file is renamed to audit.db.damaged, and a new one begins.
    """

    def __init__(self, path: Path = MESSAGES) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._file: tuple | None = None  # which one is open
        self._problem = ""
        self._retry_at = self._clean_up_at = 0.0
        self._packed = 0  # bytes of blocks since the last clean-up
        self._has_gap = False  # that is not written yet
        self.missed = 0  # messages that could not be kept

    def go_on(self, positions: Positions) -> None:
        """Find out whether messages before these positions, which are read next, were missed.

        A monitor that was killed while the disk was full has forgotten that it missed some.
        """
        if not self._path.exists():
            return
        try:
            self._open()
            known = self._database.execute("SELECT topic, partition FROM positions").fetchall()
            self._has_gap = any(
                place.offset > self._next(*partition, place.topic_id)
                for partition, place in positions.items()
                if partition in known
            )
        except (sqlite3.Error, OSError):  # add() says it
            self._has_gap = True

    def add(self, polled: Polled, decoded: Decoded = NOT_DECODED) -> None:
        """Keep what Reader.poll() has returned, without what is there already.

        A topic that was created again, which the positions show, begins anew. decoded : the same
        records, if they are decoded already: it takes a third of the time then.
        """
        if not settings.audit_requests and not self._path.exists():
            return
        number = sum(map(len, polled.records.values())) if settings.audit_requests else 0
        if time.monotonic() < self._retry_at:
            self._miss(number)
            return
        try:
            self._open()
            self._clean_up_if_due()  # first: it may make the room that is missing
            if settings.audit_requests and (polled.records or polled.positions):
                with self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    self._add(polled, decoded)
                self._has_gap = False
        except (sqlite3.Error, OSError) as error:
            self._fail(error, number)
        else:
            self._recover()

    def notes(self) -> list[str]:
        """Return what the archive misses, in words."""
        missing = f"{self.missed:,} messages are not in the archive for audits"
        return [f"{missing}: {self._problem}"] if self.missed and self._problem else []

    def close(self) -> None:
        """Close the file."""
        if self._database:
            self._database.close()
            self._database = None

    def _open(self) -> None:
        if self._database and _identity(self._path) != self._file:
            self.close()  # it was deleted, by `make clean` for example: nobody would see what comes
        if self._database is None:
            self._database = sqlite3.connect(self._path, LOCK_TIMEOUT, isolation_level=None)
            for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = WAL", "secure_delete = ON"):
                self._database.execute(f"PRAGMA {pragma}")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(f"PRAGMA journal_size_limit = {MOST_JOURNAL_BYTES}")
            self._database.executescript(_SCHEMA)
            self._file = _identity(self._path)

    def _fail(self, error: Exception, number: int) -> None:
        self.close()
        self._miss(number)
        self._clean_up_at = 0.0
        self._retry_at = time.monotonic() + RETRY_INTERVAL
        if not self._problem:
            warn(
                f"{self._path}: {error}. Messages are not kept for audits until it can be written."
            )
        self._problem = str(error)
        if type(error) is sqlite3.DatabaseError:  # "malformed", "not a database"
            self._set_aside()

    def _miss(self, number: int) -> None:
        self.missed += number
        self._has_gap |= number > 0

    def _set_aside(self) -> None:
        with suppress(OSError):
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            damaged = self._path.replace(f"{self._path}.damaged")
            warn(f"The damaged file is {damaged} now: a new one begins.")

    def _recover(self) -> None:
        if self._problem:
            say(f"{self._path} can be written again: {self.missed:,} messages are not in it.")
        self._problem = ""

    def _add(self, polled: Polled, decoded: Decoded) -> None:
        added, now = [], time.time()
        if self._has_gap:
            self._database.execute("INSERT INTO gaps VALUES (?)", (now,))
        self._follow_cuts(polled)
        for (topic, partition), records in polled.records.items():
            if topic == DEAD_LETTER_TOPIC:  # each one was a message of another topic
                continue
            position = polled.positions.get((topic, partition))
            topic_id = position.topic_id if position else ""
            begin = self._next(topic, partition, topic_id)
            events = decoded.events.get((topic, partition))
            added.append(run_of(topic, partition, records, begin, events))
            end = max(begin, records[-1].offset + 1)
            row = (topic, partition, topic_id, end)
            self._database.execute("INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?)", row)
        size = "SELECT count(*), coalesce(sum(length(value)), 0), min(written) FROM tail"
        [(number, total, oldest)] = self._database.execute(size)
        number += sum(len(run.values) for run in added)
        total += sum(len(value) for run in added for value in run.values if value)
        too_old = oldest is not None and oldest < now - _DAY
        if number >= BLOCK or total >= BLOCK_BYTES or too_old:
            self._pack(chain(self._tail(), added), now)
            self._database.execute("DELETE FROM tail")
        else:
            for topic, partition, *columns in added:
                rows = ((topic, partition, *row[:3], now) for row in zip(*columns, strict=True))
                self._database.executemany("INSERT INTO tail VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _tail(self) -> Iterator[Run]:
        tail = self._database.execute("SELECT * FROM tail ORDER BY rowid").fetchall()
        for (topic, partition), rows in groupby(tail, itemgetter(0, 1)):
            _, _, offsets, times, values, _ = map(list, zip(*rows, strict=True))
            yield Run(topic, partition, offsets, times, values, [None] * len(offsets))

    def _follow_cuts(self, polled: Polled) -> None:
        """Go back where Kafka lost the end of a log: its new records have the same offsets."""
        sql = "UPDATE positions SET next = min(next, ?) WHERE topic = ? AND partition = ?"
        for partition, place in polled.positions.items():
            if partition not in polled.records:
                self._database.execute(sql, (place.offset, *partition))

    def _next(self, topic: str, partition: int, topic_id: str) -> int:
        """Return the first offset that is not there yet."""
        query = "SELECT topic_id, next FROM positions WHERE topic = ? AND partition = ?"
        for known, offset in self._database.execute(query, (topic, partition)):
            if known == topic_id or not (known and topic_id):
                return offset
        return 0

    def _pack(self, runs: Iterable[Run], now: float) -> None:
        sql = "INSERT INTO blocks (requests, written, first, last, hashes, content) "
        for part in parts(runs):
            requests, hashes = index_of(part)
            first, last = (each(each(run.times) for run in part) for each in (min, max))
            row = (requests, now, first, last, hashes, content := pack(part))
            self._packed += len(hashes) + len(content)
            self._database.execute(f"{sql} VALUES (?, ?, ?, ?, ?, ?)", row)

    def _clean_up_if_due(self) -> None:
        most = settings.audit_requests * BYTES_PER_REQUEST
        if time.monotonic() >= self._clean_up_at or self._packed > most // 10:
            self._clean_up(most)
            self._clean_up_at, self._packed = time.monotonic() + CLEAN_UP_INTERVAL, 0

    def _clean_up(self, most_bytes: int) -> None:
        """Delete the oldest blocks that no limit allows."""
        oldest, room = time.time() - settings.audit_days * _DAY, Counter()
        sizes = "SELECT id, written, requests, length(hashes) + length(content) FROM blocks"
        for block, written, requests, size in self._database.execute(f"{sizes} ORDER BY id DESC"):
            full = room["requests"] >= settings.audit_requests
            room.update(requests=requests, bytes=size)
            if full or room["bytes"] > most_bytes or written < oldest:
                self._database.execute("DELETE FROM blocks WHERE id <= ?", (block,))
                break
        self._database.execute("DELETE FROM gaps WHERE written < ?", (oldest,))
        self._database.execute("DELETE FROM tail WHERE written < ?", (oldest,))
        if not settings.audit_requests:  # what comes now is not kept: a later position has a gap
            self._database.executescript(
                "DELETE FROM tail; DELETE FROM positions; DELETE FROM gaps;"
            )
            self._database.execute("INSERT INTO gaps VALUES (?)", (time.time(),))
        self._database.execute("PRAGMA incremental_vacuum(10000)").fetchall()


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def message_of(record: ConsumerRecord) -> Message:
    """Return what is kept of a record; its value is None if it could not be decoded."""
    value = record.value if isinstance(record.value, bytes) else None
    return Message(record.topic, record.partition, record.offset, record.timestamp, value)
