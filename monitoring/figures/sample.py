"""The newest requests' data, for drift."""

from collections.abc import Iterable
from operator import itemgetter

import msgspec

from monitoring.figures.decoding import REQUEST, UNKNOWN, Event, Row

SIZE = 2_000

_PLACE, _DATA = itemgetter(2, 3, 4), 5  # of an event: time, partition and offset; the content
_Rows = list[tuple[int, int, int, Row]]  # these four


class Sample:
    """The data of the SIZE newest requests, by time, partition and offset."""

    def __init__(self, content: bytes = b"") -> None:
        """content : what tobytes() returned; ValueError."""
        rows = msgspec.msgpack.decode(content, type=_Rows) if content else []
        self._requests: list[Event] = [(REQUEST, 0, *row, UNKNOWN) for row in rows]
        self.version = 0  # increases with each change

    def add(self, requests: Iterable[Event]) -> None:
        """Add requests."""
        before = len(self._requests)
        self._requests += requests
        self.version += len(self._requests) > before
        if len(self._requests) > 2 * SIZE:
            self._trim()

    def _trim(self) -> None:
        self._requests.sort(key=_PLACE)  # they mostly are in order already
        del self._requests[:-SIZE]

    def data(self) -> list[dict]:
        """Return the data, oldest first."""
        self._trim()
        return [msgspec.to_builtins(request[_DATA]) for request in self._requests]

    def tobytes(self) -> bytes:
        """Return all of it as MessagePack."""
        self._trim()
        return msgspec.msgpack.encode([(*_PLACE(each), each[_DATA]) for each in self._requests])
