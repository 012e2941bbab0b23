"""Consumers outside of any group: all partitions of a topic, from its end or up to it."""

from collections.abc import Iterator

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaTimeoutError, UnknownTopicOrPartitionError

from utils.kafka_client.consumer import Consumer, make_consumer


def all_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return every partition of a topic, in order.

    UnknownTopicOrPartitionError if there is none, for example while the topic is created again.
    """
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise UnknownTopicOrPartitionError(f"topic {topic} has no partitions that can be read")
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


def records_up_to_now(consumer: KafkaConsumer) -> Iterator[ConsumerRecord]:
    """Yield the records from the consumer's positions to the present ends of its partitions."""
    ends = consumer.end_offsets(list(consumer.assignment()))
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=200).values():
            yield from records
