"""What a group knows of its progress when Kafka has forgotten, reset, cut or recreated it."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from tests.harness.pipeline import answer, next_batch, wait_until
from utils.kafka_client import checkpoints
from utils.kafka_client.connection import make_admin
from utils.kafka_client.transactions import TransactionalStream


@contextmanager
def administration() -> Iterator:
    with closing(make_admin()) as admin:
        yield admin


def partition_of(pipeline, partition: int = 0) -> TopicPartition:
    return TopicPartition(f"{pipeline.prefix}app_messages", partition)


def replied(pipeline) -> list[str]:
    return [reply["request_id"] for reply in pipeline.replies()]


@pytest.fixture
def open_stream(pipeline):
    """A function that makes the member "p" of the predictors' group, after the former one ends."""
    pipeline.create_topic("app_messages")
    topic, opened = f"{pipeline.prefix}app_messages", []

    def close_all() -> None:
        while opened:
            opened.pop().close()

    def open_one() -> TransactionalStream:
        close_all()
        opened.append(TransactionalStream(topic, f"{pipeline.prefix}predictors", "p", (topic,)))
        return opened[-1]

    open_one.close_all = close_all
    yield open_one
    close_all()


def send(pipeline, *request_ids: str) -> None:
    for request_id in request_ids:
        pipeline.request(partition=0, request_id=request_id)
    pipeline.producer.flush()


def answer_all(stream, pipeline, number: int, counted: list[int] | None = None) -> None:
    """Answer until there are `number` replies, and everything is committed."""

    def answered() -> bool:
        batch = stream.poll(timeout=0.1)
        messages = [json.loads(record.value) for record in batch.records]
        requests = [r for r, m in zip(batch.records, messages, strict=True) if "data" in m]
        borders = batch.count(requests, every=2)
        if stream.commit(answer(batch)) and counted is not None:
            counted.extend(k for k, _ in borders)
        return len(replied(pipeline)) >= number

    wait_until(answered, what=f"{number} replies")


def forget_offsets(pipeline) -> None:
    """Delete the group's offsets, as their retention does."""
    with administration() as admin:
        admin.delete_group_offsets(f"{pipeline.prefix}predictors", [partition_of(pipeline)])


def reset_offset(pipeline, offset: int) -> None:
    """Do what kafka-consumer-groups --reset-offsets does."""
    offsets = {partition_of(pipeline): OffsetAndMetadata(offset, "", -1)}
    with administration() as admin:
        admin.alter_group_offsets(f"{pipeline.prefix}predictors", offsets)


def test_expired_offsets_are_found_in_the_log(open_stream, pipeline, monkeypatch):
    monkeypatch.setattr(checkpoints, "FIRST_WINDOW", 2)
    stream, batch_ids = open_stream(), []
    for request_id in ("a", "b", "c"):
        send(pipeline, request_id)
        answer_all(stream, pipeline, len(replied(pipeline)) + 1, batch_ids)
    open_stream.close_all()
    send(pipeline, *"defghijklm")  # the last checkpoint is several windows away
    forget_offsets(pipeline)
    answer_all(open_stream(), pipeline, 13, batch_ids)
    assert replied(pipeline) == list("abcdefghijklm")
    assert batch_ids == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("offset", "answered"), [(0, "abc"), (3, "abc"), (5, "ab")])
def test_an_offset_that_was_reset_makes_no_second_answer(open_stream, pipeline, offset, answered):
    stream = open_stream()
    send(pipeline, "a")
    answer_all(stream, pipeline, 1)
    send(pipeline, "b")  # at offset 3, behind the reply and the transaction's marker
    answer_all(stream, pipeline, 2)
    open_stream.close_all()
    send(pipeline, "c")  # at offset 6
    reset_offset(pipeline, offset if offset < 5 else 7)
    stream = open_stream()
    if "c" in answered:
        answer_all(stream, pipeline, 3)
    else:  # a tool may skip what nobody has answered
        send(pipeline, "d")
        answer_all(stream, pipeline, 3)
        answered += "d"
    assert replied(pipeline) == list(answered)


