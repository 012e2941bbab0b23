"""From which offset a member of a group reads its partitions on, whatever became of its offsets.

| the committed offset of the group                       | read on from                         |
|---------------------------------------------------------|--------------------------------------|
| has our metadata, and the partition its leader epoch    | the offset                           |
| has our metadata; Kafka was restarted since             | the offset, or a later checkpoint    |
| has no metadata: a tool has reset it                    | the offset, or a later checkpoint    |
| is missing: it expired or was deleted                   | the last checkpoint in the log       |
| is beyond the place where the log was cut               | the last checkpoint in the log       |
| names a checkpoint that the log has lost                | the last checkpoint in the log       |
| is of another topic that had the same name              | the last checkpoint in the log       |

Without a checkpoint (utils/kafka_client/checkpoints.py) that is the beginning of the log. So a tool
can make the group skip records, but not process a record twice. The second line is for power cuts,
which may take the end of Kafka's own log of offsets and leave the partition's; the sixth for those
that take replies, but no request.

The count of a partition never decreases while the topic is the same one: the retrain requests that
were sent for a lost part of the log exist on another topic, and a batch id must not be used twice.
"""

import time
from collections.abc import Callable, Collection, Set
from operator import attrgetter

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from utils.console import say, warn
from utils.kafka_client.checkpoints import (
    BehindOpenTransaction,
    Checkpoint,
    Found,
    last_checkpoint,
)
from utils.kafka_client.consumer import Consumer
from utils.kafka_client.progress import Progress, decode_metadata
from utils.kafka_client.topic_ids import TopicIdentity

RETRY_INTERVAL = 5.0  # seconds between two searches of a log whose end can't be read yet


