"""A consumer that no record can stop: neither one that can't be unpacked, nor very many bytes.

A broker takes records that kafka-python can't read, header names that are not UTF-8 for example.
kafka-python 3.0.12 then raises from poll(), and the next poll() at the same offset never returns:
one such record would end every reader of its topic. And fetch sizes bound what comes over the
network, compressed: unpacked, it may be a thousand times as much, more than one transaction can
answer in its time. What need not be unpacked at all, it can go past.
"""

import time
import traceback
from itertools import accumulate
from operator import attrgetter

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord, Fetcher

from utils.console import say, warn
from utils.kafka_client.connection import connection, is_reachable
from utils.kafka_client.records import Unreadable
from utils.kafka_client.rights import identity
from utils.settings import settings

_SIZES = attrgetter("serialized_key_size"), attrgetter("serialized_value_size")  # -1: no such thing
OFFLINE = 5.0  # seconds without a connection, after which a consumer asks whether it is let in
MAX_BYTES = 2**24  # of keys and values that one poll returns; at least one record, however large


class Consumer(KafkaConsumer):
    """KafkaConsumer, but poll() returns an `Unreadable` as value of what can't be unpacked.

    And it returns no more than MAX_BYTES: the rest is there at the next poll.
    """

    def poll(self, *arguments, **options) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records by partition; see KafkaConsumer.poll."""
        try:
            polled = super().poll(*arguments, **options)
        except Exception as error:  # the codecs' own kinds too
            place = _where_unpacking_failed(error)
            if place is None or place[0] not in self.assignment():
                raise
            partition, offset = place
            self.seek(partition, offset + 1)
            return {partition: [_unreadable_record(partition, offset, error)]}
        size = sum(sum(map(part, found)) for found in polled.values() for part in _SIZES)
        return polled if size <= MAX_BYTES else self._cut(polled)

    def positions(self) -> dict[TopicPartition, int]:
        """Return where the next poll() goes on, of the partitions where that is known already.

        Unlike position(), it asks nobody.
        """
        known = {p: state.position for p, state in self._subscription.assignment.items()}
        return {p: position.offset for p, position in known.items() if position is not None}

    def skip(self, producer_id: int) -> None:
        """Go past the transactions of this producer without unpacking them.

        Unpacking is the client's largest cost after sending, and a predictor's topic holds its own
        replies too. The client itself goes past batches of aborted transactions in this way;
        batches name their producer (KIP-98).
        """

        class OfOthers(Fetcher.PartitionRecords):
            def _is_batch_aborted(self, batch) -> bool:
                own = batch.is_transactional and batch.producer_id == producer_id
                return own or super()._is_batch_aborted(batch)

        self._fetcher.PartitionRecords = OfOthers

    def _cut(self, polled: dict[TopicPartition, list[ConsumerRecord]]) -> dict:
        """Keep what fits, and go back to the first record of each partition that does not."""
        kept, room = {}, MAX_BYTES
        for partition, records in polled.items():
            sizes = accumulate(map(_size, records))
            fit = sum(1 for size in sizes if size <= room)
            fit = max(fit, 0 if kept else 1)
            if fit < len(records):
                self.seek(partition, records[fit].offset)
            if fit:
                kept[partition] = records[:fit]
            room -= sum(map(_size, records[:fit]))
        return kept


def _size(record: ConsumerRecord) -> int:
    return max(record.serialized_key_size, 0) + max(record.serialized_value_size, 0)


def _where_unpacking_failed(error: Exception) -> tuple[TopicPartition, int] | None:
    """Return partition and offset of the record that raised, None if it was something else."""
    if "crc" in str(error):
        return None  # damaged on its way, perhaps: it is fetched again
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_unpack_records":
            unpacked = frame.f_locals["self"]
            # Of the batch of an unreadable record, what stands behind it can't be read either: each
            # fetch begins at the batch's first record, and gets no further than before.
            return unpacked.topic_partition, max(unpacked.next_fetch_offset, unpacked.fetch_offset)
    return None


def _unreadable_record(partition: TopicPartition, offset: int, error: Exception) -> ConsumerRecord:
    unknown = dict.fromkeys(ConsumerRecord._fields)
    known = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
    value = Unreadable(f"the record can't be unpacked: {error}")
    return ConsumerRecord(**unknown | known | {"value": value, "headers": [], "timestamp": -1})


class _Consumer(Consumer):
    """Its poll() raises Refused when Kafka lets us in no more; else it would wait for ever.

    Only once it has lost its connections: until then a changed password disturbs nobody. Of several
    consumers in one process the first one says that Kafka is away, or back.
    """

    _online = 0.0
    _away = False

    def poll(self, *arguments, **options) -> dict:
        records = super().poll(*arguments, **options)
        connections = list(self._client._manager._conns.values())
        if any(connection.connected for connection in connections):
            self._online = time.monotonic()
            if _Consumer._away:
                say("Kafka answers again.")
            _Consumer._away = False
        elif time.monotonic() - self._online > OFFLINE:
            self._online = time.monotonic()
            if not is_reachable() and not _Consumer._away:
                warn(f"Kafka does not answer at {settings.kafka_host} any more: waiting for it.")
                _Consumer._away = True
        return records


def make_consumer(**options) -> KafkaConsumer:
    """Return a consumer that reads committed records only, from the earliest, and never by itself
    commits an offset. It takes part in no group unless the options name one."""
    defaults = {
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    if "group_id" in options:
        identity["group"] = options["group_id"]
    consumer = _Consumer(**connection() | defaults | options)
    # kafka-python 3.0.12 does not hand the setting on: each consumer would wait 0.1 s at its start.
    consumer._cluster.config["retry_backoff_ms"] = consumer.config["retry_backoff_ms"]
    return consumer
