"""Alerts: each event once, with a begin and an end, kept in a file and delivered.

A rule that holds for BEGIN_AFTER seconds begins an alert; the alert ends when the rule has not held
for END_AFTER seconds. Alerts and undelivered events are in DATA_DIR/alerts.json, which is written
before an event is delivered: after a kill, no event is lost, and one that is delivered again has
the same id.
"""

import threading
from pathlib import Path

import msgspec

from monitoring.actions import Action, actions
from monitoring.rules import DRIFT, Conditions, Rules
from monitoring.snapshot import Alert, Snapshot
from utils.console import say, warn
from utils.files import write_atomically
from utils.settings import settings

BEGIN_AFTER = 3.0  # seconds
END_AFTER = 30.0  # seconds: a value that moves around its limit is one event
KEEP_ENDED = 20  # alerts
FIRST_OBSERVATIONS = 200  # about as many are from after a drift when it is found
MAX_WAITING = 100  # events of one action
CAUGHT_UP = 30.0  # seconds: while the monitor is further behind, its figures are of the past
STATE = settings.data_dir / "alerts.json"


class Event(msgspec.Struct):
    """The begin or the end of an alert, as it is delivered."""

    id: str  # the same if it is delivered twice
    rule: str
    state: str  # "begin" or "end"; "lasts" is for retrain requests only
    text: str
    time: float


class State(msgspec.Struct):
    """The content of the file."""

    active: dict[str, Alert] = {}
    ended: list[Alert] = []
    waiting: dict[str, list[Event]] = {}  # name of an action: events that it has not delivered
    # Observations when a drift began, and when a training was asked for last.
    asked: tuple[int, int] | None = None

    def shown(self) -> list[Alert]:
        """Return the active alerts, then the newest that have ended."""
        return [*self.active.values(), *reversed(self.ended)]


class Alerts:
    """The alerts of a stream of snapshots."""

    def __init__(self, rules: Rules, path: Path = STATE) -> None:
        self._path, self._conditions = path, Conditions(rules)
        self._state, self._problem = _read(path), ""
        self._holds_since: dict[str, float] = {}
        self._held_at: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._actions = actions(rules)
        for action in self._actions:
            run = threading.Thread(target=self._deliver, args=(action,), daemon=True)
            run.start()

    def check(self, snapshot: Snapshot) -> list[Event]:
        """Return the events that this snapshot brings; they are being delivered."""
        if snapshot.following.behind is None or snapshot.following.behind > CAUGHT_UP:
            return []
        now, active = snapshot.time, self._state.active
        self._forget_what_is_later(now)
        found = self._conditions.find(snapshot)
        for rule in active.keys() & found.keys():
            active[rule].text = found[rule]
        self._holds_since = {rule: self._holds_since.get(rule, now) for rule in found}
        self._held_at |= dict.fromkeys(found, now)
        begun = [
            Alert(rule, text, now)
            for rule, text in found.items()
            if rule not in active and now - self._holds_since[rule] >= BEGIN_AFTER
        ]
        ended = [
            alert
            for rule, alert in active.items()
            if now - self._held_at.setdefault(rule, now) >= END_AFTER
        ]
        events = [_event(alert, "begin", now) for alert in begun]
        events += [_event(alert, "end", now) for alert in ended]
        events += self._ask_again(snapshot, begun)
        if events:
            self._change(begun, ended, events, now)
        return [each for each in events if each.state != "lasts"]

    def _ask_again(self, snapshot: Snapshot, begun: list[Alert]) -> list[Event]:
        """Return an event when a drift lasts although a training was asked for.

        When it begins, nearly all observations are from before it. So a training is asked for
        again whenever there are twice as many observations since then.
        """
        state, count = self._state, snapshot.flow.observations
        drifts = [each for each in state.active.values() if each.rule.startswith(DRIFT)]
        if not drifts:
            state.asked = None
            if any(each.rule.startswith(DRIFT) for each in begun):
                state.asked = count - FIRST_OBSERVATIONS, count
            return []
        if state.asked is None or count < 2 * state.asked[1] - state.asked[0]:
            return []
        state.asked = state.asked[0], count
        return [_event(drifts[0], "lasts", snapshot.time)]

    def _forget_what_is_later(self, now: float) -> None:
        """Begin to measure anew after the clock was set back."""
        if any(since > now for since in (*self._holds_since.values(), *self._held_at.values())):
            self._holds_since, self._held_at = {}, {}

    def shown(self) -> list[Alert]:
        """Return the active alerts, then the newest that have ended."""
        return self._state.shown()

    def close(self) -> None:
        """Stop delivering; what waits is delivered after the next start."""
        with self._changed:
            self._stop.set()
            self._changed.notify_all()

    def _change(
        self, begun: list[Alert], ended: list[Alert], events: list[Event], now: float
    ) -> None:
        with self._changed:
            state = self._state
            for alert in begun:
                state.active[alert.rule] = alert
            for alert in ended:
                del state.active[alert.rule]
                state.ended.append(msgspec.structs.replace(alert, end=now))
            state.ended = state.ended[-KEEP_ENDED:]
            for action in self._actions:
                waiting = state.waiting.setdefault(action.name, [])
                waiting += [each for each in events if action.wants(each.rule, each.state)]
                del waiting[:-MAX_WAITING]
            self._save()
            self._changed.notify_all()
        for event in events:
            if event.state == "begin":
                warn(f"Alert: {event.text} ({event.rule}).")
            elif event.state == "end":
                say(f"Over: {event.text} ({event.rule}).", "green")

    def _save(self) -> None:
        try:
            write_atomically(self._path, msgspec.json.encode(self._state))
        except OSError as error:
            if str(error) != self._problem:
                warn(f"{self._path.name} can't be written ({error}): a restart repeats alerts.")
            self._problem = str(error)
        else:
            self._problem = ""

    def _deliver(self, action: Action) -> None:
        """Deliver the events of one action, the oldest first, until close(): in a thread."""
        while not self._stop.is_set():
            with self._changed:
                waiting = self._state.waiting.get(action.name, [])
                if not waiting:
                    self._changed.wait()
                    continue
                event = waiting[0]
            if action.deliver(msgspec.json.encode(event), event.text, self._stop):
                with self._changed:
                    if event in waiting:  # MAX_WAITING may have removed it
                        waiting.remove(event)
                    self._save()


def _event(alert: Alert, state: str, now: float) -> Event:
    name = f"{alert.rule}, {alert.since:.3f}, {state}"
    if state == "lasts":  # there may be several
        name += f", {now:.3f}"
    lasted = f"; it lasted {now - alert.since:,.0f} s" if state == "end" else ""
    return Event(name, alert.rule, state, alert.text + lasted, now)


def shown_alerts(path: Path = STATE) -> list[Alert]:
    """Return the alerts in the file of a monitor that runs, or has run."""
    return _read(path).shown()


def _read(path: Path) -> State:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, RecursionError) as error:
        warn(f"{path.name} can't be read ({error}): alerts begin anew.")
        return State()