class Resumption:
    """Lets a member of a group go on where the group has stopped, in the same topic or a new one.

    on_step : called at least twice a second while a log is searched, which takes some seconds for a
    million records.
    """

    def __init__(
        self, consumer: Consumer, topic: str, group_id: str, on_step: Callable[[], object]
    ) -> None:
        self._consumer, self._topic = consumer, topic
        self._group_id, self._on_step = group_id, on_step
        self._identity = TopicIdentity(consumer, topic)
        self._waiting: set[TopicPartition] = set()  # their ends can't be read yet
        self._retry_at = 0.0

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that is read; None if Kafka has no ids."""
        return self._identity.id_of(self._topic)

    def is_due(self, progress: Progress, partitions: Set[TopicPartition]) -> bool:
        """Return True if the topic is a new one, or the progress of a partition is not known."""
        waiting = self._waiting if time.monotonic() < self._retry_at else set()
        return self._identity.has_changed() or not partitions <= progress.committed.keys() | waiting

    def resume(
        self, progress: Progress, was_cut: Collection[TopicPartition] = ()
    ) -> set[TopicPartition]:
        """Find out where to read on in the partitions whose progress is not known, and seek there.

        Returns these partitions. was_cut : those whose logs have lost what was read. A partition
        whose end can't be read yet stays paused and unknown; is_due() says when to try again.
        KafkaError if Kafka can't tell now.
        """
        if self._identity.follow():
            warn(
                f"Topic {self._topic} was deleted and created again: it is read from its "
                "beginning, and its batches are counted anew."
            )
            progress.forget_topic()
            was_cut = ()
        self._consumer.refresh_metadata()  # was a leader elected since the last commit?
        assigned = self._consumer.assignment()
        self._waiting, self._retry_at = set(), time.monotonic() + RETRY_INTERVAL
        self._consumer.pause(*assigned)
        unknown = assigned - progress.committed.keys()
        for partition in unknown:
            try:
                self._resume(partition, progress, partition in was_cut)
            except BehindOpenTransaction:
                self._waiting.add(partition)
        self._consumer.resume(*(self._consumer.assignment() - self._waiting))
        return unknown

    def _keep_membership(self) -> None:
        """Poll while a log is searched: all partitions are paused."""
        self._on_step()
        self._consumer.poll(timeout_ms=0)

    def _resume(self, partition: TopicPartition, progress: Progress, was_cut: bool) -> None:
        stored = self._consumer.committed(partition, metadata=True, timeout_ms=10_000)
        # A power cut may take the group's offset, and leave the partition's log.
        own = None if was_cut else progress.last_commits.get(partition)
        known = [each for each in (stored, own) if each is not None]
        committed = max(known, key=attrgetter("offset"), default=None)
        offset, count, checkpoint = self._start(partition, committed, was_cut)
        if partition not in self._consumer.assignment():
            return  # the group has a new generation since
        progress.add(partition, offset, count, checkpoint)
        if committed is not None and offset == committed.offset:
            # With its leader epoch, by which the client notices that the log was cut.
            self._consumer._subscription.seek(partition, committed)
        else:
            self._consumer.seek(partition, offset)
        if offset and (stored is None or offset != stored.offset):
            progress.uncommitted |= {partition: offset}

    def _start(
        self, partition: TopicPartition, committed: OffsetAndMetadata | None, was_cut: bool
    ) -> tuple[int, int, int]:
        """Return the offset to read on from, the count and the last checkpoint; see the table."""
        metadata = decode_metadata(committed)
        ours = metadata is not None and metadata.topic_id in (None, self.topic_id)
        if ours and not was_cut and self._has_epoch(partition, committed.leader_epoch):
            return committed.offset, metadata.count, metadata.checkpoint
        usable = not was_cut and (ours or (committed is not None and metadata is None))
        since = metadata.checkpoint if usable and ours else 0
        found = self._search(partition, since)
        if since and (found.checkpoint is None or found.checkpoint.offset < since):
            # The replies to what the group has committed are not there (unless retention has
            # deleted them, with their requests).
            was_cut, usable = (True, False) if found.begin <= since else (False, True)
            found = found if found.checkpoint or usable else self._search(partition, 0)
        checkpoint = found.checkpoint.offset if found.checkpoint else 0
        offset = max(committed.offset if usable else 0, checkpoint)
        count = max(
            metadata.count if ours else 0, found.checkpoint.count if found.checkpoint else 0
        )
        self._report(partition, committed, offset, found.end if was_cut else None)
        return offset, count, checkpoint

    def _search(self, partition: TopicPartition, since: int) -> Found:
        on_step = self._keep_membership
        return last_checkpoint(partition, self._group_id, self.topic_id, since, on_step)

    def _has_epoch(self, partition: TopicPartition, epoch: int) -> bool:
        """Return True if Kafka has elected no leader for the partition since the epoch."""
        current = self._consumer._cluster.leader_epoch_for_partition(partition)
        return epoch < 0 or current is None or current <= epoch

    def _report(
        self,
        partition: TopicPartition,
        committed: OffsetAndMetadata | None,
        offset: int,
        end: int | None,
    ) -> None:
        name = f"partition {partition.partition} of {partition.topic}"
        if end is not None:
            warn(
                f"Kafka has lost records of {name}, or the group's offset was reset: it is "
                f"{committed.offset if committed else offset}, and the log ends at {end} now. "
                f"Going on at {offset}, after the last checkpoint that is left."
            )
        elif offset and (committed is None or offset != committed.offset):
            say(
                f"The offset of the group {self._group_id} for {name} is missing, or is not its "
                f"last one: going on at {offset}, after its last checkpoint there."
            )

    def leader_epochs(self) -> dict[TopicPartition, int]:
        """Return the leader epochs of the consumer's positions, as far as they are known."""
        states = self._consumer._subscription.assignment.items()
        known = {partition: state.position for partition, state in states}
        return {p: position.leader_epoch for p, position in known.items() if position is not None}

    def checkpoint(self, offset: int, count: int) -> Checkpoint:
        """Return the checkpoint for a partition of the topic."""
        return Checkpoint(self._group_id, self.topic_id, offset, count)
