"""kafka-python's traps, each shown twice on a real broker: the plain way, and ours.

A test named *_without_our_cover fails on the day the client is fixed; then the cover may go.
"""

from collections.abc import Callable
from types import MethodType

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.structs import ConsumerGroupMetadata

from tests.harness.pipeline import answer, next_batch, wait_until
from utils.kafka_client import producer
from utils.kafka_client.batch import Batch
from utils.kafka_client.consumer import Consumer


def committed(stream, partition: TopicPartition) -> int | None:
    return stream._consumer.committed(partition, timeout_ms=10_000)


def commit_without_checking_the_futures(
    self, records, offsets, group, after: Callable = lambda futures: None
):
    """What the documentation of any Kafka client shows."""
    self.client.begin_transaction()
    after([self.client.send(**record) for record in records])
    self.client.send_offsets_to_transaction(offsets, group)
    self.client.commit_transaction()


def commit_after_a_stall(self, records, offsets, group) -> None:
    """Commit as above, after the producer has given the records up."""

    def stall(futures: list) -> None:
        wait_until(lambda: all(future.is_done for future in futures), what="the timeout")

    commit_without_checking_the_futures(self, records, offsets, group, after=stall)


def abort_and_go_on_with_the_same_producer(self) -> None:
    self._producer.client.abort_transaction()
    self._resumption.resume(self._progress)
    self._broken = False


def has_resumed(stream, partition: TopicPartition) -> bool:
    stream._resumption.resume(stream._progress)
    return partition in stream._progress.committed


def commit_offsets_of_a_partition_that_is_then_lost(stream, pipeline) -> TopicPartition:
    """Let a commit fail for a stale generation; then answer another partition's request."""
    lost = TopicPartition(f"{pipeline.prefix}app_messages", 0)
    pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    generation = stream._progress.generation
    batch.group = batch.group._replace(generation_id=generation + 5)
    stream._progress.generation = generation + 5
    assert not stream.commit(batch)
    stream._progress.generation = generation
    # Not by poll(), which might return the request again, and what it returns must be answered.
    stream._recover()
    wait_until(lambda: has_resumed(stream, lost), what="the end of the aborted transaction")
    stream._consumer.pause(lost)  # as if it belonged to somebody else now
    pipeline.request(partition=1)
    pipeline.producer.flush()
    assert stream.commit(answer(next_batch(stream)))
    return lost


def test_a_stale_offsets_leak_without_our_cover(stream, pipeline):
    stream._recover = MethodType(abort_and_go_on_with_the_same_producer, stream)
    lost = commit_offsets_of_a_partition_that_is_then_lost(stream, pipeline)
    assert committed(stream, lost) == 1  # of a request that nobody has answered


def test_a_stale_offsets_do_not_leak(stream, pipeline):
    lost = commit_offsets_of_a_partition_that_is_then_lost(stream, pipeline)
    assert committed(stream, lost) is None


def a_batch_that_the_broker_will_refuse(stream, pipeline) -> tuple[Batch, str]:
    """Return an answered batch whose records come out of order: the client bumps its epoch."""
    pipeline.request(partition=0, request_id="first")
    pipeline.producer.flush()
    assert stream.commit(answer(next_batch(stream)))  # the broker knows the sequence from here on
    request_id = pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    partition = TopicPartition(f"{pipeline.prefix}app_messages", 0)
    stream._producer.client._transaction_manager.set_sequence_number(partition, 1_000)
    return batch, request_id


def test_b_a_commit_that_did_not_happen_without_our_cover(stream, pipeline):
    batch, request_id = a_batch_that_the_broker_will_refuse(stream, pipeline)
    stream._producer.send = MethodType(commit_without_checking_the_futures, stream._producer)
    assert stream.commit(batch)  # "committed"
    assert request_id not in {reply["request_id"] for reply in pipeline.replies()}


def test_b_an_epoch_bump_is_noticed(stream, pipeline):
    batch, request_id = a_batch_that_the_broker_will_refuse(stream, pipeline)
    assert not stream.commit(batch)
    assert stream.commit(answer(next_batch(stream)))
    assert [reply["request_id"] for reply in pipeline.replies()] == ["first", request_id]


def a_batch_that_will_time_out(stream, pipeline) -> tuple[Batch, str]:
    """Return an answered batch whose records the producer gives up at once, as after a stall."""
    request_id = pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    # Lingering, so that it is given up before it is sent: given up later, it may be there or not.
    stream._producer.client._accumulator.config |= {
        "delivery_timeout_ms": -1_000,
        "linger_ms": 60_000,
    }
    return batch, request_id