def test_replies_behind_an_open_transaction_are_not_given_again(open_stream, pipeline):
    """Readers of committed records do not see them yet."""
    stream, steps = open_stream(), []
    send(pipeline, "a")
    batch = answer(next_batch(stream))
    name = f"{pipeline.prefix}other"
    with closing(KafkaProducer(bootstrap_servers=pipeline.host, transactional_id=name)) as other:
        other.init_transactions()
        other.begin_transaction()
        other.send(partition_of(pipeline).topic, b'{"request_id": "x", "error": ""}', partition=0)
        other.flush()
        assert stream.commit(batch)
        open_stream.close_all()
        forget_offsets(pipeline)
        stream = open_stream()

        def end_transaction_after_some_steps() -> None:
            steps.append("step")
            if len(steps) == 3:
                other.commit_transaction()

        stream._resumption._on_step = end_transaction_after_some_steps
        send(pipeline, "b")
        answer_all(stream, pipeline, 3)
    assert replied(pipeline) == ["x", "a", "b"]
    assert len(steps) > 2


def recreate_topic(pipeline) -> None:
    name = partition_of(pipeline).topic
    with administration() as admin:
        admin.delete_topics([name])

        def created() -> bool:
            with suppress(KafkaError):
                admin.create_topics(
                    {name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True
                )
                return True
            return False

        wait_until(created)
    pipeline.producer.close()
    pipeline.producer = KafkaProducer(bootstrap_servers=pipeline.host, linger_ms=5)


def ids(prefix: str, number: int) -> list[str]:
    return [f"{prefix}{n}" for n in range(number)]


@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "down"])
def test_a_topic_that_was_created_again_is_read_from_its_beginning(open_stream, pipeline, frozen):
    stream, batch_ids = open_stream(), []
    send(pipeline, *ids("old", 10))
    answer_all(stream, pipeline, 10)
    if not frozen:
        open_stream.close_all()
    recreate_topic(pipeline)
    send(pipeline, *ids("new", 60))  # more than the old offset
    if not frozen:
        stream = open_stream()
    answer_all(stream, pipeline, 60, batch_ids)
    assert replied(pipeline) == ids("new", 60)
    assert batch_ids == list(range(1, 31))


def test_records_that_were_fetched_of_a_deleted_topic_take_no_place_in_the_new_one(
    open_stream, pipeline
):
    """Their replies may be too late, and go to the new topic."""
    stream = open_stream()
    stream._consumer.config["max_poll_records"] = 3
    send(pipeline, *ids("old", 10))
    batch = answer(next_batch(stream))
    recreate_topic(pipeline)
    send(pipeline, *ids("new", 5))
    stream.commit(batch)

    def all_answered() -> bool:
        stream.commit(answer(stream.poll(timeout=0.1)))
        return set(ids("new", 5)) <= set(replied(pipeline))

    wait_until(all_answered)
    answer_all(open_stream(), pipeline, 5)
    assert len(replied(pipeline)) == len(set(replied(pipeline)))


def test_offsets_of_a_former_topic_are_not_used(open_stream, pipeline):
    """A commit that was under way may arrive when the topic has been created again."""
    stream = open_stream()
    send(pipeline, *ids("old", 10))
    answer_all(stream, pipeline, 10)
    metadata = stream._consumer.committed(partition_of(pipeline), metadata=True).metadata
    open_stream.close_all()
    recreate_topic(pipeline)
    with administration() as admin:
        offsets = {partition_of(pipeline): OffsetAndMetadata(5, metadata, -1)}
        admin.alter_group_offsets(f"{pipeline.prefix}predictors", offsets)
    send(pipeline, *ids("new", 20))
    answer_all(open_stream(), pipeline, 20)
    assert replied(pipeline) == ids("new", 20)
