"""What a reader of topics does when these are created again, cut, or get more partitions."""

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import CorruptRecordError

from tests.harness.brokers import running_broker
from tests.harness.pipeline import wait_until
from tests.test_faults import stored
from tools import local_kafka
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.positions import assign_all
from utils.kafka_client.reader import Reader
from utils.kafka_client.topic_ids import TopicIdentity


@pytest.fixture
def topic(pipeline):
    pipeline.create_topic("numbers")
    return f"{pipeline.prefix}numbers"


def send(pipeline, numbers) -> None:
    for number in numbers:
        pipeline.send({"number": number}, topic="numbers")
    pipeline.producer.flush()


def create_again(pipeline, name: str = "numbers", partitions: int = 1) -> None:
    """Delete the topic, and create it as soon as it is gone."""
    topic, admin = f"{pipeline.prefix}{name}", KafkaAdminClient(bootstrap_servers=pipeline.host)
    admin.delete_topics([topic])
    wait_until(lambda: not admin.describe_topics([topic])[0]["partitions"], what="the deletion")
    admin.close()
    pipeline.create_topic(name, partitions)
    renew_producer(pipeline)


def add_partitions(pipeline, name: str, total: int) -> None:
    with KafkaAdminClient(bootstrap_servers=pipeline.host) as admin:
        admin.create_partitions({pipeline.prefix + name: total})
    renew_producer(pipeline)


def renew_producer(pipeline) -> None:
    """Make a producer that knows the topics as they are now."""
    pipeline.producer.close()
    pipeline.producer = KafkaProducer(bootstrap_servers=pipeline.host, linger_ms=5)


def read(reader: Reader, number: int, timeout: float = 20) -> tuple[list[int], int]:
    """Poll until this many records have come; return their numbers, and how many were missed."""
    numbers, missed = [], 0

    def enough() -> bool:
        nonlocal missed
        polled = reader.poll(0.2)
        missed += polled.missed
        for records in polled.records.values():
            numbers.extend(json.loads(record.value)["number"] for record in records)
        return len(numbers) >= number

    wait_until(enough, timeout, f"{number} records; there are {len(numbers)}")
    return numbers, missed


def test_a_topic_created_again_is_read_from_its_beginning(pipeline, topic, capsys):
    send(pipeline, range(60))
    reader = Reader({}, topic)
    assert read(reader, 60) == (list(range(60)), 0)
    positions = reader._positions
    create_again(pipeline)
    send(pipeline, range(100, 200))
    assert read(reader, 100) == (list(range(100, 200)), 0)
    assert reader._positions[topic, 0].topic_id != positions[topic, 0].topic_id
    reader.close()
    reader = Reader(positions, topic)  # one that was down meanwhile
    assert read(reader, 100) == (list(range(100, 200)), 0)
    reader.close()
    assert capsys.readouterr().out.count("was deleted and created again") == 2


def test_records_of_the_old_topic_that_the_client_still_holds_are_not_taken_for_new_ones(
    pipeline, topic
):
    send(pipeline, range(6_000))
    reader = Reader({}, topic)
    first = wait_until(lambda: reader.poll().records)
    assert len(first[topic, 0]) <= 4_000  # the client has fetched more of them
    old, held = reader._positions[topic, 0], list(range(len(first[topic, 0]), 6_000))
    create_again(pipeline)
    send(pipeline, range(10_000, 10_100))
    positions, numbers = {old}, []

    def all_new() -> bool:
        polled = reader.poll(0.2)
        for record in polled.records.get((topic, 0), ()):
            numbers.append(json.loads(record.value)["number"])
            positions.add(polled.positions[topic, 0])
        return numbers[-100:] == list(range(10_000, 10_100))

    wait_until(all_new)
    assert numbers[:-100] in ([], held)  # the client may drop them, or not know yet that it should
    assert {p.offset for p in positions if p.topic_id == old.topic_id} <= {old.offset, 6_000}
    assert {p.offset for p in positions if p.topic_id != old.topic_id} == {100}
    reader.close()