def test_c_a_batch_that_timed_out_is_ignored_without_our_cover(stream, pipeline):
    batch, _ = a_batch_that_will_time_out(stream, pipeline)
    stream._producer.send = MethodType(commit_after_a_stall, stream._producer)
    assert stream.commit(batch)
    assert committed(stream, TopicPartition(f"{pipeline.prefix}app_messages", 0)) == 1
    assert pipeline.replies() == []  # lost: nobody will read that request again


def test_c_a_batch_that_timed_out_is_answered_again(stream, pipeline):
    batch, request_id = a_batch_that_will_time_out(stream, pipeline)
    assert not stream.commit(batch)
    assert stream.commit(answer(next_batch(stream)))
    assert [reply["request_id"] for reply in pipeline.replies()] == [request_id]


def forget_the_membership(stream) -> None:
    """Do what the client's heartbeat does when the broker no longer knows the member."""
    stream._consumer._coordinator.reset_generation()


def test_d_offsets_are_accepted_unfenced_without_our_cover(stream, pipeline):
    pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    nobody = ConsumerGroupMetadata(group_id=batch.group.group_id)
    batch.group, stream._progress.generation = nobody, nobody.generation_id
    assert stream.commit(batch)  # the broker asks nobody for a membership


def test_d_a_batch_without_membership_is_not_answered(stream, pipeline, monkeypatch):
    request_id = pipeline.request(partition=0)
    pipeline.producer.flush()
    poll = stream._consumer.poll

    def poll_and_lose_the_membership(**options):
        records = poll(**options)
        if records:
            forget_the_membership(stream)
            monkeypatch.setattr(stream._consumer, "poll", poll)
        return records

    monkeypatch.setattr(stream._consumer, "poll", poll_and_lose_the_membership)
    wait_until(lambda: not stream.poll().records and stream._consumer.poll is poll)
    assert pipeline.replies() == []
    assert stream.commit(answer(next_batch(stream)))
    assert [reply["request_id"] for reply in pipeline.replies()] == [request_id]


@pytest.mark.slow
def test_the_wait_for_a_coordinator_that_refuses_connections_ends(stream, pipeline, monkeypatch):
    """The client drops a request to a coordinator that refuses the connection."""
    monkeypatch.setattr(producer, "SEND_TIMEOUT", 1)
    request_id = pipeline.request(partition=0)
    pipeline.producer.flush()
    batch = answer(next_batch(stream))
    manager, lost = stream._producer.client._transaction_manager, []
    monkeypatch.setattr(manager, "_enqueue_request", lost.append)
    assert not stream.commit(batch)
    assert lost
    assert stream.commit(answer(next_batch(stream)))
    assert [reply["request_id"] for reply in pipeline.replies()] == [request_id]


def read_beside_an_empty_partition(consumer_class: type, pipeline, timeout_ms: int) -> int:
    """Return how many of 400 records in one of two partitions come, each poll in time.

    poll() returns a few of them at a time, and a fetch brings no more than some dozen.
    """
    pipeline.create_topic("numbers", partitions=2)
    full, empty = (TopicPartition(f"{pipeline.prefix}numbers", number) for number in range(2))
    for number in range(400):
        pipeline.send({"number": number, "text": "x" * 1_000}, topic="numbers", partition=0)
        if number % 40 == 0:
            pipeline.producer.flush()  # batches of less than a fetch
    pipeline.producer.flush()
    sizes = {"max_poll_records": 10, "max_partition_fetch_bytes": 50_000}
    with consumer_class(
        bootstrap_servers=pipeline.host, fetch_max_wait_ms=25_000, metrics_enabled=False, **sizes
    ) as consumer:
        consumer.assign([full, empty])
        consumer.seek_to_beginning(full, empty)
        found = 0
        while found < 400 and (polled := consumer.poll(timeout_ms=timeout_ms)):
            found += sum(map(len, polled.values()))
        return found


def test_e_an_empty_partition_holds_up_a_full_one_without_our_cover(pipeline):
    assert read_beside_an_empty_partition(KafkaConsumer, pipeline, timeout_ms=1_500) < 400


def test_e_an_empty_partition_holds_up_nobody(pipeline):
    assert read_beside_an_empty_partition(Consumer, pipeline, timeout_ms=20_000) == 400
