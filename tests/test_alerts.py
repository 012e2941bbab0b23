"""Alerts: which rules hold, one event for each begin and end, and how events are delivered."""

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from monitoring import actions, alerts
from monitoring.alerts import BEGIN_AFTER, END_AFTER, Alerts
from monitoring.rules import Conditions, Rules, load_rules
from monitoring.snapshot import (
    Drift,
    Flow,
    Following,
    ModelState,
    Snapshot,
    Training,
)
from tests.harness.pipeline import wait_until
from utils.settings import settings

LONG = 1_000.0


def snapshot(time: float = 0.0, **fields) -> Snapshot:
    known = {"started": 0.0, "loss": "log loss", "champion": 3}
    return Snapshot(time, **known | {"following": Following(behind=0.0)} | fields)


def waiting(time: float, oldest: float | None) -> Snapshot:
    """Return a snapshot in which a request waits for its answer."""
    return snapshot(time, flow=Flow(unanswered=7, oldest_unanswered=oldest))


def found(rules: Rules, *snapshots: Snapshot) -> dict[str, str]:
    conditions = Conditions(rules)
    return [conditions.find(each) for each in snapshots][-1]


@pytest.mark.parametrize(("loss", "window", "holds"), [(0.5, 500, 1), (0.3, 500, 0), (0.5, 50, 0)])
def test_a_loss_is_compared_when_there_are_enough_rows(loss, window, holds):
    figures = {"logloss": loss, "auc": 0.9}
    former = ModelState(2, "former", window=900, figures={"logloss": 0.9})
    models = [ModelState(3, "champion", window=window, figures=figures), former]
    shown = found(Rules(loss_above=0.4), snapshot(models=models))
    assert len(shown) == holds
    assert all("log loss of model 3 is 0.5000" in text for text in shown.values())


def test_a_model_that_is_worse_than_the_mean_outcome_is_useless():
    champion = ModelState(3, "champion", window=500, figures={"logloss": 0.6}, loss_of_mean=0.55)
    champion.is_useless = True
    assert set(found(Rules(useless=True), snapshot(models=[champion]))) == {"useless"}
    champion.is_useless = False
    assert not found(Rules(useless=True), snapshot(models=[champion]))


def test_each_drift_is_a_rule_of_its_own():
    drift = [Drift(name, 0.3, 0.1, 2_000, name != "sex") for name in ("age", "sex", "loss")]
    assert set(found(Rules(drift=True), snapshot(drift=drift))) == {"drift of age", "drift of loss"}
    assert not found(Rules(), snapshot(drift=drift))


@pytest.mark.parametrize(
    ("counts", "holds"),
    [
        ([0, 100, 200, 300, 400], True),
        ([0, 100, 200, 100, 0], False),
        ([500] * 5, False),
        ([0, 3, 0, 5, 6], False),
        ([0, 100, 200], False),  # not for long enough
    ],
)
def test_a_growing_lag(counts, holds):
    rising = [snapshot(15.0 * n, flow=Flow(unanswered=count)) for n, count in enumerate(counts)]
    assert bool(found(Rules(lag_growing_for=60), *rising)) == holds


def test_a_kafka_that_is_away():
    away = snapshot(40, following=Following(behind=0.0, kafka_away_since=5.0))
    assert found(Rules(kafka_away_for=30), away)
    assert not found(Rules(kafka_away_for=60), away)
    assert not found(Rules(kafka_away_for=30), snapshot(40))


def test_replies_that_nobody_waits_for():
    counts = [snapshot(n, flow=Flow(unexpected_replies=count)) for n, count in enumerate((3, 3, 5))]
    rules = Rules(unexpected_replies=True)
    assert not found(rules, *counts[:2])
    assert found(rules, *counts)
    assert not found(rules, *counts, snapshot(80, flow=Flow(unexpected_replies=5)))
    assert not found(Rules(), *counts)


