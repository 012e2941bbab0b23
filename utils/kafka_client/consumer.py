"""A consumer that survives records that it can't decode, very large ones, and Kafka's absence.

A broker accepts records that kafka-python can't decode, for example with header names that are not
UTF-8. kafka-python 3.0.12 then raises from poll(), and the next poll() at the same offset never
returns: one such record would stop every reader of its topic. Fetch sizes limit compressed bytes:
decompressed they may be a thousand times as many, which decompression.py and fetcher.py limit.
"""

import time
import traceback

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.record.abc import ABCRecordBatch

from utils.kafka_client.connection import connection, is_reachable, outage
from utils.kafka_client.decompression import BatchTooLarge, limit_batches
from utils.kafka_client.fetcher import LimitedFetcher
from utils.kafka_client.large_reads import read_large_portions
from utils.kafka_client.records import Unreadable
from utils.kafka_client.rights import Rights
from utils.kafka_client.stable_offset import StableOffsetWatch

METADATA_TIMEOUT_MS = 10_000
CHECK_AFTER = 5.0  # seconds without a connection, after which poll() checks whether Kafka answers

limit_batches()
read_large_portions()


class Consumer(KafkaConsumer):
    """A KafkaConsumer whose poll() returns an `Unreadable` as value of what it can't decode.

    That is one record, or the last record of a batch that is too large (BatchTooLarge), in place
    of all of them: whoever commits the offset after it has skipped the batch once and for all.
    """

    def __init__(self, *topics: str, **options) -> None:
        super().__init__(*topics, **options)
        self._fetcher.__class__ = LimitedFetcher  # there is no option for it
        # kafka-python 3.0.12 does not pass this on: each consumer would wait 0.1 s at its start.
        self._cluster.config["retry_backoff_ms"] = self.config["retry_backoff_ms"]
        self._connected_at = time.monotonic()
        self._stable_offsets = StableOffsetWatch()

    def poll(self, *arguments, **options) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return the next records by partition; see KafkaConsumer.poll.

        Refused if a right is missing, or if Kafka rejects the login after all connections are lost:
        a password that is changed while there is a connection has no effect on it.
        """
        try:
            polled = super().poll(*arguments, **options)
        except Exception as error:  # codecs raise errors of their own
            return self._skip_unreadable(error)
        self._watch_connections()
        self._stable_offsets.look(self._subscription.assignment)
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """Return the offsets that the next poll() reads from, as far as they are known.

        Unlike position(), it sends no request.
        """
        known = {p: state.position for p, state in self._subscription.assignment.items()}
        return {p: position.offset for p, position in known.items() if position is not None}

    def is_joining(self) -> bool:
        """Return True while this member of a group waits for a new generation.

        Then poll again at once, and for long enough: kafka-python 3.0.12 joins once more if the
        answer came between two polls (coordinator/base.py, join_group_async), which makes all
        members join once more, and so on.
        """
        return self._coordinator.need_rejoin()

    def refresh_metadata(self) -> None:
        """Ask Kafka for the metadata of this consumer's topics now; KafkaTimeoutError.

        topics() would not do: it asks for all topics, which makes the leader of a group rebalance.
        """
        update = self._cluster.request_update()
        self._net.run(self._manager.wait_for, update, METADATA_TIMEOUT_MS)

    def skip_transactions_of(self, producer_id: int) -> None:
        """Skip the transactions of this producer from now on, without decoding them.

        Decoding is the client's largest cost after sending, and a predictor's topic holds its own
        replies too. The client skips the batches of aborted transactions in the same way; a batch
        names its producer (KIP-98).
        """

        class OfOthers(LimitedFetcher.PartitionRecords):
            def _is_batch_aborted(self, batch) -> bool:
                own = batch.is_transactional and batch.producer_id == producer_id
                return own or super()._is_batch_aborted(batch)

        self._fetcher.PartitionRecords = OfOthers

    def _skip_unreadable(self, error: Exception) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Return a record for what can't be decoded, and seek beyond it; raise all other errors."""
        place = _where_decoding_failed(error)
        if place is None or place[0] not in self.assignment():
            raise self._refusal(error) or error
        partition, first, last = place
        self.seek(partition, last + 1)
        what = "the record" if first == last else f"the records at offsets {first} to {last}"
        reason = f"{what} can't be decoded: {error}"
        return {partition: [_unreadable_record(partition, last, reason)]}

    def _refusal(self, error: Exception) -> Exception | None:
        topics = {partition.topic for partition in self.assignment()} | (
            self.subscription() or set()
        )
        return Rights(read=topics, group_id=self.config["group_id"]).refusal(error)

    def _watch_connections(self) -> None:
        """Report an outage and its end; Refused if Kafka would not let this client in again."""
        now, connections = time.monotonic(), list(self._client._manager._conns.values())
        if any(connection.connected for connection in connections):
            self._connected_at = now
            outage.end()
        elif now - self._connected_at > CHECK_AFTER:
            self._connected_at = now
            if not is_reachable():
                outage.begin()


def _where_decoding_failed(error: Exception) -> tuple[TopicPartition, int, int] | None:
    """Return partition, first and last offset of what raised; None if it was something else."""
    if "crc" in str(error):
        return None  # perhaps damaged on its way: it is fetched again
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "_unpack_records":
            failed = frame.f_locals["self"]
            # The records behind it in its batch can't be read either: each fetch begins at the
            # batch's first record, and fails at the same one.
            first = last = max(failed.next_fetch_offset, failed.fetch_offset)
            if isinstance(error, BatchTooLarge):
                last = _last_offset(frame.f_locals["batch"])
            return failed.topic_partition, first, last
    return None


def _last_offset(batch: ABCRecordBatch) -> int:
    """Return the offset of a batch's last record, which is the base offset of the old formats."""
    return batch.last_offset if batch.magic >= 2 else batch.base_offset


def _unreadable_record(partition: TopicPartition, offset: int, reason: str) -> ConsumerRecord:
    unknown = dict.fromkeys(ConsumerRecord._fields)
    known = {"topic": partition.topic, "partition": partition.partition, "offset": offset}
    known |= {"value": Unreadable(reason), "headers": [], "timestamp": -1}
    return ConsumerRecord(**unknown | known)


def make_consumer(**options) -> Consumer:
    """Return a consumer that reads committed records only, from the earliest, and commits nothing
    by itself. It is a member of no group unless the options name one."""
    defaults = {
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    return Consumer(**connection() | defaults | options)
