"""A batch: what one poll brought, what is to be sent for it, and how many requests that answers."""

import hashlib
import json
from collections import defaultdict

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from utils.console import warn
from utils.kafka_client.records import Unreadable


class SizeLimits:
    """How large records of a topic may be: learned from refusals, as asking takes rights."""

    def __init__(self) -> None:
        self._refused: dict[str, int] = {}

    def learn(self, record: dict) -> None:
        """Note that this record was too large for its topic."""
        self._refused[record["topic"]] = min(
            _size(record), self._refused.get(record["topic"], 2**63)
        )

    def allow(self, record: dict) -> bool:
        """True if no record of this size, or a smaller one, was refused."""
        return (
            record["topic"] not in self._refused or _size(record) < self._refused[record["topic"]]
        )


def _size(record: dict) -> int:
    headers = sum(len(name) + len(value) for name, value in record.get("headers", ()))
    return len(record["key"] or b"") + len(record["value"] or b"") + headers


class Batch:
    """The records of one poll, in order, and what is to be sent in their transaction."""

    def __init__(
        self,
        records: dict[TopicPartition, list[ConsumerRecord]],
        group: ConsumerGroupMetadata | None,
        counts: dict[TopicPartition, int],
        limits: SizeLimits,
        skipped: dict[TopicPartition, int] | None = None,
    ) -> None:
        self.by_partition = records
        ends = {partition: found[-1].offset + 1 for partition, found in records.items()}
        self.positions = ends | (skipped or {})  # where to read on
        self._limits = limits
        self.group = group
        self.counts = dict(counts)  # requests answered up to the end of this batch
        self.outgoing: list[dict] = []

    @property
    def records(self) -> list[ConsumerRecord]:
        """All records of the batch."""
        return [record for records in self.by_partition.values() for record in records]

    def fits(self, record: dict) -> bool:
        """True if no record of this topic and of this size, or smaller, was refused."""
        return self._limits.allow(record)

    def send(self, topic: str, value: bytes | None, **options) -> None:
        """Send a record (key, headers, partition: see KafkaProducer.send) if the batch commits."""
        self.outgoing.append({"topic": topic, "value": value, **options})

    def reply(self, record: ConsumerRecord, value: bytes) -> None:
        """Answer a record where it came from: on its topic and partition, with its key.

        Without the key, where both together are too large for the topic.
        """
        reply = {
            "topic": record.topic,
            "value": value,
            "key": record.key,
            "partition": record.partition,
        }
        if record.key is not None and not self._limits.allow(reply):
            reply["key"] = None
        self.outgoing.append(reply)

    def dead_letter(self, record: ConsumerRecord, topic: str, reason: str) -> None:
        """Put a record aside, byte for byte, with where it came from and why in the headers.

        Where that is too large for the topic, or the record can't be read, the letter is empty and
        says where the record is; the headers of one too large have its value's size and digest.
        """
        facts = {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "reason": reason,
        }
        value = None if isinstance(record.value, Unreadable) else record.value
        # A record needs a key or a value; a tombstone without a key gets an empty key.
        key = b"" if record.key is None and value is None else record.key
        letter = {"topic": topic, "value": value, "key": key, "headers": _headers(facts)}
        if not self._limits.allow(letter):
            facts |= {"size": len(value or b""), "sha256": hashlib.sha256(value or b"").hexdigest()}
            letter |= {"value": None, "key": b"", "headers": _headers(facts)}
        self.send(**letter, partition=0)

    def count(self, answered: list[ConsumerRecord], every: int) -> list[tuple[int, ConsumerRecord]]:
        """Count answered requests; return (k, record) for each k-th `every` requests complete.

        k counts from 1 within the record's partition, over the partition's whole life.
        """
        borders, positions = [], defaultdict(list)
        for record in answered:
            positions[record.topic, record.partition].append(record)  # equals a TopicPartition
        for partition, records in positions.items():
            before = self.counts[partition]
            self.counts[partition] = before + len(records)
            for k in range(before // every + 1, self.counts[partition] // every + 1):
                borders.append((k, records[k * every - before - 1]))
        return borders


def _headers(facts: dict) -> list[tuple[str, bytes]]:
    return [(name, str(fact).encode()) for name, fact in facts.items()]


def encode_count(count: int) -> str:
    """Return the offset's metadata in which the number of answered requests travels."""
    return json.dumps({"v": 1, "count": count})


def decode_count(committed: OffsetAndMetadata | None) -> int:
    """Return the number of answered requests that travels with a partition's offset."""
    if committed is None or not committed.metadata:
        return 0
    try:
        return int(json.loads(committed.metadata)["count"])
    except (ValueError, KeyError, TypeError):
        warn(f"The offset's metadata {committed.metadata!r} has no count; counting from 0.")
        return 0