def test_trainings_that_do_not_come():
    rules = Rules(no_training_for=60)
    assert found(rules, snapshot(61))
    assert not found(rules, snapshot(61, training=Training(last_end=2.0)))
    assert not found(rules, snapshot(61, started=None))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(actions, "FIRST_PAUSE", 0.02)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alerts.json"


def events_of(watched: Alerts, *snapshots: Snapshot) -> list[str]:
    return [event.state for each in snapshots for event in watched.check(each)]


def test_an_alert_begins_and_ends_once(path):
    watched = Alerts(Rules(unanswered_for=30), path)
    times = [n / 2 for n in range(40)]
    assert events_of(watched, *(waiting(time, 40) for time in times)) == ["begin"]
    assert [alert.since for alert in watched.shown()] == [BEGIN_AFTER]
    # A value that moves around its limit is one event.
    unsteady = [waiting(20 + n, 40 if n % 7 else 20) for n in range(60)]
    assert events_of(watched, *unsteady) == []
    quiet = [waiting(80 + n, None) for n in range(100)]
    assert events_of(watched, *quiet) == ["end"]
    assert [alert.end for alert in watched.shown()] == [pytest.approx(79 + END_AFTER)]


def test_a_short_disturbance_is_none(path):
    watched = Alerts(Rules(unanswered_for=30), path)
    assert not events_of(watched, waiting(0, 40), waiting(2, None), waiting(4, 40), waiting(5, 0))


def test_a_drift_that_lasts_asks_for_trainings_on_ever_more_observations(path):
    drift = [Drift("loss", 2.0, 0.3, 5_000, True)]
    watched = Alerts(Rules(drift=True), path)
    asked = []
    for n in range(100):
        flow = Flow(observations=10_000 + 50 * n)
        watched.check(snapshot(float(n), flow=flow, drift=drift))
        asked.append(watched._state.asked)
    found = sorted({each[1] - each[0] for each in asked if each})
    assert found == [200, 400, 800, 1_600, 3_200]


def test_after_a_kill_nothing_is_said_twice(path):
    begun = [waiting(time, 40) for time in (0.0, 2.0, 4.0)]
    assert events_of(Alerts(Rules(unanswered_for=30), path), *begun) == ["begin"]
    again = Alerts(Rules(unanswered_for=30), path)
    assert events_of(again, waiting(10, 40), waiting(20, 40)) == []
    assert events_of(again, waiting(30, None), waiting(61, None)) == ["end"]


def test_what_is_read_late_raises_no_alert(path):
    watched = Alerts(Rules(unanswered_for=30), path)
    flow, late = Flow(oldest_unanswered=40.0), Following(behind=3_600.0)
    assert not events_of(watched, *(snapshot(n, flow=flow, following=late) for n in range(20)))
    assert events_of(watched, *(snapshot(n, flow=flow) for n in range(20, 40))) == ["begin"]


def test_an_alert_ends_although_the_clock_was_set_back(path):
    watched = Alerts(Rules(unanswered_for=30), path)
    assert events_of(watched, *(waiting(5_000 + n, 40) for n in range(9))) == ["begin"]
    assert events_of(watched, *(waiting(1_400 + n, None) for n in range(60))) == ["end"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"active": 3}', b"[" * 5_000])
def test_a_damaged_file_of_alerts_is_begun_anew(path, content, capfd):
    path.write_bytes(content)
    assert Alerts(Rules(), path).shown() == []
    assert "alerts begin anew" in capfd.readouterr().out


def test_a_full_disk_is_said_once(tmp_path, capfd):
    watched = Alerts(Rules(unanswered_for=30), tmp_path / "missing" / "alerts.json")
    states = events_of(watched, *(waiting(time, 40 if time < 9 else None) for time in range(60)))
    assert states == ["begin", "end"]
    assert capfd.readouterr().out.count("can't be written") == 1


class Receiver:
    """A web server that answers the first POST with 503, then takes what comes."""

    def __init__(self) -> None:
        self.received, self.refused = [], 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not receiver.refused:
                    receiver.refused += 1
                    return self.send_error(503)
                receiver.received.append(json.loads(body))
                self.send_response(204)
                return self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"


