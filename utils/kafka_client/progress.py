"""How far a member of a consumer group has come: offsets, and the counts that travel with them."""

import json
import time
from contextlib import suppress
from typing import NamedTuple

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

MAX_NUMBER = 2**53  # of JSON's integers that every program reads exactly


class Progress:
    """Offsets and counts of the partitions that a member has in one generation of its group."""

    def __init__(self) -> None:
        self.generation = -1
        self.counts: dict[TopicPartition, int] = {}  # requests answered and committed
        self.committed: dict[TopicPartition, int] = {}  # the offset to read on from
        self.uncommitted: dict[TopicPartition, int] = {}  # the same, to go with the next commit
        self.checkpoints: dict[TopicPartition, int] = {}  # the offsets in the last checkpoints
        self.last_commits: dict[TopicPartition, OffsetAndMetadata] = {}  # in this generation
        self.least_counts: dict[TopicPartition, int] = {}  # of this topic: they never decrease
        self._reached: dict[TopicPartition, int] = {}  # the client's highest positions
        self.committed_at = time.monotonic()

    def forget(self) -> None:
        """Forget where to read on: Kafka has to be asked again."""
        self.least_counts |= self.counts
        for known in (self.counts, self.committed, self.uncommitted, self._reached):
            known.clear()

    def forget_topic(self) -> None:
        """Forget everything: there is another topic of the same name."""
        self.forget()
        self.least_counts.clear()
        self.last_commits.clear()

    def enter(self, generation: int) -> None:
        """Forget all partitions if the group has a new generation, and with it new assignments."""
        if generation != self.generation:
            self.generation = generation
            self.forget()
            self.last_commits.clear()

    def add(self, partition: TopicPartition, offset: int, count: int, checkpoint: int) -> None:
        """Note from which offset on a partition is read, and what was answered before that."""
        self.counts[partition] = max(count, self.least_counts.get(partition, 0))
        self.committed[partition] = self._reached[partition] = offset
        self.checkpoints[partition] = checkpoint

    def note_positions(self, positions: dict[TopicPartition, int]) -> None:
        """Note how far the client has read."""
        for partition in positions.keys() & self.committed.keys():
            self._reached[partition] = max(positions[partition], self._reached[partition])

    def went_back(
        self, positions: dict[TopicPartition, int], records: dict[TopicPartition, list]
    ) -> set[TopicPartition]:
        """Return the partitions that the client reads again from before what it had read.

        It does so by itself if the log became shorter: its position lies beyond the end, or
        belongs to a leader epoch that ends before it (KIP-320).
        """
        read_from = positions | {partition: found[0].offset for partition, found in records.items()}
        # A poll that begins before what was reached may end behind it, or bring no records.
        return {
            partition
            for partition, offset in self._reached.items()
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
        self,
        counts: dict[TopicPartition, int],
        checkpoints: dict[TopicPartition, int],
        topic_id: str | None,
        epochs: dict[TopicPartition, int],
    ) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return what to commit: the uncommitted offsets, with metadata.

        checkpoints : the new ones; epochs : of the partitions' leaders, -1 if unknown: by them the
        client notices a log that was cut meanwhile (KIP-320).
        """
        last = self.checkpoints | checkpoints
        return {
            p: OffsetAndMetadata(
                offset, encode_metadata(Metadata(counts[p], topic_id, last[p])), epochs.get(p, -1)
            )
            for p, offset in self.uncommitted.items()
        }

    def note_commit(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata],
        counts: dict[TopicPartition, int],
        checkpoints: dict[TopicPartition, int],
    ) -> None:
        """Note that these offsets, counts and checkpoints are committed now."""
        self.counts = counts
        self.committed |= self.uncommitted
        self.uncommitted.clear()
        self.checkpoints |= checkpoints
        self.last_commits |= offsets
        self.committed_at = time.monotonic()


class Metadata(NamedTuple):
    """What an offset that we have committed says about itself."""

    count: int  # requests answered up to that offset
    topic_id: str | None  # of the topic; None if Kafka has no ids, or in an earlier version
    checkpoint: int  # the offset in the partition's last checkpoint, 0 if it has none


def encode_metadata(metadata: Metadata) -> str:
    """Return the metadata of an offset, as text."""
    return json.dumps({"v": 1, **metadata._asdict()})


def decode_metadata(committed: OffsetAndMetadata | None) -> Metadata | None:
    """Return the metadata of an offset; None if there are none of ours.

    Tools that reset offsets write empty metadata.
    """
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        read = json.loads(committed.metadata)
        found = Metadata(read["count"], read.get("topic_id"), read.get("checkpoint", 0))
        if all(type(n) is int and 0 <= n < MAX_NUMBER for n in (found.count, found.checkpoint)):
            return found
    return None
