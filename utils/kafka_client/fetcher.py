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
from kafka.record.abc import ABCRecord, ABCRecordBatch
from kafka.record.memory_records import MemoryRecords

from utils.kafka_client.decompression import Fields, fields_of

MAX_BYTES = 2**24
_HEADER = 100  # bytes; a tuple, a name and a value


class LimitedFetcher(Fetcher):
    """Returns records until they take MAX_BYTES; the rest follows with the next poll().

    Invariant: in memory are at most MAX_BYTES of records, one more record, and one batch.
    """

    _room = MAX_BYTES

    def fetched_records(self, *arguments, **options) -> tuple[dict, bool]:
        """Return records by partition; see Fetcher.fetched_records."""
        self._room = MAX_BYTES
        return super().fetched_records(*arguments, **options)

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
                    for fields in batch.fields() if batch.magic >= 2 else map(_checked, batch):
                        self.next_fetch_offset = fields[0] + 1
                        yield _record(partition, self.leader_epoch, fields)
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

        def take(self, n: int | None = None) -> list[ConsumerRecord]:
            """Return the next records, `n` at most; the last one is the first beyond the room."""
            self._maybe_raise_next_inline_exception()
            records = []
            try:
                for record in islice(self.record_iterator, n):
                    records.append(record)
                    self.room -= record.serialized_key_size + record.serialized_value_size
                    self.room -= _HEADER * len(record.headers)
                    if self.room <= 0:
                        break
            except Exception as error:
                if not records:
                    raise
                self._next_inline_exception = error  # raised by the next call
            return records


def _checked(record: ABCRecord) -> Fields:
    """Return the fields of a record of the formats before Kafka 0.11, each of which has a sum."""
    if not record.validate_crc():
        raise CorruptRecordError(f"the record at offset {record.offset} failed crc check")
    return fields_of(record)


def _record(partition: TopicPartition, leader_epoch: int, fields: Fields) -> ConsumerRecord:
    _, _, _, key, value, headers, _ = fields
    sizes = -1 if key is None else len(key), -1 if value is None else len(value)
    of_headers = sum(map(_size_of_header, headers)) if headers else -1
    # ConsumerRecord() itself would take twice as long.
    return tuple.__new__(ConsumerRecord, (*partition, leader_epoch, *fields, *sizes, of_headers))


def _size_of_header(header: tuple[str, bytes | None]) -> int:
    name, content = header
    return len(name.encode()) + len(content or b"")
