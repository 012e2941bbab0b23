"""Records that are appended to an open batch, beside those that KafkaProducer.send() writes."""

import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.checkpoints import Checkpoint
from utils.kafka_client.producer import TRANSACTIONAL, TransactionalProducer

NAMES = ("sent", "appended")
BATCH_SIZE = TRANSACTIONAL["batch_size"]
CHECKPOINT = Checkpoint("group", None, offset=7, count=5).header()


@pytest.fixture
def producer(pipeline):
    """It sends batches when they are full, and at a flush: never because of the time."""
    with closing(TransactionalProducer(f"{pipeline.prefix}id", SizeLimits())) as producer:
        producer.client._accumulator.config["linger_ms"] = 60_000
        yield producer


def commit(producer, records: list[dict]) -> None:
    """Send records in a transaction, with an offset of the partition of the first one."""
    partition = TopicPartition(records[0]["topic"], records[0]["partition"])
    offsets = {partition: OffsetAndMetadata(0, "", -1)}
    producer.send(records, offsets, ConsumerGroupMetadata(partition.topic))


def values_of(pipeline, topic: str) -> list[bytes]:
    return [record.value for record in pipeline.records(topic)]


def varied(topic: str) -> list[dict]:
    """Return records of all kinds for two partitions, which fill several batches."""
    kinds = [
        {"value": b"reply", "key": None},
        {"value": b"reply", "key": b"key"},
        {"value": b"", "key": b""},
        {"value": b"without a key"},
        {"value": b"letter", "key": b"key", "headers": [("reason", b"\xff"), ("é", b"")]},
        {"value": None, "key": b"", "headers": [("empty", b"true")]},
        {"value": b"reply", "headers": [CHECKPOINT]},
        {"value": b"x" * 20_000, "key": None, "headers": []},
    ]
    records = [kinds[n // 3 % len(kinds)] | {"partition": n // 500 % 2} for n in range(2_000)]
    records.insert(250, {"value": b"x" * (BATCH_SIZE + 1), "partition": 0})
    # As of a clock that is set back now and then.
    return [r | {"topic": topic, "timestamp_ms": n - n % 7 * 2} for n, r in enumerate(records, 100)]


def log_of(broker: Path, topic: str, partition: int) -> bytes:
    return (broker / "data" / f"{topic}-{partition}" / f"{0:020}.log").read_bytes()


def test_the_log_is_byte_for_byte_the_one_that_send_writes(broker, pipeline, producer):
    for name in NAMES:
        options = {"max.message.bytes": str(2 * BATCH_SIZE), "message.timestamp.type": "CreateTime"}
        pipeline.create_topic(name, partitions=2, configs=options)
    producer.client.begin_transaction()
    muted = producer.client._accumulator.muted
    muted |= {TopicPartition(f"{pipeline.prefix}{name}", p) for name in NAMES for p in (0, 1)}
    for record in varied(f"{pipeline.prefix}sent"):
        producer.client.send(**record)
    producer.put(varied(f"{pipeline.prefix}appended"))
    muted.clear()  # else a batch would end with the record after which the sender looked for it
    producer.client.flush(30)
    for partition in (0, 1):
        expected = log_of(broker, f"{pipeline.prefix}sent", partition)
        assert len(expected) > 2 * BATCH_SIZE
        assert log_of(broker, f"{pipeline.prefix}appended", partition) == expected
    producer.client.commit_transaction()


def test_send_is_called_once_for_a_batch(pipeline, producer, monkeypatch):
    pipeline.create_topic("replies")
    send, calls = producer.client.send, []
    monkeypatch.setattr(producer.client, "send", lambda **r: calls.append(r) or send(**r))
    records = [
        {"topic": f"{pipeline.prefix}replies", "value": b"%d" % n, "partition": 0}
        for n in range(2_000)
    ]
    for _ in range(2):
        commit(producer, records)
    assert len(calls) == 2
    assert values_of(pipeline, "replies") == [b"%d" % n for n in range(2_000)] * 2


def test_a_batch_that_timed_out_is_not_committed(pipeline, producer):
    pipeline.create_topic("replies")
    producer.client._accumulator.config["delivery_timeout_ms"] = -1_000
    records = [
        {"topic": f"{pipeline.prefix}replies", "value": b"%d" % n, "partition": 0} for n in range(9)
    ]
    with pytest.raises(KafkaTimeoutError, match=r"9 record\(s\)"):
        commit(producer, records)
    assert values_of(pipeline, "replies") == []


def test_one_record_among_others_is_too_large_for_its_topic(pipeline, producer):
    pipeline.create_topic("replies", configs={"max.message.bytes": "1000"})
    place = {"topic": f"{pipeline.prefix}replies", "partition": 0, "key": None}
    records = [place | {"value": b"small"} for _ in range(40)]
    too_large = place | {"value": b"x" * 1_000}
    with pytest.raises(MessageSizeTooLargeError):
        commit(producer, [*records, too_large, *records])
    assert not producer.limits.allow(too_large)
    assert producer.limits.allow(place | {"value": b"x" * 999})
    assert values_of(pipeline, "replies") == []


def test_one_record_among_others_is_too_large_for_the_client(pipeline, producer):
    pipeline.create_topic("replies")
    place = {"topic": f"{pipeline.prefix}replies", "partition": 0, "key": None}
    too_large = place | {"value": b"x" * producer.client.config["max_request_size"]}
    with pytest.raises(MessageSizeTooLargeError):
        commit(producer, [place | {"value": b"small"}, too_large])
    assert not producer.limits.allow(too_large)
    assert producer.limits.allow(place | {"value": b"x" * BATCH_SIZE})


@pytest.mark.slow
def test_kafka_is_away_between_the_first_batch_and_the_last_one(broker, pipeline, producer):
    pipeline.create_topic("replies")
    pid, put = int((broker / "broker.pid").read_text()), producer.put
    place = {"topic": f"{pipeline.prefix}replies", "partition": 0}
    records = [place | {"value": b"%d" % n + b" " * 1_000} for n in range(4_000)]  # four batches

    def put_and_freeze_kafka(records: list[dict]) -> list:
        sent = put(records[:2_000])
        producer.client.flush(10)
        os.kill(pid, signal.SIGSTOP)
        return sent + put(records[2_000:])

    producer.put = put_and_freeze_kafka
    try:
        with pytest.raises(KafkaTimeoutError):
            commit(producer, records)
    finally:
        os.kill(pid, signal.SIGCONT)
    producer.close()
    with closing(TransactionalProducer(f"{pipeline.prefix}id", SizeLimits())) as successor:
        commit(successor, records)
    assert values_of(pipeline, "replies") == [record["value"] for record in records]
