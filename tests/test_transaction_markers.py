"""What Kafka forgets to end is ended as decided: utils/kafka_client/transaction_markers.py.

A test named *_without_our_cover shows what would happen otherwise. The fault comes from
tests/harness/forgetful_broker.py.
"""

from contextlib import closing

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import TransactionState
from kafka.errors import KafkaConnectionError, KafkaError
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from tests.harness.forgetful_broker import forgetting, trusting
from tests.harness.pipeline import answer, next_batch, wait_until
from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.confirming_producer import ConfirmingProducer
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.transaction_markers import TransactionMarkers
from utils.kafka_client.transaction_view import OFFSETS_TOPIC, partition_of_group
from utils.settings import settings


@pytest.fixture(autouse=True, scope="module")
def trusting_broker(broker):
    with trusting(settings.kafka_host):
        yield


class Writer:
    """Writes to two partitions with one transactional id; Kafka may forget the first of them."""

    def __init__(self, topic: str) -> None:
        self.group = self.name = topic
        self.forgotten, self.told = TopicPartition(topic, 0), TopicPartition(topic, 1)
        self.begin_as_successor()

    def begin_as_successor(self) -> None:
        topics = (self.forgotten.topic,)
        self.confirming = ConfirmingProducer(self.name, SizeLimits(), self.group, topics)
        self.producer, self.markers = self.confirming.client, self.confirming.markers

    def write(self, value: bytes, offset: int) -> None:
        """Write the value to both partitions and commit an offset, all in one transaction."""
        self.producer.begin_transaction()
        for partition in (self.forgotten, self.told):
            self.producer.send(partition.topic, value, partition=partition.partition)
        self.producer.flush()
        offsets = {self.told: OffsetAndMetadata(offset, "", -1)}
        self.producer.send_offsets_to_transaction(offsets, ConsumerGroupMetadata(self.group))

    def read(self) -> list[bytes]:
        """Return what readers of committed records get from the forgotten partition."""
        with closing(make_consumer()) as consumer:
            consumer.assign([self.forgotten])
            consumer.seek_to_beginning(self.forgotten)
            end = consumer.end_offsets([self.forgotten])[self.forgotten]
            found = []
            while consumer.position(self.forgotten) < end:
                for records in consumer.poll(timeout_ms=100).values():
                    found += [record.value for record in records]
        return found

    def committed(self) -> int | None:
        with closing(make_consumer(group_id=self.group)) as consumer:
            return consumer.committed(self.told, timeout_ms=5_000)


@pytest.fixture
def writer(pipeline):
    pipeline.create_topic("written", partitions=2)
    writer = Writer(f"{pipeline.prefix}written")
    yield writer
    writer.confirming.close()


def remove_cover(monkeypatch) -> None:
    monkeypatch.setattr(TransactionMarkers, "last_decision", lambda *_, **__: None)


@pytest.fixture
def no_cover(monkeypatch):
    remove_cover(monkeypatch)


def check(writer: Writer) -> None:
    """Do what the writer does if the stable offsets do not pass its transaction."""
    writer.markers.end_forgotten(writer.markers.last_decision(writer.confirming.identity))


def forget_the_decision(writer: Writer, monkeypatch) -> None:
    """Replace the writer by one that does not ask before Kafka drops its decision."""
    writer.confirming.close()
    with monkeypatch.context() as patch:
        remove_cover(patch)
        writer.begin_as_successor()


def commit_and_be_forgotten(writer: Writer) -> None:
    with forgetting(writer.producer, writer.forgotten):
        writer.write(b"committed", offset=1)
        writer.producer.commit_transaction()


def abort_and_be_forgotten(writer: Writer) -> None:
    """The writer dies in a transaction, which its successor aborts at its start."""
    with forgetting(writer.producer, writer.forgotten):
        writer.write(b"aborted", offset=1)
    writer.confirming.close()
    writer.begin_as_successor()


def abort(writer: Writer) -> None:
    writer.write(b"never seen", offset=2)
    writer.producer.abort_transaction()


def commit(writer: Writer) -> list[bytes]:
    """Commit something that Kafka does not forget; return all that can be read then."""
    writer.write(b"next", offset=3)
    writer.producer.commit_transaction()
    wait_until(lambda: writer.read()[-1:] == [b"next"], what="the next transaction")
    return writer.read()


