"""A batch: what one poll returned, what is sent for it, and how many requests that answers."""

from collections import defaultdict

import numpy as np
from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.structs import ConsumerGroupMetadata

from utils.kafka_client.checkpoints import Checkpoint
from utils.kafka_client.dead_letters import encode_letter
from utils.telemetry import telemetry


class SizeLimits:
    """How large a topic's records may be: learned from rejections, as asking takes more rights."""

    def __init__(self) -> None:
        self._rejected: dict[str, int] = {}  # by topic: the smallest size

    def learn(self, record: dict) -> None:
        """Note that this record was too large for its topic."""
        self._rejected[record["topic"]] = min(
            _size(record), self._rejected.get(record["topic"], 2**63)
        )

    def allow(self, record: dict) -> bool:
        """Return True if no record of this size or smaller was rejected."""
        return (
            record["topic"] not in self._rejected or _size(record) < self._rejected[record["topic"]]
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
        self.positions = ends | (skipped or {})  # the offsets to read on from
        self._limits = limits
        self.group = group
        self.counts = dict(counts)  # requests answered up to the end of this batch
        self.outgoing: list[dict] = []
        self.dead_letter_reasons: list[str] = []
        self.answered: list[ConsumerRecord] = []
        self._replies = self._borders = 0

    @property
    def records(self) -> list[ConsumerRecord]:
        """All records of the batch."""
        return [record for records in self.by_partition.values() for record in records]

    def fits(self, record: dict) -> bool:
        """Return True if the record's topic has rejected no record of its size or smaller."""
        return self._limits.allow(record)

    def send(self, topic: str, value: bytes | None, **options) -> None:
        """Send a record (key, headers, partition: see KafkaProducer.send) if the batch commits."""
        self.outgoing.append({"topic": topic, "value": value, **options})

    def reply(self, record: ConsumerRecord, value: bytes) -> None:
        """Answer a record on its topic and partition, with its key.

        Without the key if key and value together are too large for the topic.
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
        self._replies += 1

    def dead_letter(self, record: ConsumerRecord, topic: str, reason: str) -> None:
        """Put a record aside on a topic of dead letters (utils/kafka_client/dead_letters.py)."""
        self.outgoing.append(encode_letter(record, topic, reason, self.fits))
        self.dead_letter_reasons.append(reason)

    def add_checkpoint(self, partition: TopicPartition, checkpoint: Checkpoint) -> bool:
        """Put a checkpoint into the last record that goes to this partition.

        It loses its key if the record gets too large. False if there is no such record.
        """
        for record in reversed(self.outgoing):
            if (record["topic"], record.get("partition")) == partition:
                headers = [*record.get("headers", ()), checkpoint.header()]
                for option in ({"headers": headers}, {"headers": headers, "key": None}):
                    if self._limits.allow(record | option):
                        record |= option
                        return True
                return False
        return False

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
        self.answered += answered
        self._borders += len(borders)
        return borders

    def note_committed(self) -> None:
        """Count what this batch has done, for the metrics of this process."""
        timestamps = np.fromiter((record.timestamp for record in self.answered), float)
        numbers = telemetry.predictor
        numbers.add(timestamps, self._replies - len(timestamps), len(self.dead_letter_reasons))
        numbers.retrain_requests += self._borders
