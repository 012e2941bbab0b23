"""What the monitor's figures do with wrong clocks, forged replies, and a disk that fails."""

import random
import sqlite3

import pytest
from kafka import TopicPartition

from monitoring import observer
from monitoring.figures import curves, model_figures, table
from monitoring.figures.database import Damaged, Database
from monitoring.figures.state import State
from tests.test_observer import NOW, START, look, record, value_of
from utils.kafka_client.reader import Polled
from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC

HOUR = 3_600_000
APP, OUTCOMES = TopicPartition(APP_MESSAGES, 0), TopicPartition(OUTCOMES_TOPIC, 0)


@pytest.fixture
def following(tmp_path):
    found = State(Database(tmp_path / "monitor.db"))
    yield found
    found.database.close()


class Log:
    """Sends messages of one partition to a State."""

    def __init__(self, following: State, partition: TopicPartition = APP) -> None:
        self._following, self._partition, self._offset = following, partition, 0

    def send(self, *sent: tuple) -> None:
        """Send messages: (kind, request_id, ms, content)."""
        records = []
        for kind, name, time, content in sent:
            value = content if kind == "bytes" else value_of(kind, name, content)
            records.append(record(*self._partition, self._offset, time, value))
            self._offset += 1
        self._following.add({self._partition: records}, NOW)


def pair(name: str, time: int = 0, model_id: int = 0) -> list[tuple]:
    return [("request", name, time, 1), ("prediction", name, time + 5, (model_id, 0.8))]


def test_how_far_it_is_behind_is_the_age_of_the_requests():
    def polled(**times: list[int]) -> Polled:
        places = [TopicPartition(APP_MESSAGES, 0), TopicPartition(APP_MESSAGES, 1), OUTCOMES]
        records = {
            place: [record(*place, n, time, b"") for n, time in enumerate(times[name])]
            for place, name in zip(places, ("a", "b", "outcomes"), strict=True)
            if name in times
        }
        return Polled(records, {})

    assert observer._newest(polled(a=[1, 3], b=[7], outcomes=[-9])) == START + 3
    assert observer._newest(polled(a=[1, 3, -HOUR])) == START + 3  # a clock that is slow
    assert observer._newest(polled(outcomes=[5])) == 0


@pytest.mark.parametrize("ahead", [HOUR, 10**15, -HOUR, -(10**18)])
def test_a_clock_that_is_wrong_is_said_and_breaks_nothing(following, ahead):
    log = Log(following)
    log.send(("request", "a", ahead, 1), ("prediction", "a", 5, (0, 0.8)))
    log.send(*pair("b"), *pair("c", 1000))
    found = look(following)
    assert (found.flow.requests, found.flow.observations, found.flow.unanswered) == (3, 3, 0)
    assert found.models[0].window == 3
    if ahead > 0:
        assert any("a clock is wrong" in note for note in found.following.notes)
        assert any("latencies are wrong" in note for note in found.following.notes)
    assert found.latency.answers
    following.save(NOW)


def test_requests_of_a_clock_that_is_ahead_do_not_stay_the_newest_for_ever(following, monkeypatch):
    monkeypatch.setattr(model_figures, "WINDOW", 10)
    log = Log(following)
    log.send(*(each for n in range(10) for each in pair(f"ahead{n}", 10**12, 0)))
    records = [
        record(*APP, 100 + n, HOUR, value_of(*each))
        for n, each in enumerate(
            [(kind, name, content) for n in range(10) for kind, name, _, content in pair(f"{n}")]
        )
    ]
    following.add({APP: records}, NOW + 2 * 3600)
    assert min(following.models.by_id[0].window.rows()["offset"]) >= 100


@pytest.mark.parametrize(
    "forged",
    [
        ("prediction", "nobody", 0, (0, 0.1)),
        ("prediction", "a", 0, (0, 0.1)),  # a second one
        ("error", "a", 0, None),
        ("bytes", "", 0, b'{"request_id": "a", "prediction": 1.0, "probability": "high"}'),
        ("bytes", "", 0, b'{"request_id": "a", "prediction": 1e999}'),
        ("bytes", "", 0, b'{"request_id": "\\ud800", "prediction": 1.0}'),
        ("bytes", "", 0, b'{"prediction": 1.0}'),
        ("prediction", "x" * 100_000, 0, (0, 0.1)),
    ],
)
def test_a_forged_reply_is_counted_and_changes_no_figure(following, forged):
    log = Log(following)
    log.send(*pair("a"))
    before = look(following)
    log.send(forged)
    found = look(following)
    assert found.flow.unexpected_replies == 1
    assert found.models == before.models
    assert found.latency == before.latency


@pytest.mark.parametrize("value", [b"no JSON", b'{"data": {}}', b'{"request_id": 7, "data": {}}'])
def test_an_invalid_message_without_an_id_is_no_reply(following, value):
    Log(following).send(("bytes", "", 0, value))
    flow = look(following).flow
    assert (flow.requests, flow.unexpected_replies, flow.unanswered) == (0, 0, 0)


