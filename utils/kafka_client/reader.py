"""Reads topics from positions that its caller keeps, whatever happens to the topics.

Offsets number the records of one log. A topic that is deleted and created again has other logs
under the same names, and a log that lost its end in a power cut numbers new records as it numbered
the lost ones. So a position is more than an offset: it has the id of its topic (KIP-516) and the
leader epoch of the last record before it (KIP-101, KIP-320).

The records that `Reader.poll` returns, and the positions with them, belong to the topic id in those
positions; utils/kafka_client/topic_ids.py says why. A position of another id is not read from.
"""

from typing import NamedTuple

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError
from kafka.structs import OffsetAndMetadata

from utils.console import say, warn
from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.positions import assign_all
from utils.kafka_client.records import Position
from utils.kafka_client.topic_ids import TopicIdentity

CHECK_INTERVAL = 5.0  # seconds between looks for changed topics and added partitions
ENDS_TIMEOUT_MS = 2_000

Positions = dict[TopicPartition, Position]


class Polled(NamedTuple):
    """What one poll returned."""

    records: dict[TopicPartition, list[ConsumerRecord]]
    positions: Positions  # to read on from; of other partitions too, if those had to change
    missed: int = 0  # records that Kafka deleted before they were read


class Reader:
    """Reads every partition of some topics, those that are added too, as a member of no group.

    Partitions without a position are read from their beginning. KafkaError if a topic can't be
    found; Refused as Consumer.poll.
    """

    def __init__(
        self, positions: Positions, *topics: str, wait_ms: int = 100, most_records: int = 4_000
    ) -> None:
        """wait_ms : how long Kafka may collect records before it answers.

        most_records : that a poll returns.
        """
        self._topics = topics
        self._positions = _known(positions)
        self._consumer = make_consumer(
            max_poll_records=most_records,
            max_partition_fetch_bytes=2**23,
            # Kafka answers with 1 MB, or after a while. Nobody waits for these records, and reading
            # each one as it comes takes CPU that the predictor and Kafka need.
            fetch_min_bytes=2**20,
            fetch_max_wait_ms=wait_ms,
            metadata_max_age_ms=int(CHECK_INTERVAL * 1000),
            auto_offset_reset="none",  # an error instead of a silent jump, see _relocate()
        )
        self._asking: Consumer | None = None
        partitions = assign_all(self._consumer, *topics)
        self._identity = TopicIdentity(self._consumer, *topics)
        for partition in partitions:
            self._seek(partition)

    def _seek(self, partition: TopicPartition) -> None:
        if (position := self._positions.get(partition)) is None:
            self._consumer.seek_to_beginning(partition)
        else:  # seek() takes no leader epoch
            place = OffsetAndMetadata(position.offset, "", position.leader_epoch)
            self._consumer._subscription.seek(partition, place)

    def poll(self, timeout: float = 0.5) -> Polled:
        """Return the next records (none after `timeout` seconds), and the positions behind them.

        The next call reads on from there; after an error, call return_to() first.
        """
        self._follow_partitions()
        former = self._identity.follow() | self._former_topics()
        polled = self._begin_anew(former) if former else self._poll(timeout)
        self._positions = self._positions | polled.positions
        return polled

    def _poll(self, timeout: float) -> Polled:
        try:
            records = self._consumer.poll(timeout_ms=int(timeout * 1000))
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            if self._identity.has_changed():  # the next call begins anew
                return Polled({}, {})
            return self._relocate(error)
        return Polled(records, {p: self._behind(found[-1]) for p, found in records.items()})

    def return_to(self, positions: Positions) -> None:
        """Read on from these positions: what was polled behind them is returned again."""
        self._positions = _known(positions)
        for partition in self._consumer.assignment():
            self._seek(partition)

    def ends(self, stable: bool = False) -> dict[TopicPartition, int]:
        """Return the present end of every partition that is read, for has_read(); KafkaError.

        Behind an open transaction, records may wait that are no part of it: has_read() then waits
        for its end, which may take long. stable : only the ends of what can be read now.
        """
        if stable:
            return self._consumer.end_offsets(sorted(self._consumer.assignment()), ENDS_TIMEOUT_MS)
        if self._asking is None:
            # On the other one's connection Kafka answers behind a fetch that waits for records.
            self._asking = make_consumer(isolation_level="read_uncommitted")
        return self._asking.end_offsets(sorted(self._consumer.assignment()), ENDS_TIMEOUT_MS)

    def begins(self) -> dict[TopicPartition, int]:
        """Return the first offset that every partition still has; KafkaError."""
        return self._consumer.beginning_offsets(
            sorted(self._consumer.assignment()), ENDS_TIMEOUT_MS
        )

    def has_read(self, ends: dict[TopicPartition, int]) -> bool:
        """Return True if poll() has returned everything before these offsets."""
        positions = self._consumer.positions()  # unlike ours, behind the markers of transactions
        return all(positions.get(partition, -1) >= end for partition, end in ends.items())

    def close(self) -> None:
        """Close the consumers."""
        for consumer in filter(None, (self._consumer, self._asking)):
            consumer.close(timeout_ms=1_000)

    def _behind(self, last: ConsumerRecord) -> Position:
        epoch = -1 if last.leader_epoch is None else last.leader_epoch
        return Position(last.offset + 1, epoch, self._identity.id_of(last.topic) or "")

    def _follow_partitions(self) -> None:
        """Read the partitions that the topics have now, as far as this client knows them."""
        before, known = self._consumer.assignment(), self._consumer._cluster.partitions_for_topic
        wanted = {
            TopicPartition(topic, number)
            for topic in self._topics
            for number in known(topic) or {p.partition for p in before if p.topic == topic}
        }
        if wanted == before:
            return
        self._consumer.assign(sorted(wanted))
        for partition in sorted(wanted - before):
            say(f"Reading {partition.topic}-{partition.partition}, which was added.")
            self._seek(partition)

    def _former_topics(self) -> set[str]:
        """Return the names whose positions are of another topic than the one that is read."""
        ids = {topic: self._identity.id_of(topic) for topic in self._topics}
        known = {
            (p.topic, place.topic_id) for p, place in self._positions.items() if place.topic_id
        }
        return {topic for topic, each in known if ids.get(topic) not in (None, each)}

    def _begin_anew(self, topics: set[str]) -> Polled:
        """Read topics from their beginning: a new topic's offsets begin at 0."""
        for topic in sorted(topics):
            warn(f"The topic {topic} was deleted and created again: reading it from its beginning.")
        begin = {
            partition: Position(0, topic_id=self._identity.id_of(partition.topic))
            for partition in self._consumer.assignment()
            if partition.topic in topics
        }
        kept = {p: place for p, place in self._positions.items() if p.topic not in topics}
        self.return_to(kept | begin)
        return Polled({}, begin)

    def _relocate(self, failure: KafkaError) -> Polled:
        """Move the positions that their logs do not have any more."""
        assigned = self._consumer.assignment()
        places = {p: each for p, each in self._positions.items() if p in assigned}
        first = self._consumer.beginning_offsets(list(places))
        end = self._consumer.end_offsets(list(places))
        cut, missed, moved = getattr(failure, "divergent_offsets", {}), 0, {}
        for partition, place in places.items():
            if place.offset < first[partition]:
                missed += first[partition] - place.offset
                moved[partition] = place._replace(offset=first[partition], leader_epoch=-1)
                _report_deleted(partition, first[partition] - place.offset)
            elif partition in cut and cut[partition] is None:  # Kafka can't say where it was cut
                offset = min(place.offset, end[partition])
                moved[partition] = place._replace(offset=offset, leader_epoch=-1)
                _report_cut(partition, offset, place.offset)
            elif new := _end_of_cut_log(place, cut.get(partition), end[partition]):
                moved[partition] = new
                _report_cut(partition, new.offset, place.offset)
        self._positions = self._positions | moved
        for partition in assigned:
            self._seek(partition)
        return Polled({}, moved, missed)


def _known(positions: Positions) -> Positions:
    return {TopicPartition(*partition): position for partition, position in positions.items()}


def _end_of_cut_log(place: Position, cut: OffsetAndMetadata | None, end: int) -> Position | None:
    """Return where the part of a log that was read ends now; None if all of it is still there.

    cut : where the log begins to differ from what was read, if Kafka knows that. Otherwise it is
    the log's end: what was read before that must not be read twice, retrain requests are counted.
    """
    if cut is not None and cut.offset < place.offset:
        return place._replace(offset=cut.offset, leader_epoch=cut.leader_epoch)
    return place._replace(offset=end, leader_epoch=-1) if end < place.offset else None


def _report_deleted(partition: TopicPartition, records: int) -> None:
    warn(f"{partition.topic}-{partition.partition}: {records} records are gone, unread.")


def _report_cut(partition: TopicPartition, end: int, read: int) -> None:
    name = f"{partition.topic}-{partition.partition}"
    warn(f"{name}: Kafka lost {read - end} records that were read. Reading on at offset {end}.")
