"""kafka-python's fetcher with a limit on the memory of the records that one poll() returns.

kafka-python 3.0.12 limits their number and their compressed bytes. Decompressed, 4,000 records may
be gigabytes, even if each batch is within its own limits (decompression.py), and more than one
transaction can answer in time.
"""

from collections.abc import Iterator
from itertools import islice

from kafka import IsolationLevel, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.errors import CorruptRecordError
from kafka.future import Future
from kafka.record.abc import ABCRecordBatch
from kafka.record.memory_records import MemoryRecords

from utils.kafka_client.plain_records import record_of

MAX_BYTES = 2**24
_HEADER = 100  # bytes; a tuple, a name and a value


class LimitedFetcher(Fetcher):
    """Returns records until they take MAX_BYTES; the rest follows with the next poll().

    Invariant: in memory are at most MAX_BYTES of records, one more record, and one batch, which may
    be decoded in part.
    """

    _room = MAX_BYTES

    def fetched_records(self, *arguments, **options) -> tuple[dict, bool]:
        """Return records by partition; see Fetcher.fetched_records."""
        self._room = MAX_BYTES
        return super().fetched_records(*arguments, **options)

    async def _send_fetches_async(self) -> list[Future]:
        """Fetch nothing while records are here that poll() has not returned.

        kafka-python 3.0.12 then fetches the other partitions. Where those have nothing, Kafka waits
        for their next record, up to fetch_max_wait_ms, and it gets no other fetch meanwhile: the
        partition with the records would stand still. Kafka's own consumer had the same trap
        (KAFKA-17182).
        """
        if self._completed_fetches or self._next_partition_records:
            return []
        return await super()._send_fetches_async()

    def _append(self, drained: dict, part, max_records: int, update_offsets: bool) -> int:
        if part:
            part.room = self._room
        appended = super()._append(drained, part, max_records, update_offsets)
        if part:
            self._room = part.room
        # With max_records the caller is content. The part, not being drained, is its next one.
        return appended if self._room > 0 else max_records

    class PartitionRecords(Fetcher.PartitionRecords):
        """The records of one partition that were fetched, decoded one batch at a time."""

        room = MAX_BYTES

        def _unpack_records(
            self, partition: TopicPartition, records: MemoryRecords, *deserializers: None
        ) -> Iterator[ConsumerRecord]:
            """Yield the committed records, as kafka-python 3.0.12 does, in a third of the time."""
            while (batch := records.next_batch()) is not None:
                if self.check_crcs and not batch.validate_crc():
                    raise CorruptRecordError(f"{partition}, {batch.base_offset}: failed crc check")
                if not self._is_skipped(batch):
                    self.bytes_read += batch.size_in_bytes  # lets other partitions be next
                    for record in self._records_of(batch, partition):
                        self.next_fetch_offset = record.offset + 1
                        yield record
                if batch.magic >= 2:  # behind records that compaction has removed, too
                    self.next_fetch_offset = batch.next_offset
            self.drain()

        def _is_skipped(self, batch: ABCRecordBatch) -> bool:
            """Return whether a batch is a marker, or of an aborted transaction (KIP-98)."""
            if batch.magic < 2:
                return False
            self.leader_epoch = batch.leader_epoch
            committed = self.isolation_level == IsolationLevel.READ_COMMITTED
            if committed and batch.has_producer_id():
                self._consume_aborted_transactions_up_to(batch.last_offset)
                if self._contains_abort_marker(batch):
                    self.aborted_producer_ids.discard(batch.producer_id)
                elif self._is_batch_aborted(batch):
                    return True
            return batch.is_control_batch

        def _records_of(
            self, batch: ABCRecordBatch, partition: TopicPartition
        ) -> Iterator[ConsumerRecord]:
            return batch.records(partition) if batch.magic >= 2 else self._old(batch, partition)

        def _old(
            self, batch: ABCRecordBatch, partition: TopicPartition
        ) -> Iterator[ConsumerRecord]:
            """Yield records of the formats before Kafka 0.11, each of which has its own sum."""
            for record in batch:
                if self.check_crcs and not record.validate_crc():
                    raise CorruptRecordError(f"{partition}, {record.offset}: failed crc check")
                yield record_of(partition, self.leader_epoch, record)

        def take(self, n: int | None = None) -> list[ConsumerRecord]:
            """Return the next records, `n` at most; the last one is the first beyond the room."""
            self._maybe_raise_next_inline_exception()
            records, room = [], self.room
            try:
                for record in islice(self.record_iterator, n):
                    records.append(record)
                    room -= record.serialized_key_size + record.serialized_value_size
                    if record.headers:
                        room -= _HEADER * len(record.headers)
                    if room <= 0:
                        break
            except Exception as error:
                if isinstance(error, CorruptRecordError):
                    self.drain()  # nothing comes after it: it is fetched again
                if not records:
                    raise
                self._next_inline_exception = error  # raised by the next call
            self.room = room
            return records