def test_a_forgotten_commit_is_aborted_by_the_next_without_our_cover(writer, no_cover):
    commit_and_be_forgotten(writer)
    assert writer.read() == []  # readers of committed records wait here
    abort(writer)
    assert commit(writer) == [b"next"]  # "committed" is lost


def test_a_forgotten_commit_is_ended(writer):
    commit_and_be_forgotten(writer)
    check(writer)
    assert writer.committed() == 1
    abort(writer)
    assert commit(writer) == [b"committed", b"next"]


def test_a_forgotten_commit_is_ended_by_the_successor(writer):
    commit_and_be_forgotten(writer)
    writer.confirming.close()  # killed before it could check
    writer.begin_as_successor()
    assert writer.committed() == 1
    abort(writer)
    assert commit(writer) == [b"committed", b"next"]


def test_a_forgotten_abort_is_committed_by_the_next_without_our_cover(writer, no_cover):
    abort_and_be_forgotten(writer)
    assert commit(writer) == [b"aborted", b"next"]  # a duplicate, if it was sent again meanwhile


def test_a_forgotten_abort_is_ended(writer):
    abort_and_be_forgotten(writer)
    assert commit(writer) == [b"next"]


def test_a_transaction_of_the_last_owner_is_aborted_before_kafka_can_forget_that(writer):
    writer.write(b"aborted", offset=1)
    older = writer.markers
    decision = older.last_decision()
    assert decision.last.state == TransactionState.COMPLETE_ABORT
    assert decision.last == older.last_decision().last  # it stays
    assert decision.was_open == set()
    with pytest.raises(KafkaError):  # fenced
        writer.producer.commit_transaction()


def test_an_unknown_decision_is_not_guessed(writer, monkeypatch):
    """Kafka drops a decision when the next owner begins, so it has to be known before."""
    commit_and_be_forgotten(writer)
    forget_the_decision(writer, monkeypatch)
    writer.confirming.close()
    with pytest.raises(KafkaError, match="hangs on .*written-0, and Kafka no longer knows"):
        writer.begin_as_successor()
    assert writer.read() == []  # nothing is decided, and nothing is lost


@pytest.mark.slow
def test_what_began_after_the_decision_was_seen_is_not_ended(writer, monkeypatch):
    writer.write(b"committed", offset=1)
    writer.producer.commit_transaction()
    decision = writer.markers.last_decision(writer.confirming.identity)
    writer.write(b"under way", offset=2)
    with pytest.raises(KafkaError, match="no longer knows"):
        writer.markers.end_forgotten(decision)
    assert writer.read() == [b"committed"]
    writer.producer.abort_transaction()


@pytest.mark.slow
def test_a_transaction_of_a_newer_owner_is_left_alone(writer):
    decision = writer.markers.last_decision(writer.confirming.identity)
    newer = Writer(writer.name)
    newer.write(b"under way", offset=1)
    writer.markers.end_forgotten(decision)
    assert writer.markers.last_decision(writer.confirming.identity) is None
    newer.producer.commit_transaction()
    assert commit(newer) == [b"under way", b"next"]
    newer.confirming.close()


def pretend_several_brokers(markers: TransactionMarkers, monkeypatch) -> None:
    described = markers.view.admin.describe_cluster()
    several = described | {"brokers": described["brokers"] * 2}
    monkeypatch.setattr(markers.view.admin, "describe_cluster", lambda: several)


@pytest.mark.slow
def test_of_several_brokers_none_gets_a_marker_and_the_next_commit_ends_it(
    writer, monkeypatch, capsys
):
    commit_and_be_forgotten(writer)
    pretend_several_brokers(writer.markers, monkeypatch)
    check(writer)
    assert writer.read() == []
    assert "-0; the next commit ends it." in " ".join(capsys.readouterr().out.split())
    assert commit(writer) == [b"committed", b"next"]


