"""The sessions of one partition: joins their events into requests and outcomes.

No Kafka and no clock here: the same events with the same timestamps give the same requests, so that
an aggregator that was killed goes on as if it had not been.
"""

import time

from msgspec import Struct

from examples.journey.catalog import CATALOG
from examples.journey.events import REACTIONS, Arrived, Event, Left, Reacted, Tick, Viewed

MAX_SESSIONS = 10_000  # of a partition; one more ends the one that was silent for the longest time
MAX_VIEWS = 50  # of a session; one more ends the oldest
IDLE = 1_800  # seconds without an event that end a session


class View(Struct):
    """An item that a visitor looked at."""

    at: float  # Unix time in seconds
    reaction: str = REACTIONS[0]  # the strongest one so far
    ended: bool = False  # its outcome is reported


class Session(Struct):
    """What is known of a visitor's session: all that a request about the next item needs."""

    began: float
    seen: float  # the time of its last event
    device: str = "desktop"
    source: str = "direct"
    visitor: str = "returning"
    viewed: int = 0  # items so far
    views: dict[str, View] = {}  # the last ones by request_id, from the oldest to the newest


class Sessions:
    """The sessions of a partition, and what their events have made due.

    by_id : the sessions, from the one that was silent for the longest time to the last one heard;
    patience : seconds after which the outcome of a view is reported, whatever it is by then.

    requests : (session, request_id, data) and outcomes : (session, request_id, outcome) to send;
    changed : the sessions that have another state now, or none any more. clear() empties all three.
    """

    def __init__(self, by_id: dict[str, Session], patience: float) -> None:
        self.by_id, self._patience = by_id, patience
        self.requests: list[tuple[str, str, dict]] = []
        self.outcomes: list[tuple[str, str, str]] = []
        self.changed: set[str] = set()

    def clear(self) -> None:
        """Forget what is to be sent: it was sent."""
        for sent in (self.requests, self.outcomes, self.changed):
            sent.clear()

    def apply(self, event: Event, at: float) -> None:
        """Follow an event that happened at this Unix time."""
        match event:
            case Tick():
                self._pass_time(at)
            case Arrived():
                is_new = event.session not in self.by_id
                session = self._session(event.session, at)
                if is_new:  # a page that is opened again changes nothing
                    session.device, session.source = event.device, event.source
                    session.visitor = event.visitor
            case Viewed():
                self._view(event, at)
            case Reacted():
                self._react(event, at)
            case Left() if event.session in self.by_id:
                session = self._session(event.session, at)
                for request_id in session.views:
                    self._end(event.session, request_id)

    def _session(self, name: str, at: float) -> Session:
        """Return a session that an event has come from, a new one if it is not known."""
        session = self.by_id.pop(name, None) or Session(began=at, seen=at)
        session.seen = max(session.seen, at)
        self.by_id[name] = session  # behind all others
        self.changed.add(name)
        if len(self.by_id) > MAX_SESSIONS:
            self._forget(next(iter(self.by_id)))
        return session

    def _view(self, event: Viewed, at: float) -> None:
        known = self.by_id.get(event.session)
        if known and event.request_id in known.views:
            return  # the event came twice
        session = self._session(event.session, at)
        session.viewed += 1
        data = _request_data(session, event.item, at)
        session.views[event.request_id] = View(at)
        self.requests.append((event.session, event.request_id, data))
        if len(session.views) > MAX_VIEWS:
            oldest = next(iter(session.views))
            self._end(event.session, oldest)
            del session.views[oldest]

    def _react(self, event: Reacted, at: float) -> None:
        known = self.by_id.get(event.session)
        if (
            known is None
            or event.request_id not in known.views
            or known.views[event.request_id].ended
        ):
            return  # not a view of this session, or too late
        view = self._session(event.session, at).views[event.request_id]
        view.reaction = max(view.reaction, event.reaction, key=REACTIONS.index)
        if view.reaction == REACTIONS[-1]:
            self._end(event.session, event.request_id)

    def _end(self, name: str, request_id: str) -> None:
        """Make the outcome of a view due, once."""
        view = self.by_id[name].views[request_id]
        if not view.ended:
            view.ended = True
            self.outcomes.append((name, request_id, view.reaction))
            self.changed.add(name)

    def _pass_time(self, now: float) -> None:
        for name, session in list(self.by_id.items()):
            for request_id, view in session.views.items():
                if now - view.at >= self._patience:
                    self._end(name, request_id)
            if now - session.seen >= max(IDLE, self._patience):
                self._forget(name)

    def _forget(self, name: str) -> None:
        for request_id in self.by_id[name].views:
            self._end(name, request_id)
        del self.by_id[name]
        self.changed.add(name)


def _request_data(session: Session, item: str, at: float) -> dict:
    """Join what is known of a session with an item to the data of a request."""
    shown = CATALOG[item]
    return {
        "price": shown.price,
        "discount": shown.discount,
        "views": session.viewed,
        "seconds": int(max(0, at - session.began)),
        "hour": time.gmtime(at).tm_hour,
        "item": item,
        "category": shown.category,
        "device": session.device,
        "source": session.source,
        "visitor": session.visitor,
    }
