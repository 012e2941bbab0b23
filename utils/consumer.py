"""A consumer that a record which can't be unpacked does not stop.

A broker takes records that kafka-python can't read, header names that are not UTF-8 for example.
kafka-python 3.0.12 then raises from poll(), and the next poll() at the same offset never returns:
one such record would end every reader of its topic.
"""

import traceback
from dataclasses import dataclass

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord


@dataclass(frozen=True)
class Unreadable:
    """Stands where the value of a record should be."""

    reason: str


class Consumer(KafkaConsumer):
    """KafkaConsumer, but poll() returns an `Unreadable` as value of what can't be unpacked."""

    def poll(self, *arguments, **options) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records by partition; see KafkaConsumer.poll."""
        try:
            return super().poll(*arguments, **options)
        except Exception as error:  # the codecs' own kinds too
            place = _where_unpacking_failed(error)
            if place is None or place[0] not in self.assignment():
                raise
            partition, offset = place
            self.seek(partition, offset + 1)
            return {partition: [_unreadable_record(partition, offset, error)]}


def _where_unpacking_failed(error: Exception) -> tuple[TopicPartition, int] | None:
    """Return partition and offset of the record that raised, None if it was something else."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_unpack_records":
            unpacked = frame.f_locals["self"]
            return unpacked.topic_partition, unpacked.next_fetch_offset
    return None


def _unreadable_record(partition: TopicPartition, offset: int, error: Exception) -> ConsumerRecord:
    unknown = dict.fromkeys(ConsumerRecord._fields)
    known = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
    value = Unreadable(f"the record can't be unpacked: {error}")
    return ConsumerRecord(**unknown | known | {"value": value, "headers": [], "timestamp": -1})
