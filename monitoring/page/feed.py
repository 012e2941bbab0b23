"""What the page's clients get: the newest snapshot, and of the curves what a client lacks.

Older points change too, as their outcomes come late. So each point has the number of the version
in which it changed last: a client that says which version it has gets all later changes, once.
"""

import os
import threading
from collections.abc import Mapping

import msgspec

from monitoring.page.headline import headline
from monitoring.snapshot import History, Snapshot

_encode = msgspec.json.Encoder().encode


class _Curve:
    """One history, encoded, with the version in which each part changed last."""

    def __init__(self) -> None:
        self.interval = 0.0
        self.points: dict[float, tuple[int, bytes]] = {}  # by time
        self.marks = (0, b"[]")

    def update(self, history: History, version: int) -> None:
        """Take the newest state of the history."""
        before = self.points if history.interval == self.interval else {}
        self.interval, self.points = history.interval, {}
        for point in history.points:
            old, new = before.get(point.time), _encode(point)
            self.points[point.time] = old if old and old[1] == new else (version, new)
        if (marks := _encode(history.marks)) != self.marks[1]:
            self.marks = (version, marks)

    def changes(self, version: int) -> dict:
        """Return what is newer than the version."""
        newer = [msgspec.Raw(raw) for changed, raw in self.points.values() if changed > version]
        found = {"interval": self.interval, "first": next(iter(self.points), None), "points": newer}
        if self.marks[0] > version:
            found["marks"] = msgspec.Raw(self.marks[1])
        return found


class Feed:
    """The newest state as JSON; safe to use from any thread.

    snapshot : the newest Snapshot; histories : the newest History by its span; b"" and {} before
    the first publish().
    """

    def __init__(self) -> None:
        self.snapshot = b""
        self.histories: dict[str, bytes] = {}
        self.closed = False
        self._name = os.urandom(6).hex()  # versions of another monitor are not ours
        self._version = 0
        self._curves: dict[str, _Curve] = {}
        self._event: dict = {}
        self._messages: dict[int, bytes] = {}  # of this version, by the version that a client has
        self._changed = threading.Condition()

    def publish(self, snapshot: Snapshot, histories: Mapping[str, History]) -> None:
        """Replace what the clients get; the arguments may change afterwards."""
        encoded = _encode(snapshot)
        event = {"headline": headline(snapshot), "snapshot": msgspec.Raw(encoded)}
        with self._changed:
            self._version += 1
            for span, history in histories.items():
                self._curves.setdefault(span, _Curve()).update(history, self._version)
            self.histories = {span: _encode(history) for span, history in histories.items()}
            self.snapshot, self._event, self._messages = encoded, event, {}
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

    def version_of(self, event_id: str) -> int:
        """Return the version that a client has, by the id of its last event; 0 if it has none."""
        name, _, version = event_id.partition("-")
        known = name == self._name and version.isascii() and version.isdigit()
        return min(int(version[:15]), self._version) if known else 0

    def news(self, version: int, timeout: float) -> tuple[int, bytes]:
        """Wait until there is a later version; return it, and the event that leads to it.

        The event is b"" if there is none after `timeout` seconds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._version > version or self.closed, timeout)
            if self._version == version:
                return version, b""
            if version not in self._messages:
                self._messages[version] = self._message(version)
            return self._version, self._messages[version]

    def _message(self, version: int) -> bytes:
        curves = {span: curve.changes(version) for span, curve in self._curves.items()}
        data = self._event | {"complete": version == 0, "histories": curves}
        return b"id: %s-%d\ndata: %s\n\n" % (self._name.encode(), self._version, _encode(data))
