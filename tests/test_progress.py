"""What a group knows of its progress when Kafka has forgotten, reset, cut or recreated it."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise

import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from tests.harness.brokers import running_broker
from tests.harness.log_files import cut_log
from tests.harness.pipeline import Pipeline, answer, next_batch, wait_until
from tools import local_kafka
from utils.kafka_client import checkpoints
from utils.kafka_client.checkpoints import decode_checkpoint
from utils.kafka_client.transactions import TransactionalStream


@contextmanager
def administration(pipeline) -> Iterator[KafkaAdminClient]:
    with closing(KafkaAdminClient(bootstrap_servers=pipeline.host)) as admin:
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


@pytest.fixture
def own_broker(pipeline, tmp_path):
    """The pipeline on a broker of its own, which the test may kill; and that one's folder."""
    folder = tmp_path / "kafka"
    with running_broker(folder) as host:
        own = Pipeline(host, pipeline.prefix, pipeline.folder)
        yield own, folder
        own.stop_all()


def send(pipeline, *request_ids: str) -> None:
    for request_id in request_ids:
        pipeline.request(partition=0, request_id=request_id)
    pipeline.producer.flush()


def answer_all(stream, number: int) -> list[int]:
    """Answer this number of requests, and return the ids of the batches that they complete."""
    answered, batch_ids = 0, []

    def done() -> bool:
        nonlocal answered
        batch = stream.poll(timeout=0.1)
        requests = [r for r in batch.records if "data" in json.loads(r.value)]
        borders = batch.count(requests, every=2)
        if stream.commit(answer(batch)):
            answered += len(requests)
            batch_ids.extend(k for k, _ in borders)
        return answered >= number

    wait_until(done, what=f"{number} answers")
    return batch_ids


def serve(stream, polls: int) -> None:
    """Answer whatever comes with some polls."""
    for _ in range(polls):
        stream.commit(answer(stream.poll(timeout=0.1)))


def forget_offsets(pipeline) -> None:
    """Delete the group's offsets, as their retention does."""
    with administration(pipeline) as admin:
        admin.delete_group_offsets(f"{pipeline.prefix}predictors", [partition_of(pipeline)])


def reset_offset(pipeline, offset: int) -> None:
    """Do what kafka-consumer-groups --reset-offsets does."""
    offsets = {partition_of(pipeline): OffsetAndMetadata(offset, "", -1)}
    with administration(pipeline) as admin:
        admin.alter_group_offsets(f"{pipeline.prefix}predictors", offsets)


def test_expired_offsets_are_found_in_the_log(open_stream, pipeline, monkeypatch):
    monkeypatch.setattr(checkpoints, "FIRST_WINDOW", 2)
    stream, batch_ids = open_stream(), []
    for request_id in ("a", "b", "c"):
        send(pipeline, request_id)
        batch_ids += answer_all(stream, 1)
    open_stream.close_all()
    send(pipeline, *"defghijklm")  # the last checkpoint is several windows away
    forget_offsets(pipeline)
    batch_ids += answer_all(open_stream(), 10)
    assert replied(pipeline) == list("abcdefghijklm")
    assert batch_ids == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_that_can_not_be_true_is_ignored():
    unknown = dict.fromkeys(ConsumerRecord._fields)
    for offset, count, believed in ((7, 3, True), (8, 3, False), (7, 2**53, False), (-1, 3, False)):
        header = checkpoints.Checkpoint("group", None, offset, count).header()
        record = ConsumerRecord(**unknown | {"offset": 7, "headers": [header]})
        assert (decode_checkpoint(record) is not None) is believed


@pytest.mark.slow
def test_the_search_decodes_hardly_any_batch_outside_of_transactions(
    open_stream, pipeline, monkeypatch
):
    """Also of producers without an id, for which the client does not look for transactions."""
    stream, partition, decoded = open_stream(), partition_of(pipeline), []
    send(pipeline, "a")
    answer_all(stream, 1)
    options = {"enable_idempotence": False, "batch_size": 0}  # each record is a batch
    with closing(KafkaProducer(bootstrap_servers=pipeline.host, **options)) as plain:
        for number in range(1_000):
            plain.send(partition.topic, b"%d" % number, partition=0)
        plain.flush()

    def decode(record):
        decoded.append(record)
        return decode_checkpoint(record)

    monkeypatch.setattr(checkpoints, "decode_checkpoint", decode)
    group, topic_id = f"{pipeline.prefix}predictors", stream._resumption.topic_id
    found = checkpoints.last_checkpoint(partition, group, topic_id, 0, lambda: None)
    assert (found.checkpoint.offset, found.checkpoint.count, found.end) == (1, 1, 1_003)
    assert len(decoded) < 100


