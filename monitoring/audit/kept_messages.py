"""Finds the messages of requests in the archive that monitoring/audit/message_archive.py writes."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import zstandard

from monitoring.audit.message_archive import LOCK_TIMEOUT, MESSAGES
from monitoring.audit.message_blocks import Message, hashes_of, request_id_of, unpack


class KeptMessages:
    """Reads the archive, also while a monitor writes it.

    FileNotFoundError if there is none; OSError, of all methods, if it can't be read.
    """

    def __init__(self, path: Path = MESSAGES) -> None:
        path.stat()
        self._path = path
        uri = f"{path.resolve().as_uri()}?mode=ro"
        with self._errors():
            self._database = sqlite3.connect(uri, LOCK_TIMEOUT, uri=True, isolation_level=None)

    def find(self, request_ids: Collection[str]) -> Iterator[Message]:
        """Yield all messages of these requests, in the order in which they were read."""
        wanted = hashes_of(set(request_ids))
        query = "SELECT hashes, content FROM blocks ORDER BY id"
        with self._transaction():
            for hashes, content in self._database.execute(query):
                known = np.frombuffer(hashes, np.uint64)
                places = np.searchsorted(known, wanted).clip(max=max(len(known) - 1, 0))
                if len(known) and (known[places] == wanted).any():
                    yield from _of(request_ids, unpack(content))
            yield from _of(request_ids, self._tail())

    def between(self, first: int, last: int) -> Iterator[Message]:
        """Yield the messages whose time is in this range, both ends included."""
        query = "SELECT content FROM blocks WHERE last >= ? AND first <= ? ORDER BY id"
        with self._transaction():
            for (content,) in self._database.execute(query, (first, last)):
                yield from (each for each in unpack(content) if first <= each.time <= last)
            yield from (each for each in self._tail() if first <= each.time <= last)

    def positions(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Return {(topic, partition): (topic id, next offset)}: behind the last message.

        {} if messages before that could not be written.
        """
        query = "SELECT topic, partition, topic_id, next FROM positions "
        query += "WHERE NOT EXISTS (SELECT 1 FROM gaps)"
        with self._errors():
            rows = self._database.execute(query).fetchall()
        return {(topic, partition): (topic_id, end) for topic, partition, topic_id, end in rows}

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _tail(self) -> Iterator[Message]:
        query = "SELECT topic, partition, offset, time, value FROM tail ORDER BY rowid"
        return (Message(*row) for row in self._database.execute(query))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Read all as it is at one moment: messages of the tail become a block meanwhile."""
        with self._errors():
            self._database.execute("BEGIN")
            try:
                yield
            finally:
                self._database.rollback()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, zstandard.ZstdError, msgspec.MsgspecError, ValueError) as error:
            raise OSError(f"{self._path} can't be read: {error}") from error


def _of(request_ids: Collection[str], messages: Iterable[Message]) -> Iterator[Message]:
    return (each for each in messages if request_id_of(each.value) in request_ids)
