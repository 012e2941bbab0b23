"""A batch: what one poll brought, what is to be sent for it, and how many requests that answers."""

from collections import defaultdict

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.structs import ConsumerGroupMetadata


class Batch:
    """The records of one poll, in order, and what is to be sent in their transaction."""

    def __init__(
        self,
        records: dict[TopicPartition, list[ConsumerRecord]],
        group: ConsumerGroupMetadata | None,
        counts: dict[TopicPartition, int],
    ) -> None:
        self.by_partition = records
        self.group = group
        self.counts = dict(counts)  # requests answered up to the end of this batch
        self.outgoing: list[dict] = []

    @property
    def records(self) -> list[ConsumerRecord]:
        """All records of the batch."""
        return [record for records in self.by_partition.values() for record in records]

    def send(self, topic: str, value: bytes | None, **options) -> None:
        """Send a record (key, headers, partition: see KafkaProducer.send) if the batch commits."""
        self.outgoing.append({"topic": topic, "value": value, **options})

    def reply(self, record: ConsumerRecord, value: bytes) -> None:
        """Answer a record where it came from: on its topic and partition, with its key."""
        self.send(record.topic, value, key=record.key, partition=record.partition)

    def dead_letter(self, record: ConsumerRecord, topic: str, reason: str) -> None:
        """Put a record aside, byte for byte, with where it came from and why in the headers."""
        facts = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "reason": reason,
        }
        headers = [(name, str(fact).encode()) for name, fact in facts.items()]
        # A record needs a key or a value; a tombstone without a key gets an empty key.
        key = b"" if record.key is None and record.value is None else record.key
        self.send(topic, record.value, key=key, headers=headers, partition=0)

    def count(self, answered: list[ConsumerRecord], every: int) -> list[tuple[int, ConsumerRecord]]:
        """Count answered requests; return (k, record) for each k-th `every` requests complete.

        k counts from 1 within the record's partition, over the partition's whole life.
        """
        borders, positions = [], defaultdict(list)
        for record in answered:
            positions[TopicPartition(record.topic, record.partition)].append(record)
        for partition, records in positions.items():
            before = self.counts[partition]
            self.counts[partition] = before + len(records)
            for k in range(before // every + 1, self.counts[partition] // every + 1):
                borders.append((k, records[k * every - before - 1]))
        return borders
