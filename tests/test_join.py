"""The trainer's store against a plain join of the same two logs, whatever order, loss and crash."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from train.store.observations import Observations
from train.store.snapshot import read_snapshot
from utils.kafka_client.records import Position

REQUESTS, OUTCOMES = TopicPartition("requests", 0), TopicPartition("outcomes", 0)
ids = st.sampled_from("abcdefgh")
outcome = st.sampled_from([0.0, 1.0])
requests = st.lists(st.tuples(ids, st.none() | outcome), max_size=25)  # some bring it along
outcomes = st.lists(st.tuples(ids, outcome), max_size=25)
# Of each poll: which log, how many records, and what happens while they are stored.
polls = st.lists(
    st.tuples(st.booleans(), st.integers(1, 6), st.sampled_from(["", "", "killed", "trains"])),
    max_size=40,
)


class Killed(Exception):
    """The process ended in the middle of it."""


def rows_of(log: list, partition: TopicPartition, first: int) -> list[tuple]:
    if partition == REQUESTS:
        return [
            (request_id, b'{"age":%d}' % (first + n), known)
            for n, (request_id, known) in enumerate(log)
        ]
    return [(request_id, None, known) for request_id, known in log]


def plain_join(request_log: list, outcome_log: list, order: list[tuple]) -> dict:
    """The offset of the first request of an id -> the last outcome that was read of it."""
    data: dict = {}
    for offset, (request_id, _) in enumerate(request_log):
        data.setdefault(request_id, offset)
    known = {request_id: outcome for request_id, outcome in order if outcome is not None}
    assert set(known) <= {r for r, _ in request_log} | {r for r, _ in outcome_log}
    return {data[r]: known[r] for r in data if r in known}  # offsets tell requests apart


@pytest.fixture(
    scope="session", params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)]
)
def new_place(request, tmp_path_factory):
    """A function that returns a place for a new store."""
    if request.param == "PostgreSQL":
        return request.getfixturevalue("postgres").place
    return lambda: tmp_path_factory.mktemp("join") / "observations.db"


@settings(max_examples=80)
@given(requests, outcomes, polls)
def test_the_training_set_is_a_plain_join_up_to_the_card_s_offsets(
    new_place, request_log, outcome_log, polls
):
    place = new_place()
    logs, order = {REQUESTS: request_log, OUTCOMES: outcome_log}, []
    store = Observations(place, segment_rows=3)  # several segments, and rows beside them
    for from_requests, number, event in polls:
        partition = REQUESTS if from_requests else OUTCOMES
        # What a trainer that starts again goes on from.
        first = store.positions().get(partition, Position(0)).offset
        polled = logs[partition][first : first + number]
        rows = rows_of(polled, partition, first)
        if event == "killed":
            with suppress(Killed):
                store.add(dying(rows), 1, {partition: Position(99)})
            store.close()
            store = Observations(place, segment_rows=3)
            continue
        store.add(rows, 0, {partition: Position(first + len(polled))})
        order += [(request_id, known) for request_id, _, known in rows]
        if event == "trains":
            compare(place, logs, order)
            store.begin_training(0, at_least=0)
    compare(place, logs, order)
    store.close()


def dying(rows: list):
    yield from rows
    raise Killed


def compare(place, logs: dict, order: list) -> None:
    snapshot = read_snapshot(place)
    read = [snapshot.offsets.get(f"{p.topic}-0", 0) for p in (REQUESTS, OUTCOMES)]
    prefixes = logs[REQUESTS][: read[0]], logs[OUTCOMES][: read[1]]
    found = zip(snapshot.frame["age"].tolist(), snapshot.outcomes.tolist(), strict=True)
    assert sorted(found) == sorted(plain_join(*prefixes, order).items())
