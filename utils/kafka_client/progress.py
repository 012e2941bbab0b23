"""How far a member of a consumer group has come: offsets, and the counts that travel with them."""

import json
import time

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.structs import OffsetAndMetadata

from utils.console import warn


class Progress:
    """Offsets and counts of the partitions that a member has in one generation of its group."""

    def __init__(self) -> None:
        self.generation = -1
        self.counts: dict[TopicPartition, int] = {}  # requests answered and committed
        self.committed: dict[TopicPartition, int] = {}  # the offset to read on from
        self.uncommitted: dict[
            TopicPartition, int
        ] = {}  # the same, after what is not yet committed
        self.committed_at = time.monotonic()

    def forget(self) -> None:
        """Forget all partitions: Kafka has to be asked again."""
        for known in (self.counts, self.committed, self.uncommitted):
            known.clear()

    def enter(self, generation: int) -> None:
        """Forget all partitions if the group has a new generation, and with it new assignments."""
        if generation != self.generation:
            self.generation = generation
            self.forget()

    def add(self, partition: TopicPartition, committed: OffsetAndMetadata | None) -> None:
        """Note what the group has committed for a partition."""
        self.counts[partition] = decode_count(committed)
        self.committed[partition] = committed.offset if committed else 0

    def is_continued_by(self, records: dict[TopicPartition, list[ConsumerRecord]]) -> bool:
        """Return True if no record lies before the committed offset of its partition."""
        known = self.committed
        return all(p in known and found[0].offset >= known[p] for p, found in records.items())

    def skipped(
        self, records: dict[TopicPartition, list[ConsumerRecord]], positions: dict
    ) -> dict[TopicPartition, int]:
        """Return the positions beyond records that the consumer has skipped: own replies.

        They are committed too, so that a group that has answered everything has no lag.
        """
        quiet = (positions.keys() & self.committed.keys()) - records.keys()
        return {p: positions[p] for p in quiet if positions[p] > self.committed[p]}

    def offsets(self, counts: dict[TopicPartition, int]) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what to commit: the uncommitted offsets, and these counts as their metadata."""
        return {
            partition: OffsetAndMetadata(offset, encode_count(counts[partition]), -1)
            for partition, offset in self.uncommitted.items()
        }

    def note_commit(self, counts: dict[TopicPartition, int]) -> None:
        """Note that the uncommitted offsets and these counts are committed now."""
        self.counts = counts
        self.committed |= self.uncommitted
        self.uncommitted.clear()
        self.committed_at = time.monotonic()


def encode_count(count: int) -> str:
    """Return an offset's metadata with the number of requests answered up to that offset."""
    return json.dumps({"v": 1, "count": count})


def decode_count(committed: OffsetAndMetadata | None) -> int:
    """Return the number of answered requests in an offset's metadata; 0 if there is none."""
    if committed is None or not committed.metadata:
        return 0
    try:
        return int(json.loads(committed.metadata)["count"])
    except (ValueError, KeyError, TypeError):
        warn(f"The offset's metadata {committed.metadata!r} has no count; counting from 0.")
        return 0
