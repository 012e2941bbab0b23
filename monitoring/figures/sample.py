"""The newest requests' data, for drift."""

from collections.abc import Iterable
from operator import itemgetter

import msgspec

from monitoring.figures.decoding import Row

SIZE = 2_000

_Rows = list[tuple[int, int, int, Row]]


class Sample:
    """The data of the SIZE newest requests, by time, partition and offset."""

    def __init__(self, content: bytes = b"") -> None:
        """content : what tobytes() returned; ValueError."""
        self._rows = msgspec.msgpack.decode(content, type=_Rows) if content else []
        self.version = 0  # increases with each change

    def add(self, requests: Iterable[tuple[int, int, int, Row]]) -> None:
        """Add requests: time, partition, offset, data."""
        before = len(self._rows)
        self._rows += requests
        self.version += len(self._rows) > before
        if len(self._rows) > 2 * SIZE:
            self._trim()

    def _trim(self) -> None:
        self._rows.sort(key=itemgetter(0, 1, 2))  # they mostly are in order already
        del self._rows[:-SIZE]

    def data(self) -> list[dict]:
        """Return the data, oldest first."""
        self._trim()
        return [msgspec.to_builtins(row[3]) for row in self._rows]

    def tobytes(self) -> bytes:
        """Return all of it as MessagePack."""
        self._trim()
        return msgspec.msgpack.encode(self._rows)