@pytest.mark.slow
def test_a_new_topic_is_read_from_its_beginning_where_the_old_one_had_no_records(pipeline, topic):
    """The client has a position behind the markers of transactions, the reader has none."""
    other = f"{pipeline.prefix}other"
    pipeline.create_topic("other")
    with closing(
        KafkaProducer(bootstrap_servers=pipeline.host, transactional_id=topic)
    ) as aborting:
        aborting.init_transactions()
        aborting.begin_transaction()
        aborting.send(topic, b"{}").get(timeout=10)
        aborting.abort_transaction()
    reader = Reader({}, topic, other)
    wait_until(lambda: not reader.poll().records and reader._consumer.positions()[topic, 0] == 2)
    create_again(pipeline)
    send(pipeline, range(10))
    pipeline.send({"number": 10}, topic="other")
    pipeline.producer.flush()
    assert sorted(read(reader, 11)[0]) == list(range(11))
    reader.close()


@pytest.mark.slow
@pytest.mark.parametrize("version", [(2, 7), (3, 0), None], ids=["2.7", "3.0", "present"])
def test_topics_are_read_by_name_where_kafka_has_no_fetch_by_id(pipeline, topic, version):
    """2.7 has no ids; 3.0 has them, in the metadata only."""
    send(pipeline, range(10))
    with closing(make_consumer(api_version=version)) as consumer:
        partitions = assign_all(consumer, topic)
        identity = TopicIdentity(consumer, topic)
        former = identity.id_of(topic)
        assert (former is None) == (version == (2, 7))
        wait_until(lambda: consumer.poll(200), what="records by this version")
        create_again(pipeline)
        send(pipeline, range(20))
        consumer._cluster.request_update()
        if former:
            assert wait_until(identity.follow) == {topic}
        assert (identity.id_of(topic) == former) == (former is None)
        consumer.seek(partitions[0], 0)
        found = wait_until(lambda: consumer.poll(200).get(partitions[0]), what="new records")
        assert found[0].offset == 0
        assert not identity.has_changed()


@pytest.mark.slow
def test_a_topic_created_again_with_as_many_records_is_noticed_without_a_new_one(pipeline, topic):
    send(pipeline, range(60))
    reader = Reader({}, topic)
    read(reader, 60)
    create_again(pipeline)
    send(pipeline, range(100, 160))
    assert read(reader, 60, timeout=10) == (list(range(100, 160)), 0)
    reader.close()


@pytest.mark.slow
def test_added_partitions_are_read_from_their_beginning_within_ten_seconds(pipeline, topic):
    send(pipeline, range(10))
    reader = Reader({}, topic)
    read(reader, 10)
    add_partitions(pipeline, "numbers", 3)
    for partition in (1, 2):
        pipeline.send({"number": 100 + partition}, topic="numbers", partition=partition)
    pipeline.producer.flush()
    assert sorted(read(reader, 2, timeout=10)[0]) == [101, 102]
    reader.close()


def cut_log(folder, topic: str, size: int) -> None:
    """Cut a partition's log to its first bytes, as a power cut does to what was not synced."""
    log = log_of(folder, topic)
    for other in log.parent.glob("*index"):
        other.unlink()
    os.truncate(log, size)


def log_of(folder, topic: str) -> Path:
    [log] = (folder / "data").rglob(f"{topic}-0/*.log")
    return log


def log_size(folder, topic: str) -> int:
    return log_of(folder, topic).stat().st_size


@contextmanager
def broker_of_its_own(folder, pipeline, monkeypatch, topic: str) -> Iterator[str]:
    """Run a broker with one topic, for the pipeline and for this process; the value is its host."""
    with running_broker(folder) as host:
        monkeypatch.setattr("utils.kafka_client.connection.settings", settings_with(host))
        pipeline.host, pipeline.prefix = host, ""
        renew_producer(pipeline)
        pipeline.create_topic(topic)
        yield host


@pytest.mark.slow
@pytest.mark.parametrize("new", [10, 400])
def test_a_log_that_lost_its_end_is_read_on_where_it_was_cut(
    tmp_path, pipeline, monkeypatch, new, capsys
):
    """Fewer new records than were lost, or more: no new one is skipped, no old one read twice."""
    folder, name = tmp_path / "kafka", "numbers"
    with broker_of_its_own(folder, pipeline, monkeypatch, name) as host:
        send(pipeline, range(70))
        size = log_size(folder, name)
        send(pipeline, range(70, 202))
        reader = Reader({}, name)
        read(reader, 202)
        positions = reader._positions
        reader.close()
        os.kill(int((folder / "broker.pid").read_text()), signal.SIGKILL)
        local_kafka.stop(folder)
        cut_log(folder, name, size)
        local_kafka.start(host, folder)
        renew_producer(pipeline)
        send(pipeline, range(1_000, 1_000 + new))
        reader = Reader(positions, name)
        assert read(reader, new) == (list(range(1_000, 1_000 + new)), 0)
        assert reader._positions[name, 0].topic_id == positions[name, 0].topic_id
        reader.close()
    assert "Kafka lost 132 records that were read" in capsys.readouterr().out


