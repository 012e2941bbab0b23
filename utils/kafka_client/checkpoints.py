"""Checkpoints: how far a consumer group has come, written into the partition that it reads.

Offsets that a group has committed expire, can be reset by a tool, and may lie beyond the end of a
log that a power cut has shortened. So the last record that a transaction writes to a partition of
the group's own topic has a checkpoint as its header: the offset to read on from and the number of
requests answered before it, as they are committed with that transaction.

Invariant: in a partition, a record lies before its reply, and the reply before or at the
checkpoint of its transaction. So for the last checkpoint in the log, with offset `o`:

- No record from `o` on has a reply in the log: it would have come with a later checkpoint.
- Every record before `o` was dealt with, and if the log has lost a record's reply, it has lost what
  came later too, that checkpoint included (power cut), or what came before too, the record
  included (retention).

Without any checkpoint nothing in the log has a reply: it is read from its beginning. That takes a
search of the whole log, at a group's first start too: what Kafka knows of a group, a transactional
id or a producer expires or can be deleted, so its absence does not say that there was none.

A transaction that writes nothing to a partition leaves no checkpoint there. What it dealt with, for
example records that got a dead letter and no reply, may be read again, never what got a reply.
"""

import json
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from typing import NamedTuple

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaError
from kafka.record.abc import ABCRecordBatch
from kafka.record.memory_records import MemoryRecords

from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.fetcher import LimitedFetcher
from utils.kafka_client.positions import all_partitions
from utils.kafka_client.progress import MAX_NUMBER
from utils.kafka_client.topic_ids import TopicIdentity
from utils.process import stopping

HEADER = "checkpoint"
FIRST_WINDOW = 1_000  # offsets; each further window is 4 times as large
PATIENCE = 1.0  # seconds without a new position
READER = {"max_poll_records": 10_000, "max_partition_fetch_bytes": 2**23, "fetch_max_wait_ms": 100}


@dataclass(frozen=True)
class Checkpoint:
    """How far a group has come in the partition that holds this."""

    group: str
    topic_id: str | None  # of the topic that was read: the header may come too late for it
    offset: int  # to read on from
    count: int  # requests answered before that offset

    def header(self) -> tuple[str, bytes]:
        """Return the header of a record that holds this checkpoint."""
        return HEADER, json.dumps(asdict(self)).encode()


def decode_checkpoint(record: ConsumerRecord) -> Checkpoint | None:
    """Return the checkpoint in a record, None if it has none or one that can't be true.

    Anybody may write such a header; it can declare only those records as dealt with that lie before
    its own one.
    """
    value = dict(record.headers).get(HEADER)
    with suppress(ValueError, TypeError, RecursionError):
        found = Checkpoint(**json.loads(value))
        numbers = (found.offset, found.count)
        valid = all(type(n) is int and 0 <= n < MAX_NUMBER for n in numbers)
        if valid and found.offset <= record.offset:
            return found
    return None


class Found(NamedTuple):
    """What a search has found in a log that reaches from `begin` to `end`."""

    checkpoint: Checkpoint | None
    begin: int
    end: int


class BehindOpenTransaction(KafkaError):
    """The end of a partition can't be read yet: a transaction is open there, or Kafka is away."""


def last_checkpoint(
    partition: TopicPartition,
    group: str,
    topic_id: str | None,
    since: int,
    on_step: Callable[[], object],
) -> Found:
    """Return the last checkpoint of a group in a partition.

    Ignores records before the offset `since`. Reads backwards in growing windows, each record at
    most once; calls `on_step` at least twice a second. BehindOpenTransaction if it can't read up to
    the end: a reply behind an open transaction may be there already. KafkaError if the topic is not
    the one with `topic_id`.
    """
    with closing(make_consumer(**READER)) as consumer:
        search = _Search(consumer, partition, group, topic_id, on_step)
        log_begin = consumer.beginning_offsets([partition])[partition]
        begin = max(since, log_begin)
        start = max(begin, consumer.end_offsets([partition])[partition] - FIRST_WINDOW)
        found, end = search.window(start, None)
        size = FIRST_WINDOW
        while found is None and start > begin:
            size *= 4
            start, stop = max(begin, start - size), start
            found, _ = search.window(start, stop)
        return Found(found, log_begin, end)


class _Search:
    def __init__(
        self,
        consumer: Consumer,
        partition: TopicPartition,
        group: str,
        topic_id: str | None,
        on_step: Callable[[], object],
    ) -> None:
        self._consumer, self._partition, self._on_step = consumer, partition, on_step
        self._group, self._topic_id = group, topic_id
        self._position, self._moved_at = -1, time.monotonic()
        all_partitions(consumer, partition.topic)  # brings the topic's id too
        self._identity = TopicIdentity(consumer, partition.topic)
        _skip_plain_records(consumer)
        consumer.assign([partition])

    def window(self, start: int, stop: int | None) -> tuple[Checkpoint | None, int]:
        """Return the last checkpoint from `start` to before `stop`, and `stop`.

        Without a `stop`: up to the end of the log, behind all open transactions.
        """
        found, consumer, partition = None, self._consumer, self._partition
        consumer.seek(partition, start)
        while stop is None or consumer.positions().get(partition, start) < stop:
            for record in consumer.poll(timeout_ms=200).get(partition, ()):
                if stop is None or record.offset < stop:
                    found = self._own(record) or found
            end = consumer.highwater(partition)  # None before the first fetch
            stop = end if stop is None else min(stop, stop if end is None else end)
            self._step(consumer.positions().get(partition, start))
        return found, stop

    def _own(self, record: ConsumerRecord) -> Checkpoint | None:
        found = decode_checkpoint(record)
        known = found is not None and (found.group, found.topic_id) == (self._group, self._topic_id)
        return found if known else None

    def _step(self, position: int) -> None:
        if stopping():
            raise SystemExit(0)
        if position != self._position:
            self._position, self._moved_at = position, time.monotonic()
        elif time.monotonic() - self._moved_at > PATIENCE:
            raise BehindOpenTransaction(f"{self._partition} can't be read beyond {position} now")
        topic = self._partition.topic
        if self._identity.id_of(topic) != self._topic_id or self._identity.has_changed():
            raise KafkaError(f"topic {topic} was deleted and created again")
        self._on_step()


def _skip_plain_records(consumer: Consumer) -> None:
    """Skip batches outside of transactions without decoding them: they hold no checkpoint."""

    class InTransactions(LimitedFetcher.PartitionRecords):
        def _unpack_records(self, partition, records, *deserializers):
            return super()._unpack_records(partition, _InTransactions(records), *deserializers)

    consumer._fetcher.PartitionRecords = InTransactions


class _InTransactions:
    """The batches of a response without those outside of transactions.

    The last batch is always there: the client reads on behind it.
    """

    def __init__(self, records: MemoryRecords) -> None:
        self._records = records

    def next_batch(self) -> ABCRecordBatch | None:
        batch = self._records.next_batch()
        while self._records.has_next() and not (batch.magic >= 2 and batch.is_transactional):
            batch = self._records.next_batch()
        return batch