@pytest.mark.parametrize("offset", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_an_offset_that_was_reset_makes_no_second_answer(open_stream, pipeline, offset):
    answer_a_and_b(open_stream, pipeline)
    send(pipeline, "c")
    reset_offset(pipeline, offset)
    answer_all(open_stream(), 1)
    assert replied(pipeline) == ["a", "b", "c"]


@pytest.mark.slow
def test_a_tool_may_skip_what_nobody_has_answered(open_stream, pipeline):
    answer_a_and_b(open_stream, pipeline)
    send(pipeline, "c", "d")
    reset_offset(pipeline, 7)
    answer_all(open_stream(), 1)
    assert replied(pipeline) == ["a", "b", "d"]


def answer_a_and_b(open_stream, pipeline) -> None:
    """Answer two requests, at the offsets 0 and 3; the next one comes to offset 6."""
    stream = open_stream()
    for request_id in ("a", "b"):
        send(pipeline, request_id)
        answer_all(stream, 1)
    open_stream.close_all()


@pytest.mark.slow
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
        answer_all(stream, 1)
    assert replied(pipeline) == ["x", "a", "b"]
    assert len(steps) > 2


def recreate_topic(pipeline) -> None:
    name = partition_of(pipeline).topic
    with administration(pipeline) as admin:
        admin.delete_topics([name])

        def created() -> bool:
            with suppress(KafkaError):
                admin.create_topics(
                    {name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True
                )
                return True
            return False

        wait_until(created)
    replace_producer(pipeline)


def replace_producer(pipeline) -> None:
    """An idempotent producer does not go on in a log that has lost its records."""
    pipeline.producer.close()
    pipeline.producer = KafkaProducer(bootstrap_servers=pipeline.host, linger_ms=5)


def ids(prefix: str, number: int) -> list[str]:
    return [f"{prefix}{n}" for n in range(number)]


@pytest.mark.parametrize(
    "frozen", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["frozen", "down"]
)
def test_a_topic_that_was_created_again_is_read_from_its_beginning(open_stream, pipeline, frozen):
    stream = open_stream()
    send(pipeline, *ids("old", 10))
    answer_all(stream, 10)
    if not frozen:
        open_stream.close_all()
    recreate_topic(pipeline)
    send(pipeline, *ids("new", 60))  # more than the old offset
    if not frozen:
        stream = open_stream()
    batch_ids = answer_all(stream, 60)
    assert replied(pipeline) == ids("new", 60)
    assert batch_ids == list(range(1, 31))


@pytest.mark.slow
def test_a_predictor_that_was_frozen_meanwhile_answers_every_request_of_the_new_topic(pipeline):
    predictor = pipeline.predictor(RETRAIN_EVERY="4")
    send(pipeline, *ids("old", 10))
    pipeline.wait_for_replies(10)
    predictor.send_signal(signal.SIGSTOP)
    recreate_topic(pipeline)
    send(pipeline, *ids("new", 60))  # more than the old offset
    predictor.send_signal(signal.SIGCONT)
    pipeline.wait_for_replies(60)
    assert replied(pipeline) == ids("new", 60)
    batches = [m["batch_id"] for m in pipeline.messages("retrain_topic") if "retrain" in m]
    assert batches == [1, 2, *range(1, 16)]
    assert predictor.log.read_text().count("was deleted and created again") == 1


@pytest.mark.slow
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
    serve(open_stream(), 10)
    assert len(replied(pipeline)) == len(set(replied(pipeline)))


@pytest.mark.slow
def test_offsets_of_a_former_topic_are_not_used(open_stream, pipeline):
    """A commit that was under way may arrive when the topic has been created again."""
    stream = open_stream()
    send(pipeline, *ids("old", 10))
    answer_all(stream, 10)
    metadata = stream._consumer.committed(partition_of(pipeline), metadata=True).metadata
    open_stream.close_all()
    recreate_topic(pipeline)
    with administration(pipeline) as admin:
        offsets = {partition_of(pipeline): OffsetAndMetadata(5, metadata, -1)}
        admin.alter_group_offsets(f"{pipeline.prefix}predictors", offsets)
    send(pipeline, *ids("new", 20))
    answer_all(open_stream(), 20)
    assert replied(pipeline) == ids("new", 20)


def cut_power(folder, pipeline, end: int) -> None:
    """Kill the broker, and start it again with a log of requests that ends at this offset."""
    os.kill(int((folder / "broker.pid").read_text()), signal.SIGKILL)
    local_kafka.stop(folder)
    cut_log(folder / "data", partition_of(pipeline), end)
    local_kafka.start(pipeline.host, folder)
    replace_producer(pipeline)


def ends(pipeline) -> list[int]:
    """Return the offsets behind the marker of each transaction, in the only partition."""
    offsets = [record.offset for record in pipeline.records("app_messages")]
    return [a + 2 for a, b in pairwise([*offsets, offsets[-1] + 2]) if b > a + 1]


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False], ids=["running", "down"])
@pytest.mark.parametrize("sent_meanwhile", [3, 60])
def test_a_log_that_was_cut_is_gone_on_with(own_broker, running, sent_meanwhile):
    """The offset that was committed is beyond its end, or in the middle of other requests."""
    pipeline, folder = own_broker
    predictor = pipeline.predictor(RETRAIN_EVERY="4")
    for first in range(0, 40, 5):
        for n in range(first, first + 5):
            pipeline.request(n, request_id=f"old{n}")
        pipeline.producer.flush()
        pipeline.wait_for_replies(first + 5)
    if not running:
        predictor.kill()
        predictor.wait()
    cut_power(folder, pipeline, ends(pipeline)[2])
    left, new = replied(pipeline), ids("new", sent_meanwhile)
    assert 10 < len(left) < 40
    send(pipeline, *new)
    if not running:
        predictor = pipeline.predictor(RETRAIN_EVERY="4")
    pipeline.wait_for_replies(len(left) + len(new), timeout=90)
    assert replied(pipeline) == left + new
    pipeline.wait_for_output(predictor, "Kafka has lost records of partition 0")
    batches = [m["batch_id"] for m in pipeline.messages("retrain_topic") if "retrain" in m]
    assert batches == list(range(1, len(batches) + 1))
    assert len(batches) == (40 + len(new)) // 4
    assert predictor.log.read_text().count("has lost records") == 1