@pytest.mark.slow
def test_of_several_brokers_a_forgotten_abort_is_left_to_an_administrator(writer, monkeypatch):
    with forgetting(writer.producer, writer.forgotten):
        writer.write(b"aborted", offset=1)
    decision = writer.markers.last_decision()
    pretend_several_brokers(writer.markers, monkeypatch)
    with pytest.raises(KafkaError, match=r"forgotten to abort .*docs/operations.md says what"):
        writer.markers.end_forgotten(decision)
    assert writer.read() == []


def test_a_transaction_under_way_is_left_alone(writer):
    writer.write(b"under way", offset=1)
    check(writer)
    assert writer.read() == []
    writer.producer.commit_transaction()
    assert commit(writer) == [b"under way", b"next"]


def test_after_a_commit_only_the_stable_offsets_are_asked(stream, pipeline, monkeypatch):
    """The answer does not grow with the producers that the topic has known."""
    pipeline.request(partition=0)
    pipeline.producer.flush()
    assert stream.commit(answer(next_batch(stream)))
    stream.poll(timeout=0)  # finds the partition of the offsets, which was new
    pipeline.request(partition=0)
    pipeline.producer.flush()
    assert stream.commit(answer(next_batch(stream)))
    admin, asked = stream._producer.markers.view.admin, []
    describe = admin.describe_producers
    monkeypatch.setattr(
        admin, "describe_producers", lambda led, *to: asked.extend(led) or describe(led, *to)
    )
    stream.poll(timeout=0)
    assert {partition.topic for partition in asked} == {OFFSETS_TOPIC}


def test_the_partitions_are_looked_for_again_after_an_error(writer, monkeypatch):
    commit_and_be_forgotten(writer)
    describe, tries = writer.markers.view.admin.describe_topics, []

    def describe_at_the_second_time(topics):
        tries.append(topics)
        if len(tries) == 1:
            raise KafkaConnectionError("gone for a moment")
        return describe(topics)

    monkeypatch.setattr(writer.markers.view.admin, "describe_topics", describe_at_the_second_time)
    check(writer)
    assert writer.read() == [b"committed"]
    assert len(tries) > 2


def test_a_partition_that_is_new_is_checked_too(writer):
    new = TopicPartition(writer.forgotten.topic, 2)
    with KafkaAdminClient(bootstrap_servers=settings.kafka_host) as admin:
        admin.create_partitions({new.topic: 3})
        wait_until(lambda: len(admin.describe_topics([new.topic])[0]["partitions"]) == 3)
    writer.confirming.close()
    writer.begin_as_successor()
    del writer.markers.view._leaders[new]  # as if it were newer than them
    writer.forgotten = new
    commit_and_be_forgotten(writer)
    assert not writer.markers.are_passed({new: 0}, writer.confirming.identity.producer_id)
    check(writer)
    assert writer.read() == [b"committed"]


def test_the_stream_checks_after_each_commit(stream, pipeline):
    """Also when no request follows: readers would wait for the answer indefinitely."""
    pipeline.request(partition=0, request_id="forgotten")
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    partition = next(iter(batch.by_partition))
    batch.send(partition.topic, b'{"request_id": "told", "prediction": 0.0}', partition=1)
    with forgetting(stream._producer.client, partition):
        assert stream.commit(batch)
    stream.poll(timeout=0)
    assert {reply["request_id"] for reply in pipeline.replies()} == {"forgotten", "told"}
    wait_until(lambda: stream.has_committed(partition, batch.positions[partition] - 1))


@pytest.mark.parametrize("group_id", ["predictors", "chaos-predictors", "", "größe", "\N{SNAKE}"])
def test_the_partition_of_a_group_is_kafkas(pipeline, group_id):
    """The coordinator says where it will write the marker of a group's offsets."""
    pipeline.create_topic("written")
    name, partition = f"{pipeline.prefix}name", TopicPartition(f"{pipeline.prefix}written", 0)
    producer = ConfirmingProducer(name, SizeLimits(), group_id, ())
    producer.client.begin_transaction()
    group = ConsumerGroupMetadata(pipeline.prefix + group_id)
    producer.client.send_offsets_to_transaction({partition: OffsetAndMetadata(1, "", -1)}, group)
    (found,) = producer.markers.view.describe().topic_partitions
    producer.client.abort_transaction()
    assert partition_of_group(pipeline.prefix + group_id, 4) == found.partition
    producer.close()
