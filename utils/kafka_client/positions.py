"""Consumers outside of any group: which partitions they read, and from which offsets."""

from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, KafkaTimeoutError

from utils.console import warn
from utils.kafka_client.consumer import Consumer, make_consumer


def all_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return every partition of a topic, in order; KafkaError if the topic can't be found."""
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise KafkaError(f"topic {topic} has no partitions that can be read")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


def assign_all(consumer: KafkaConsumer, *topics: str) -> list[TopicPartition]:
    """Assign every partition of these topics to a consumer, and return them."""
    partitions = [partition for topic in topics for partition in all_partitions(consumer, topic)]
    consumer.assign(partitions)
    return partitions


def read_from_now_on(*topics: str) -> Consumer:
    """Return a consumer of every partition of these topics, at their ends.

    It reads everything that is sent after this function returns. KafkaTimeoutError if the end of a
    partition can't be found out.
    """
    consumer = make_consumer()
    partitions = assign_all(consumer, *topics)
    consumer.seek_to_end(*partitions)
    for partition in partitions:
        if consumer.position(partition, timeout_ms=10_000) is None:
            raise KafkaTimeoutError(f"the end of {partition.topic} is not known")
    return consumer


def read_from(offsets: dict[TopicPartition, int], *topics: str) -> Consumer:
    """Return a consumer of every partition of these topics, from the given offsets on.

    Partitions without an offset are read from their beginning.
    """
    consumer = make_consumer(
        max_poll_records=4_000,
        max_partition_fetch_bytes=2**23,
        auto_offset_reset="none",  # an error instead of a silent jump, see skip_deleted()
    )
    assign_all(consumer, *topics)
    seek_all(consumer, offsets)
    return consumer


def records_up_to_now(consumer: KafkaConsumer) -> Iterator[ConsumerRecord]:
    """Yield the records from the consumer's positions to the present ends of its partitions."""
    ends = consumer.end_offsets(list(consumer.assignment()))
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=200).values():
            yield from records


def seek_all(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    """Set the position of every assigned partition: its given offset, or else the beginning."""
    for partition in consumer.assignment():
        if partition in offsets:
            consumer.seek(partition, offsets[partition])
        else:
            consumer.seek_to_beginning(partition)


def skip_deleted(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> int:
    """Seek to the given offsets, or beyond deleted records; return the number of those.

    Retention deletes records whether or not they were read. An offset beyond the end means that the
    topic was deleted and created again: it is read from its beginning, and no record is missed.
    """
    seek_all(consumer, offsets)
    partitions = list(consumer.assignment())
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    missed = 0
    for partition in partitions:
        offset = offsets.get(partition, first[partition])
        if not first[partition] <= offset <= end[partition]:
            gone = max(first[partition] - offset, 0)
            warn(f"{partition.topic}-{partition.partition}: {gone} records are gone.")
            consumer.seek(partition, first[partition])
            missed += gone
    return missed


def read_again(
    consumer: KafkaConsumer, offsets: dict[TopicPartition, int], error: Exception
) -> None:
    """Report an error, and seek back to the offsets of what was processed before it."""
    warn(f"{type(error).__name__}: {error}. Trying again.")
    seek_all(consumer, offsets)