@pytest.mark.slow
def test_a_partition_that_is_added_is_answered_within_10_s(pipeline):
    predictor = pipeline.predictor()
    pipeline.requests(1)
    pipeline.wait_for_replies(1)
    with administration(pipeline) as admin:
        admin.create_partitions({partition_of(pipeline).topic: 2})
    replace_producer(pipeline)  # at once, as the former one does not know the partition yet
    pipeline.request(partition=1, request_id="added")
    pipeline.producer.flush()
    pipeline.wait_for_replies(2, timeout=10)
    assert predictor.poll() is None


@pytest.mark.slow
def test_a_power_cut_that_takes_offsets_and_leaves_replies_makes_no_second_answer(own_broker):
    pipeline, folder = own_broker
    predictor, partition = pipeline.predictor(), partition_of(pipeline)
    group = f"{pipeline.prefix}predictors"
    with administration(pipeline) as admin:
        send(pipeline, *ids("a", 5))
        pipeline.wait_for_replies(5)
        earlier = wait_until(lambda: admin.list_group_offsets({group: [partition]})[group])
        send(pipeline, *ids("b", 5))
        pipeline.wait_for_replies(10)
    predictor.terminate()
    predictor.wait()
    cut_power(folder, pipeline, end=2**40)  # nothing of the requests' log

    def altered() -> bool:
        with suppress(KafkaError), administration(pipeline) as admin:  # the coordinator is loading
            admin.alter_group_offsets(group, earlier)
            return admin.list_group_offsets({group: [partition]})[group] == earlier

    wait_until(altered)
    send(pipeline, "c")
    predictor = pipeline.predictor()
    pipeline.wait_for_replies(11)
    assert replied(pipeline) == [*ids("a", 5), *ids("b", 5), "c"]
    assert "after its last checkpoint there" in predictor.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("running", [True, False], ids=["running", "down"])
@pytest.mark.parametrize("lost", ["marker", "replies"])
def test_a_power_cut_that_takes_the_end_of_a_transaction(own_broker, lost, running):
    """Replies without their marker are completed; replies that are lost are sent again."""
    pipeline, folder = own_broker
    predictor = pipeline.predictor()
    for name in ("a", "b"):
        send(pipeline, *ids(name, 5))
        pipeline.wait_for_replies(10 if name == "b" else 5)
    if not running:
        predictor.terminate()
        predictor.wait()
    replies = [r.offset for r in pipeline.records("app_messages") if b'"data"' not in r.value]
    cut_power(folder, pipeline, ends(pipeline)[-1] - 1 if lost == "marker" else replies[5])
    if not running:
        predictor = pipeline.predictor()
    send(pipeline, "c")
    pipeline.wait_for_replies(11)
    assert replied(pipeline) == [*ids("a", 5), *ids("b", 5), "c"]
    said = predictor.log.read_text()
    assert ("has lost records of partition 0" in said) == (lost == "replies")
