"""Reads topics from positions that its caller keeps, whatever happens to the topics.

Offsets number the records of one log. A topic that is deleted and created again has other logs
under the same names, and a log that lost its end in a power cut numbers new records as it numbered
the lost ones. So a position is more than an offset: it has the id of its topic (KIP-516) and the
leader epoch of the last record before it (KIP-101, KIP-320).

Invariant: the records that `Reader.poll` returns, and the positions with them, belong to the topic
id in those positions. kafka-python fetches by name, so nothing in a response says which topic it is
of. But an id is never used twice, and a broker that leads a partition knows of each change before
it serves the partition (BrokerMetadataPublisher.onMetadataUpdate: first the metadata cache, then
the logs). So the leaders are asked for the id after each poll with records: if it still is the id
that it was when the consumer was made, no other topic was read in between. After a change there is
a new consumer, which has no response to an earlier request.
"""

import time
from collections import defaultdict
from contextlib import suppress
from typing import NamedTuple

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
)
from kafka.protocol.metadata import MetadataRequest
from kafka.structs import OffsetAndMetadata

from utils.console import say, warn
from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.positions import assign_all
from utils.kafka_client.records import Position

CHECK_INTERVAL = 5.0  # seconds between looks for changed topics and added partitions
ANSWER_TIMEOUT_MS = 5_000


Positions = dict[TopicPartition, Position]


class Polled(NamedTuple):
    """What one poll returned."""

    records: dict[TopicPartition, list[ConsumerRecord]]
    positions: Positions  # to read on from; of other partitions too, if those had to change
    missed: int = 0  # records that Kafka deleted before they were read


class Reader:
    """Reads every partition of some topics, those that are added too, as a member of no group.

    Partitions without a position are read from their beginning. KafkaError if Kafka can't be asked
    about the topics; Refused as Consumer.poll.
    """

    def __init__(self, positions: Positions, *topics: str) -> None:
        self._topics = topics
        self._positions = _known(positions)
        self._consumer = self._open()
        # The ids of what the consumer reads: those of the positions, else the present ones.
        self._ids = topic_ids(self._consumer, topics) | _ids_of(self._positions)
        self._check_at = 0.0

    def _open(self) -> Consumer:
        consumer = make_consumer(
            max_poll_records=4_000,
            max_partition_fetch_bytes=2**23,
            metadata_max_age_ms=int(CHECK_INTERVAL * 1000),
            auto_offset_reset="none",  # an error instead of a silent jump, see _relocate()
        )
        for partition in assign_all(consumer, *self._topics):
            self._seek(consumer, partition)
        return consumer

    def _seek(self, consumer: Consumer, partition: TopicPartition) -> None:
        if (position := self._positions.get(partition)) is None:
            consumer.seek_to_beginning(partition)
        else:  # seek() takes no leader epoch
            place = OffsetAndMetadata(position.offset, "", position.leader_epoch)
            consumer._subscription.seek(partition, place)

    def poll(self, timeout: float = 0.5) -> Polled:
        """Return the next records (none after `timeout` seconds), and the positions behind them.

        The next call reads on from there; after an error, call return_to() first.
        """
        self._follow_partitions()
        records, failure = {}, None
        try:
            records = self._consumer.poll(timeout_ms=int(timeout * 1000))
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            failure = error
        if created_again := self._created_again(records, failure):
            polled = self._begin_anew(created_again)
        elif failure:
            polled = self._relocate(failure)
        else:
            ends = {partition: found[-1] for partition, found in records.items()}
            polled = Polled(records, {p: self._behind(last) for p, last in ends.items()})
        self._positions = self._positions | polled.positions
        return polled

    def return_to(self, positions: Positions) -> None:
        """Read on from these positions: what was polled behind them is returned again."""
        self._positions = _known(positions)
        self._ids |= _ids_of(self._positions)
        for partition in self._consumer.assignment():
            self._seek(self._consumer, partition)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close(timeout_ms=1_000)

    def _behind(self, last: ConsumerRecord) -> Position:
        epoch = -1 if last.leader_epoch is None else last.leader_epoch
        return Position(last.offset + 1, epoch, self._ids.get(last.topic, ""))

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
            self._seek(self._consumer, partition)

    def _created_again(self, records: dict, failure: KafkaError | None) -> dict[str, str]:
        """Return the new ids of topics that were deleted and created again.

        UnknownTopicOrPartitionError if that can't be said of a topic whose records were polled.
        """
        if not records and not failure:
            if time.monotonic() < self._check_at:
                return {}
            self._check_at = time.monotonic() + CHECK_INTERVAL
            with suppress(KafkaError):  # nothing was read, so nothing has to be certain
                return self._changed(topic_ids(self._consumer, self._topics))
            return {}
        found = topic_ids(self._consumer, self._topics)
        for topic in {partition.topic for partition in records} - found.keys():
            raise UnknownTopicOrPartitionError(f"the topic {topic} is being changed")
        return self._changed(found)

    def _changed(self, found: dict[str, str]) -> dict[str, str]:
        before = self._ids
        self._ids = found | {topic: each for topic, each in before.items() if each}
        return {t: new for t, new in found.items() if new and before.get(t) and before[t] != new}

    def _begin_anew(self, created_again: dict[str, str]) -> Polled:
        """Read these topics from their beginnings; what was polled of others is polled again."""
        for topic in created_again:
            warn(f"The topic {topic} was deleted and created again: reading it from its beginning.")
        kept = {p: each for p, each in self._positions.items() if p.topic not in created_again}
        self._positions = kept
        self._consumer.close(timeout_ms=1_000)
        self._consumer = self._open()
        self._ids |= created_again
        partitions = [p for p in self._consumer.assignment() if p.topic in created_again]
        first = self._consumer.beginning_offsets(partitions)
        begin = {p: Position(offset, -1, created_again[p.topic]) for p, offset in first.items()}
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
            elif new := _end_of_cut_log(place, cut.get(partition), end[partition]):
                moved[partition] = new
                _report_cut(partition, new.offset, place.offset)
        self._positions = self._positions | moved
        for partition in assigned:
            self._seek(self._consumer, partition)
        return Polled({}, moved, missed)