def test_events_reach_webhook_and_command_in_their_order(path, tmp_path):
    receiver, log = Receiver(), tmp_path / "log"
    rules = Rules(unanswered_for=30, webhook=receiver.url, command=["tee", "-a", str(log)])
    watched = Alerts(rules, path)
    events_of(watched, *(waiting(time, 40 if time < 9 else None) for time in range(60)))
    wait_until(lambda: len(receiver.received) == 2, what="two events")
    assert [each["state"] for each in receiver.received] == ["begin", "end"]
    assert receiver.received[0]["rule"] == "unanswered_for"
    assert "requests: 7, the oldest for 40 s" in receiver.received[0]["text"]
    wait_until(lambda: log.exists() and log.read_text().count("}{") == 1, what="two lines")
    wait_until(lambda: not any(json.loads(path.read_bytes())["waiting"].values()))
    receiver.server.shutdown()


def test_what_was_not_delivered_is_delivered_after_a_restart(path):
    refused = Rules(unanswered_for=30, webhook="http://127.0.0.1:1/")
    first = Alerts(refused, path)
    events_of(first, waiting(0, 40), waiting(4, 40))
    first.close()
    receiver = Receiver()
    Alerts(Rules(unanswered_for=30, webhook=receiver.url), path)
    [event] = wait_until(lambda: receiver.received, what="the event")
    assert event["state"] == "begin"
    receiver.server.shutdown()


def test_an_action_that_never_works_is_given_up(path, monkeypatch, capfd):
    monkeypatch.setattr(actions, "TRIES", 2)
    watched = Alerts(Rules(unanswered_for=30, command=["false"]), path)
    events_of(watched, waiting(0, 40), waiting(4, 40))
    wait_until(lambda: not any(json.loads(path.read_bytes())["waiting"].values()))
    assert "failed 2 times" in capfd.readouterr().out


def test_what_waits_is_bounded(path, monkeypatch):
    monkeypatch.setattr(alerts, "MAX_WAITING", 3)
    watched = Alerts(Rules(unanswered_for=30, webhook="http://127.0.0.1:1/"), path)
    for n in range(10):
        base = n * LONG
        events_of(watched, waiting(base, 40), waiting(base + 4, 40))
        events_of(watched, waiting(base + 40, None), waiting(base + 80, None))
    assert len(json.loads(path.read_bytes())["waiting"]["webhook"]) == 3


class NoWebServer(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello\n")


def test_what_is_no_web_server_ends_no_delivery(path, monkeypatch, capfd):
    monkeypatch.setattr(actions, "TRIES", 1)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), NoWebServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    watched = Alerts(Rules(unanswered_for=30, webhook=url), path)
    events_of(watched, waiting(0, 40), waiting(4, 40))
    wait_until(lambda: not any(json.loads(path.read_bytes())["waiting"].values()))
    assert "It is dropped" in capfd.readouterr().out
    server.shutdown()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("drift = 3", "drift"),
        ("unanswered_for = -1", "unanswered_for"),
        ("unanswered = 5", "unknown field `unanswered`"),
        ('webhook = "ftp://x"', "webhook"),
        ('command = "rm"', "command: expected a list of texts"),
        ('command = ["nosuchprogram"]', "there is no program nosuchprogram"),
        ("loss_above = nan", "loss_above: expected a number"),
        ('loss_above = "1"', "loss_above: expected a number"),
        ("drift = ", "alerts.toml"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, problem):
    file = tmp_path / "alerts.toml"
    file.write_text(text)
    with pytest.raises(SystemExit, match="ALERT_RULES: ") as error:
        load_rules(str(file))
    assert problem in str(error.value)


def test_the_file_that_is_there_is_right():
    expected = Rules(drift=True, useless=True, unanswered_for=30, lag_growing_for=60)
    expected.kafka_away_for, expected.unexpected_replies = 30, True
    expected.no_training_for = 604_800
    assert load_rules(settings.alert_rules) == expected
