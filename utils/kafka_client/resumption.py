"""From which offset a member of a group reads its partitions on, whatever became of its offsets.

| the committed offset of the group                       | read on from                         |
|---------------------------------------------------------|--------------------------------------|
| has our metadata, and the partition its leader epoch    | the offset                           |
| has our metadata; Kafka was restarted since             | the offset, or a later checkpoint    |
| has no metadata: a tool has reset it                    | the offset, or a later checkpoint    |
| is missing: it expired or was deleted                   | the last checkpoint in the log       |
| is beyond the place where the log was cut               | the last checkpoint in the log       |
| is of another topic that had the same name              | the last checkpoint in the log       |

Without a checkpoint (utils/kafka_client/checkpoints.py) that is the beginning of the log. So a tool
can make the group skip records, but not process a record twice. The second line is for power cuts,
which may take the end of Kafka's own log of offsets and leave the partition's.

The count of a partition never decreases while the topic is the same one: the retrain requests that
were sent for a lost part of the log exist on another topic, and a batch id must not be used twice.
"""

from collections.abc import Callable, Collection, Set

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from utils.console import say, warn
from utils.kafka_client.checkpoints import Checkpoint, last_checkpoint
from utils.kafka_client.consumer import Consumer
from utils.kafka_client.progress import Progress, decode_metadata
from utils.kafka_client.topic_ids import TopicIdentity


class Resumption:
    """Lets a member of a group go on where the group has stopped, in the same topic or a new one.

    on_step : called at least twice a second while a log is searched, which may take a minute for
    some millions of records, or as long as another client's transaction is open.
    """

    def __init__(
        self, consumer: Consumer, topic: str, group_id: str, on_step: Callable[[], object]
    ) -> None:
        self._consumer, self._topic_name = consumer, topic
        self._group_id, self._on_step = group_id, on_step
        self._topic = TopicIdentity(consumer, topic)

    @property
    def topic_id(self) -> str | None:
        """The id of the topic that is read; None if Kafka has no ids."""
        return self._topic.id and str(self._topic.id)

    def is_due(self, progress: Progress, partitions: Set[TopicPartition]) -> bool:
        """Return True if the topic is a new one, or the progress of a partition is not known."""
        return self._topic.has_changed() or not partitions <= progress.committed.keys()

    def resume(self, progress: Progress, went_back: Collection[TopicPartition] = ()) -> None:
        """Ask Kafka for the progress of all assigned partitions, and seek there.

        went_back : the partitions whose logs were cut before the committed offset. KafkaError if
        Kafka can't tell now.
        """
        if self._topic.has_changed():
            warn(
                f"Topic {self._topic_name} was deleted and created again: it is read from its "
                "beginning, and its batches are counted anew."
            )
            self._topic.follow()
            went_back = ()
            progress.forget()
            went_back = ()
        counts = dict(progress.counts)
        progress.forget()
        for partition in self._consumer.assignment():
            committed = self._consumer.committed(partition, metadata=True, timeout_ms=10_000)
            offset, count = self._start(partition, committed, partition in went_back)
            progress.add(partition, offset, max(count, counts.get(partition, 0)))
            if committed is not None and offset == committed.offset:
                # With its leader epoch, by which the client notices that the log was cut.
                self._consumer._subscription.seek(partition, committed)
            else:
                self._consumer.seek(partition, offset)
                progress.uncommitted |= {partition: offset} if offset else {}

    def _start(
        self, partition: TopicPartition, committed: OffsetAndMetadata | None, was_cut: bool
    ) -> tuple[int, int]:
        """Return the offset to read on from and the count; see the table above."""
        metadata = decode_metadata(committed)
        ours = metadata is not None and metadata.topic_id in (None, self.topic_id)
        if ours and not was_cut and self._has_epoch(partition, committed.leader_epoch):
            return committed.offset, metadata.count
        usable = not was_cut and (ours or (committed is not None and metadata is None))
        known = committed.offset if usable else 0
        found, end = last_checkpoint(
            partition,
            self._group_id,
            self.topic_id,
            since=known if ours else 0,
            on_step=self._on_step,
        )
        offset = max(known, found.offset if found else 0)
        count = max(metadata.count if ours else 0, found.count if found else 0)
        self._report(partition, committed, offset, end if was_cut else None)
        return offset, count

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
                f"Kafka has lost records of {name}, which had been processed up to offset "
                f"{committed.offset if committed else offset} and ends at {end} now: going on at "
                f"{offset}, after the last checkpoint that is left."
            )
        elif offset and (committed is None or offset != committed.offset):
            say(
                f"The group {self._group_id} has no valid offset for {name}: going on at {offset}, "
                "after its last checkpoint there."
            )

    def leader_epochs(self) -> dict[TopicPartition, int]:
        """Return the leader epochs of the consumer's positions, as far as they are known."""
        states = self._consumer._subscription.assignment.items()
        known = {partition: state.position for partition, state in states}
        return {p: position.leader_epoch for p, position in known.items() if position is not None}

    def checkpoint(self, offset: int, count: int) -> Checkpoint:
        """Return the checkpoint for a partition of the topic."""
        return Checkpoint(self._group_id, self.topic_id, offset, count)