@pytest.mark.slow
def test_a_batch_with_a_wrong_checksum_is_fetched_again(tmp_path, pipeline, monkeypatch):
    folder, name = tmp_path / "kafka", "numbers"
    with broker_of_its_own(folder, pipeline, monkeypatch, name) as host:
        send(pipeline, range(10))
        size = log_size(folder, name)
        send(pipeline, range(10, 20))
        local_kafka.stop(folder)
        log = log_of(folder, name)
        whole = log.read_bytes()
        log.write_bytes(whole[: size + 80] + bytes([whole[size + 80] ^ 1]) + whole[size + 81 :])
        local_kafka.start(host, folder)
        reader = Reader({}, name)
        assert read(reader, 10) == (list(range(10)), 0)
        for _ in range(3):
            with pytest.raises(CorruptRecordError):
                wait_until(lambda: reader.poll().records, what="the damaged batch")
        log.write_bytes(whole)
        assert read(reader, 10) == (list(range(10, 20)), 0)
        reader.close()


def settings_with(host: str):
    from utils.settings import settings

    return settings.model_copy(update={"kafka_host": host})


@pytest.mark.slow
@pytest.mark.parametrize("state", ["down", "frozen", "running"])
def test_a_trainer_stores_all_records_of_topics_that_are_created_again(pipeline, state):
    """600 requests and outcomes were read; then each topic is made anew, with 1,000 of each."""
    trainer = pipeline.trainer(RETRAIN_EVERY="100000")
    send_observations(pipeline, "old", 600)
    wait_until(lambda: complete(pipeline) == 600)
    if state == "down":
        trainer.kill()
        trainer.wait()
    elif state == "frozen":
        trainer.send_signal(signal.SIGSTOP)
    for name in ("app_messages", "outcomes_topic", "retrain_topic"):
        create_again(pipeline, name)
    send_observations(pipeline, "new", 1_000)
    if state == "down":
        trainer = pipeline.trainer(RETRAIN_EVERY="100000")
    trainer.send_signal(signal.SIGCONT)
    wait_until(lambda: complete(pipeline) == 1_600, 30, f"there are {complete(pipeline)}")
    assert stored(pipeline, "SELECT value FROM counters WHERE name = 'missed_records'") == 0
    requests = "SELECT value FROM counters WHERE name = 'retrain_requests'"
    wait_until(lambda: stored(pipeline, requests) == 3)
    log = trainer.log.read_text()
    for name in ("app_messages", "outcomes_topic", "retrain_topic"):
        assert log.count(f"{pipeline.prefix}{name} was deleted and created again") == 1


def send_observations(pipeline, name: str, number: int) -> None:
    for row in range(number):
        data = dict(pipeline.rows[row])
        outcome, request_id = data.pop("income_bracket"), f"{name}-{row}"
        pipeline.send({"request_id": request_id, "data": data})
        pipeline.send({"request_id": request_id, "outcome": outcome}, topic="outcomes_topic")
    for _ in range(1 if name == "old" else 2):
        pipeline.send({"retrain": True}, topic="retrain_topic")
    pipeline.producer.flush()


def complete(pipeline) -> int:
    try:
        return stored(pipeline, "SELECT count(*) FROM positions")
    except sqlite3.OperationalError:
        return 0


@pytest.mark.slow
def test_the_trainer_reads_partitions_that_are_added(pipeline):
    pipeline.trainer(RETRAIN_EVERY="100000")
    add_partitions(pipeline, "app_messages", 2)
    pipeline.request(partition=1)
    pipeline.producer.flush()
    wait_until(lambda: stored(pipeline, "SELECT count(*) FROM positions") == 1, 10)
    assert stored(pipeline, "SELECT next_offset FROM offsets WHERE partition = 1") == 1