def test_forged_models_do_not_replace_the_real_ones(following):
    log = Log(following)
    following.models.newest_known = 5
    log.send(*pair("a", model_id=5))
    log.send(*(each for n in range(100) for each in pair(f"{n}", n, 2**52 - n)))
    assert 5 in following.models.by_id
    assert len(following.models.by_id) <= 1 + model_figures.MOST_UNKNOWN
    following.models.newest_known = 200
    log.send(*(each for n in range(100) for each in pair(f"more{n}", n, n)))
    log.send(*pair("late", model_id=1))
    known = [each for each in following.models.by_id if each <= 200]
    assert sorted(known) == list(range(100 - model_figures.MOST_MODELS, 100))
    following.save(NOW)
    again = State(following.database)
    assert again.models.by_id.keys() == following.models.by_id.keys()


def test_one_id_sent_again_and_again_is_bounded(following):
    log = Log(following)
    log.send(*(("request", "a", n, None) for n in range(2_000)))
    assert look(following).flow.unanswered == 2_000
    assert max(map(len, following.waiting.rows.values())) < 1_000
    log.send(*(("prediction", "a", 2_000, (0, 0.5)) for n in range(2_000)))
    found = look(following)
    assert (found.flow.unanswered, found.flow.unexpected_replies) == (0, 0)
    assert max(map(len, following.known.rows.values())) < 1_000


def test_any_timestamps_leave_the_curves_bounded(following):
    chance = random.Random(1)
    log = Log(following)
    for _ in range(8):
        log.send(
            *(
                each
                for n in range(200)
                for each in pair(f"{n}", chance.randrange(-(10**11), 10**11))
            )
        )
    for ring in following.curves.rings.values():
        assert len(ring.intervals) <= 2 * curves.INTERVALS


def test_outcomes_without_a_prediction_are_counted_until_it_comes(following):
    log, outcomes = Log(following), Log(following, OUTCOMES)
    outcomes.send(("outcome", "a", 0, 1), ("outcome", "a", 1, 0), ("outcome", "b", 0, 1))
    assert look(following).following.unmatched == 2
    log.send(("request", "a", 0, None), ("prediction", "a", 1, (0, 0.8)))
    found = look(following)
    assert found.following.unmatched == 1
    assert found.models[0].figures["accuracy"] == 0.0  # the last outcome counts


def test_more_rows_than_memory_holds_are_joined_and_the_oldest_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(table.Table.__init__, "__defaults__", (100,))
    monkeypatch.setattr(table, "GENERATION", 500)
    monkeypatch.setattr(table, "MOST_ROWS", 2_000)
    following = State(Database(tmp_path / "monitor.db"))
    log, outcomes = Log(following), Log(following, OUTCOMES)
    for first in range(0, 4_000, 100):
        names = [f"{first + n}" for n in range(100)]
        log.send(*(("request", name, 0, None) for name in names))
        log.send(*(("prediction", name, 1, (0, 0.5)) for name in names))
        following.save(NOW)
        following.forget_old(NOW - 3600)
    assert len(following.known.rows) <= 100
    outcomes.send(*(("outcome", f"{n}", 2, 1) for n in range(4_000)))
    found = look(following)
    assert 1_500 <= found.flow.observations <= 2_500
    assert found.flow.observations + found.following.unmatched == 4_000
    assert any("too old to be joined" in note for note in found.following.notes)
    following.database.close()


def test_a_full_disk_loses_nothing_that_memory_holds(following):
    log = Log(following)
    log.send(*pair("a"))
    following.save(NOW)
    following.database.query("PRAGMA max_page_count = 1")  # SQLite: "database or disk is full"
    log.send(*(each for n in range(2_000) for each in pair(f"{n}")))
    with pytest.raises(sqlite3.OperationalError, match="full"):
        following.save(NOW)
    assert look(following).flow.observations == 2_001
    following.database.query("PRAGMA max_page_count = 1000000")
    following.save(NOW)
    again = look(State(following.database))
    assert again.flow.observations == 2_001
    assert again.models == look(following).models


def test_a_damaged_file_or_one_of_another_dataset_is_refused(tmp_path):
    path = tmp_path / "monitor.db"
    path.write_bytes(b"SQLite format 3\0" + b"damaged" * 1_000)
    with pytest.raises(Damaged):
        Database(path)
    other = Database(tmp_path / "other.db")
    State(other).save(NOW)
    other.query("UPDATE parts SET content = x'93' WHERE name = 'head'")
    with pytest.raises(Damaged):
        State(other)
    other.close()


@pytest.mark.parametrize("slow", [0, HOUR])
def test_a_sender_whose_clock_is_slow_has_not_waited_for_long(following, slow):
    now = 60_000  # ms, as record() counts
    for n in range(0, 18, 3):
        records = [
            record(*APP, n, now - slow, value_of("request", f"{n}", 1)),
            record(*APP, n + 1, now - slow, value_of("request", f"waits{n}", 1)),
            record(*APP, n + 2, now, value_of("prediction", f"{n}", (0, 0.8))),
        ]
        following.add({APP: records}, NOW, is_fresh=True)
    found = look(following)
    assert found.flow.unanswered == 6
    assert found.flow.oldest_unanswered < 2
    assert any("clocks are slow" in note for note in found.following.notes) == bool(slow)
