"""Appends records to the batch that a producer has open, without KafkaProducer.send().

kafka-python 3.0.12's send() takes 13 us a record, of which encoding takes 2. The rest it does again
for each record: it looks up metadata, partition and transaction, estimates the size, takes locks,
and makes a future with two callbacks. That is the same for all records of a batch.
"""

from kafka import KafkaProducer, TopicPartition
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata


class SentRecord:
    """A record (the arguments of KafkaProducer.send) that was handed to the client.

    future : of the record, if send() returned it; else of its batch, where it has this index.
    """

    __slots__ = ("future", "index", "record")

    def __init__(
        self,
        record: dict,
        future: FutureRecordMetadata | FutureProduceResult,
        index: int | None = None,
    ) -> None:
        self.record, self.future, self.index = record, future, index

    def result(self) -> FutureRecordMetadata:
        """Return the future that send() returned, or would have returned."""
        if self.index is None:
            return self.future
        return FutureRecordMetadata(self.future, self.index, None, None, -1, -1, -1)

    def was_aborted(self) -> bool:
        """Return True if it has failed with the error of another record (ProducerBatch.abort)."""
        result = self.result()._produce_future.value
        return result is not None and result[0] == -1

    def rebind(self, future: FutureProduceResult, index: int) -> None:
        """Move to another batch; the client calls this when it splits one that is too large."""
        former, self.future, self.index = self.future, future, index
        former._latch.set()  # wakes up flush(), as FutureRecordMetadata.rebind() does


def append_to_open_batch(
    client: KafkaProducer, partition: TopicPartition, records: list[dict], start: int
) -> list[SentRecord]:
    """Append records[start:] to the last batch that waits to be sent to the partition.

    Stops at the first record that does not fit into it, goes to another partition or has no value;
    returns those before it. The caller sends that one by send(), and has sent records[start - 1] to
    this partition so: send() checks what holds for the whole batch, and any record that is larger
    than a batch.

    Invariant: while this lock is held, a batch in the queue has no result yet, or takes no more
    records. For the client closes a batch under this lock before it sends or fails it
    (record_accumulator.py). So each appended record has the result of its batch. Only for the
    thread that calls send(), flush() and close().
    """
    accumulator, appended = client._accumulator, []
    with accumulator._tp_lock(partition):
        queue = accumulator._batches.get(partition)
        batch = queue[-1] if queue else None
        # No slice: where each record goes to another partition, that would take quadratic time.
        for record in map(records.__getitem__, range(start, len(records) if batch else 0)):
            if (record["topic"], record.get("partition")) != partition or record["value"] is None:
                break
            metadata = batch.records.append(
                record.get("timestamp_ms"),
                record.get("key"),
                record["value"],
                record.get("headers"),
            )
            if metadata is None:
                break
            sent = SentRecord(record, batch.produce_future, metadata.offset)
            batch._record_futures.append(sent)
            appended.append(sent)
    return appended
