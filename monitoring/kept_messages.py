"""Finds the messages of requests in the archive that monitoring/message_archive.py writes."""

import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np

from monitoring.message_archive import LOCK_TIMEOUT, MESSAGES
from monitoring.message_blocks import Message, hash_of, request_id_of, unpack


class KeptMessages:
    """Reads the archive, also while a monitor writes it.

    FileNotFoundError if there is none; sqlite3.Error if it is damaged.
    """

    def __init__(self, path: Path = MESSAGES) -> None:
        path.stat()
        uri = f"{path.resolve().as_uri()}?mode=ro"
        self._database = sqlite3.connect(uri, LOCK_TIMEOUT, uri=True, isolation_level=None)
        self._database.execute("BEGIN")  # all is read as it is at one moment

    def find(self, request_ids: Collection[str]) -> Iterator[Message]:
        """Yield all messages of these requests, in the order in which they were read."""
        wanted = np.frombuffer(b"".join({hash_of(each) for each in request_ids}), np.uint64)
        for hashes, content in self._database.execute(
            "SELECT hashes, content FROM blocks ORDER BY id"
        ):
            known = np.frombuffer(hashes, np.uint64)
            places = np.searchsorted(known, wanted)
            if len(known) and (known[places.clip(max=len(known) - 1)] == wanted).any():
                yield from _of(request_ids, unpack(content))
        yield from _of(request_ids, self._tail())

    def between(self, first: int, last: int) -> Iterator[Message]:
        """Yield the messages whose time is in this range, both ends included."""
        query = "SELECT content FROM blocks WHERE last >= ? AND first <= ? ORDER BY id"
        for (content,) in self._database.execute(query, (first, last)):
            yield from (each for each in unpack(content) if first <= each.time <= last)
        yield from (each for each in self._tail() if first <= each.time <= last)

    def _tail(self) -> Iterator[Message]:
        query = "SELECT topic, partition, offset, time, value FROM tail ORDER BY rowid"
        return (Message(*row) for row in self._database.execute(query))

    def positions(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Return {(topic, partition): (topic id, next offset)}: behind the last message."""
        rows = self._database.execute("SELECT topic, partition, topic_id, next FROM positions")
        return {(topic, partition): (topic_id, end) for topic, partition, topic_id, end in rows}

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _of(request_ids: Collection[str], messages: Iterable[Message]) -> Iterator[Message]:
    return (each for each in messages if request_id_of(each.value) in request_ids)
