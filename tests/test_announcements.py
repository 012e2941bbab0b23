"""What the monitor says of announcements, of drift, and of the last seconds."""

import numpy as np
import pytest
from kafka import TopicPartition

from monitoring.figures.database import Database
from monitoring.figures.decoding import AHEAD
from monitoring.figures.drift_watch import LOOK_EVERY, DriftWatch
from monitoring.figures.state import State
from tests.test_monitor_faults import Log, pair
from tests.test_observer import NOW, START, look, record
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode
from utils.model_store.registry import Registry

RETRAIN = TopicPartition(RETRAIN_TOPIC, 0)


@pytest.fixture
def following() -> State:
    return State(Database(":memory:"))


def announce(following: State, *messages: ControlMessage, time: int = 0) -> None:
    records = [record(*RETRAIN, n, time + n, encode(each)) for n, each in enumerate(messages)]
    following.add({RETRAIN: records}, NOW)


def completed(model_id: int, covered: int | None = 1) -> ControlMessage:
    return ControlMessage(
        training_completed=True, model_id=model_id, retrain_requests_covered=covered, why="better"
    )


def test_a_repeated_announcement_is_counted_once(following):
    rejected = ControlMessage(training_rejected="worse", model_id=4, retrain_requests_covered=1)
    failed = ControlMessage(training_failed="no rows", retrain_requests_covered=1)
    announce(following, completed(3), completed(3), rejected, rejected, failed, failed)
    announce(following, completed(3), failed)
    training = look(following).training
    assert (training.completed, training.rejected, training.failed) == (1, 1, 1)
    marks = [(mark.kind, mark.text, mark.model_id) for mark in look(following).marks]
    assert marks == [
        ("promoted", "better", 3),
        ("rejected", "worse", 4),
        ("failed", "no rows", None),
    ]
    assert training.last_end == (START + 4) / 1000


def test_a_former_champion_that_is_promoted_again_by_hand_is_no_training(following):
    announce(following, completed(3), completed(4), completed(3, covered=None), completed(3, None))
    found = look(following)
    assert found.training.completed == 2
    assert following.control.champion == 3
    assert [mark.model_id for mark in found.marks if mark.kind == "promoted"] == [3, 4, 3]


def test_retrain_requests_have_numbers(following):
    announce(following, *[ControlMessage(retrain=True, model_id=3)] * 3)
    assert look(following).flow.retrain_requests == 3
    assert [(m.kind, m.text) for m in look(following).marks] == [
        ("retrain", f"retrain request {n}") for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(("time", "then"), [(-(10**18), 0), (10**15, NOW + AHEAD)])
def test_announcements_of_a_clock_that_is_wrong_have_a_time(following, time, then):
    announce(following, ControlMessage(retrain=True, model_id=3), completed(4), time=time)
    assert {mark.time for mark in look(following).marks} == {then}
    assert look(following).training.last_end == then


@pytest.fixture
def card(first_model):
    return Registry(first_model / "models").card(0)


def test_a_drift_is_noted_when_it_begins_and_when_it_ends(following, card):
    watch, looks = DriftWatch(), 0

    def marks_after(loss: float, rows: int) -> list[tuple]:
        nonlocal looks
        looks += 1
        times = range(looks * 10_000, looks * 10_000 + rows)
        seen = [(START + n, 0, n, loss + n % 2 / 10) for n in times]
        following.losses.add(np.array(seen, following.losses.dtype))
        watch.look(following, card, NOW + looks * LOOK_EVERY)
        marks = look(following).marks
        return [((m.time - NOW) / LOOK_EVERY, m.kind, m.text.split(":")[0]) for m in marks]

    begun, ended = (2, "drift", "loss"), (4, "end", "loss no longer drifts")
    assert marks_after(0.1, rows=200) == []
    assert marks_after(3.0, rows=200) == [begun]
    assert marks_after(3.0, rows=200) == [begun]
    assert marks_after(0.1, rows=6_000) == [begun, ended]
    assert marks_after(0.1, rows=200) == [begun, ended]


def test_rates_are_those_of_the_last_ten_whole_seconds(following):
    log = Log(following)
    since = int(NOW - 10) * 1000 - START
    log.send(*(each for n in range(40) for each in pair(f"{n}", since - 5_000 + 500 * n)))
    flow = look(following).flow
    assert (flow.requests_per_second, flow.replies_per_second) == (2.0, 2.0)