def _known(positions: Positions) -> Positions:
    return {TopicPartition(*partition): position for partition, position in positions.items()}


def _ids_of(positions: Positions) -> dict[str, str]:
    return {p.topic: position.topic_id for p, position in positions.items() if position.topic_id}


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


def topic_ids(consumer: Consumer, topics: tuple[str, ...]) -> dict[str, str]:
    """Return the ids of those topics whose leaders agree on it; "" from brokers without ids.

    Asks the leaders of the partitions, and no other broker: others may know of a change later than
    they do. KafkaError if one of them does not answer.
    """
    led: dict[int, set[str]] = defaultdict(set)
    for partition in consumer.assignment():
        leader = consumer._cluster.leader_for_partition(partition)
        if partition.topic in topics and leader not in (None, -1):
            led[leader].add(partition.topic)
    found = defaultdict(set)
    for node, names in led.items():
        for topic in _metadata(consumer, node, sorted(names)).topics:
            found[topic.name].add(None if topic.error_code else _as_text(topic.topic_id))
    return {topic: ids.pop() for topic, ids in found.items() if len(ids) == 1 and None not in ids}


def _metadata(consumer: Consumer, node: int, topics: list[str]):
    request = MetadataRequest(
        topics=[MetadataRequest.MetadataRequestTopic(name=topic) for topic in topics],
        allow_auto_topic_creation=False,
        include_cluster_authorized_operations=False,
        include_topic_authorized_operations=False,
    )
    answer = consumer._manager.send(request, node_id=node)
    return consumer._net.run(consumer._manager.wait_for, answer, ANSWER_TIMEOUT_MS)


def _as_text(topic_id) -> str:
    return str(topic_id) if topic_id and topic_id.int else ""
