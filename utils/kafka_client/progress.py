"""How far a member of a consumer group has come: offsets, and the counts that travel with them."""

import json
import time
from contextlib import suppress
from typing import NamedTuple

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata


class Progress:
    """Offsets and counts of the partitions that a member has in one generation of its group."""

    def __init__(self) -> None:
        self.generation = -1
        self.counts: dict[TopicPartition, int] = {}  # requests answered and committed
        self.committed: dict[TopicPartition, int] = {}  # the offset to read on from
        self.uncommitted: dict[TopicPartition, int] = {}  # the same, to go with the next commit
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

    def add(self, partition: TopicPartition, offset: int, count: int) -> None:
        """Note from which offset on a partition is read, and how many requests it has answered."""
        self.counts[partition] = count
        self.committed[partition] = offset

    def went_back(
        self, positions: dict[TopicPartition, int], records: dict[TopicPartition, list]
    ) -> set[TopicPartition]:
        """Return the partitions that the client reads again from before their committed offset.

        It does so by itself if the log became shorter: its position lies beyond the end, or
        belongs to a leader epoch that ends before it (KIP-320).
        """
        read_from = positions | {partition: found[0].offset for partition, found in records.items()}
        # A poll that begins before the committed offset may end behind it, or bring no records.
        return {
            partition
            for partition, offset in self.committed.items()
            if min(read_from.get(partition, offset), positions.get(partition, offset)) < offset
        }

    def skipped(
        self, records: dict[TopicPartition, list], positions: dict
    ) -> dict[TopicPartition, int]:
        """Return the positions beyond records that the consumer has skipped: own replies.

        They are committed too, so that a group that has answered everything has no lag.
        """
        quiet = (positions.keys() & self.committed.keys()) - records.keys()
        return {p: positions[p] for p in quiet if positions[p] > self.committed[p]}

    def offsets(
        self, counts: dict[TopicPartition, int], topic_id: str | None, epochs: dict
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what to commit: the uncommitted offsets, with these counts as their metadata.

        epochs : of the partitions' leaders, -1 if unknown; by them the client notices a log that
        was cut meanwhile (KIP-320).
        """
        return {
            partition: OffsetAndMetadata(
                offset, encode_metadata(counts[partition], topic_id), epochs.get(partition, -1)
            )
            for partition, offset in self.uncommitted.items()
        }

    def note_commit(self, counts: dict[TopicPartition, int]) -> None:
        """Note that the uncommitted offsets and these counts are committed now."""
        self.counts = counts
        self.committed |= self.uncommitted
        self.uncommitted.clear()
        self.committed_at = time.monotonic()


class Metadata(NamedTuple):
    """What an offset that we have committed says about itself."""

    count: int  # requests answered up to that offset
    topic_id: str | None  # of the topic; None if Kafka has no ids, or in an earlier version


def encode_metadata(count: int, topic_id: str | None) -> str:
    """Return the metadata of an offset."""
    return json.dumps({"v": 1, "count": count, "topic_id": topic_id})


def decode_metadata(committed: OffsetAndMetadata | None) -> Metadata | None:
    """Return the metadata of an offset; None if there are none of ours.

    Tools that reset offsets write empty metadata.
    """
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        metadata = json.loads(committed.metadata)
        return Metadata(int(metadata["count"]), metadata.get("topic_id"))
    return None
