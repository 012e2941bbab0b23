"""kafka-python's fetcher with a limit on the memory of the records that one poll() returns.

kafka-python 3.0.12 limits their number and their compressed bytes. Decompressed, 4,000 records may
be gigabytes, even if each batch is within its own limits (decompression.py), and more than one
transaction can answer in time.
"""

from itertools import islice

from kafka.consumer.fetcher import ConsumerRecord, Fetcher

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
