"""Which partitions a consumer outside of any group reads, and from where."""

from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, KafkaTimeoutError

from utils.console import warn
from utils.kafka_client.consumer import make_consumer
from utils.kafka_client.rights import raise_if_refused


def all_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return every partition of a topic, in order; KafkaError if the topic can't be found."""
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise KafkaError(f"topic {topic} has no partitions that can be read")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


def assign_all(consumer: KafkaConsumer, *topics: str) -> list[TopicPartition]:
    """Let a consumer read every partition of these topics, and return them."""
    partitions = [partition for topic in topics for partition in all_partitions(consumer, topic)]
    consumer.assign(partitions)
    return partitions


def read_from_now_on(*topics: str) -> KafkaConsumer:
    """Return a consumer of every partition of these topics, outside of any group, at their ends.

    What is sent once it has returned is read; KafkaTimeoutError if an end can't be known.
    """
    consumer = make_consumer()
    partitions = assign_all(consumer, *topics)
    consumer.seek_to_end(*partitions)
    for partition in partitions:
        if consumer.position(partition, timeout_ms=10_000) is None:
            raise KafkaTimeoutError(f"the end of {partition.topic} is not known")
    return consumer


def read_from(offsets: dict[TopicPartition, int], *topics: str) -> KafkaConsumer:
    """Return a consumer of every partition of these topics, outside of any group.

    It begins at the given offsets, and at the earliest where there is none.
    """
    consumer = make_consumer(
        max_poll_records=4_000,
        max_partition_fetch_bytes=2**23,
        auto_offset_reset="none",  # an error instead of a silent jump, see skip_deleted()
    )
    assign_all(consumer, *topics)
    go_to(consumer, offsets)
    return consumer


def records_up_to_now(consumer: KafkaConsumer) -> Iterator[ConsumerRecord]:
    """Yield what its partitions hold at this moment, from its positions on."""
    ends = consumer.end_offsets(list(consumer.assignment()))
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=200).values():
            yield from records


def go_to(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    """Set every position to its given offset, or to the beginning where there is none."""
    for partition in consumer.assignment():
        if partition in offsets:
            consumer.seek(partition, offsets[partition])
        else:
            consumer.seek_to_beginning(partition)


def skip_deleted(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> int:
    """Go to the given offsets, or on to the earliest there is; return how many records are gone.

    Retention deletes records whether or not the trainer has seen them. An offset beyond the end
    means that the topic has been made anew: it is read from its beginning, and nothing is missed.
    """
    go_to(consumer, offsets)
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


def recover(error: Exception, consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    """Report an error and go back to the offsets; Refused if waiting does not mend it."""
    raise_if_refused(error)
    warn(f"{type(error).__name__}: {error}. Trying again.")
    go_to(consumer, offsets)
