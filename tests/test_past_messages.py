"""The messages of a request are found in the archive and in Kafka, whatever else is there."""

import time

import pytest
from kafka import KafkaAdminClient

from monitoring.audit import past_messages
from monitoring.audit.kept_messages import KeptMessages
from monitoring.audit.message_archive import MessageArchive
from monitoring.audit.message_blocks import MOST_MESSAGES
from monitoring.audit.message_runs import BLOCK
from monitoring.audit.past_messages import PastMessages
from tests.test_message_archive import kept, polled
from tests.test_stable_offset import foreign_producer, open_transaction  # noqa: F401
from utils.kafka_client.reader import Polled, Reader

REQUEST = b'{"request_id": "r", "data": {}}'
REPLY = b'{"request_id": "r", "prediction": 1}'
OUTCOME = b'{"request_id": "r", "outcome": "x"}'
HOUR_MS = 3_600_000


@pytest.fixture
def topics(pipeline, monkeypatch):
    """The two topics, of which only app_messages is there; an archive that does not exist yet."""
    names = [pipeline.prefix + name for name in ("app_messages", "outcomes_topic")]
    for variable, name in zip(("APP_MESSAGES", "OUTCOMES_TOPIC"), names, strict=True):
        monkeypatch.setattr(past_messages, variable, name)
    path = pipeline.folder / "audit.db"
    monkeypatch.setattr(past_messages, "KeptMessages", lambda: KeptMessages(path))
    pipeline.create_topic("app_messages")
    return names


def send(pipeline, *values: bytes, topic: str = "app_messages", **options) -> None:
    for value in values:
        pipeline.send(value, topic, **options)
    pipeline.producer.flush()


def values(first: int | None = None) -> list[bytes]:
    return [message.value for message in PastMessages(first).of(["r"])["r"]]


def test_an_open_transaction_stops_no_audit(pipeline, topics, foreign_producer, capsys):  # noqa: F811
    """And an audit creates no topic."""
    send(pipeline, REQUEST)
    open_transaction(pipeline, foreign_producer)
    send(pipeline, REPLY)
    assert values() == [REQUEST]
    assert PastMessages().ids_between(0, 2**62) == ["r"]
    assert capsys.readouterr().out == ""
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        assert topics[1] not in admin.list_topics()
    pipeline.run("monitor", "--once")
    assert [each.value for each in kept(pipeline.folder / "data" / "audit.db")] == [REQUEST]
    foreign_producer.abort_transaction()


def test_an_outcome_is_found_although_its_senders_clock_is_behind(pipeline, topics):
    pipeline.create_topic("outcomes_topic")
    now = time.time_ns() // 10**6
    send(pipeline, REQUEST, REPLY, timestamp_ms=now)
    send(pipeline, OUTCOME, topic="outcomes_topic", timestamp_ms=now - HOUR_MS)
    assert values(first=now - 60_000) == [REQUEST, REPLY, OUTCOME]


@pytest.mark.parametrize("full", [False, True])
def test_what_the_archive_could_not_keep_is_searched_in_kafka(pipeline, topics, full):
    archive, reader = MessageArchive(pipeline.folder / "audit.db"), Reader({}, topics[0])

    def follow() -> None:
        ends = reader.ends()
        while not reader.has_read(ends):
            archive.add(reader.poll())

    send(pipeline, REQUEST, REPLY)
    follow()
    send(pipeline, OUTCOME)  # in the wrong topic: it is missed only if nobody looks for it
    archive._retry_at = float("inf") if full else 0.0
    follow()
    archive._retry_at = 0.0
    send(pipeline, b"{}")
    follow()
    archive.close()
    kept = KeptMessages(pipeline.folder / "audit.db")
    assert bool(kept.positions()) is not full
    assert len(list(kept.find({"r"}))) == (2 if full else 3)
    reader.close()
    assert values() == [REQUEST, REPLY, OUTCOME]


def test_kafka_that_goes_away_ends_the_search(pipeline, topics, monkeypatch, capsys):
    asked = []

    class Endless(Reader):
        """Kafka has one more record, and goes away before it is read."""

        def ends(self, stable: bool = False) -> dict:
            monkeypatch.setattr(past_messages, "is_reachable", lambda: bool(asked.append(1)))
            return {partition: end + 1 for partition, end in super().ends(stable).items()}

    monkeypatch.setattr(past_messages, "Reader", Endless)
    monkeypatch.setattr(past_messages, "CHECK_AFTER", 0.2)
    send(pipeline, REQUEST)
    assert values() == [REQUEST]
    assert asked
    assert "Kafka sends no more messages: the rest is not searched." in capsys.readouterr().out


def test_of_a_flood_with_one_id_the_first_messages_are_kept(pipeline, topics):
    archive = MessageArchive(pipeline.folder / "audit.db")
    archive.add(polled([REQUEST] * 2 * BLOCK))
    archive.add(Polled({}, {}))
    archive.close()
    send(pipeline, *[REPLY] * 200)
    found = PastMessages().of(["r"])["r"]
    assert [message.offset for message in found] == list(range(MOST_MESSAGES + 1))
