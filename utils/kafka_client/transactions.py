"""Exactly once: what one poll brought, the answers to it and its offsets are one Kafka transaction.

Consume-transform-produce as of KIP-98 and KIP-447. kafka-python 3.0.12 loses or repeats records
in some error paths, hence four rules, kept in this file and nowhere else:

- The group's metadata are taken right after the poll that brought the batch, and are used for it
  only if they are those of a member: the heartbeat may reset them to "no member" at any time, and
  the broker accepts such offsets unfenced.
- Before the offsets are sent, flush() and then look at every send's future: a batch that timed out
  fails only its future, and an epoch bump during a commit makes the commit return without one.
- Offsets and commit get a time limit of their own: when the coordinator's connection is refused,
  the client drops the request and waits for its answer for ever (sender.py sets target_node before
  await_ready() raises, and then does not enqueue the request again).
- After any error of a transaction: a new producer with the same transactional id (which aborts what
  is left), then back to the committed offsets - not to the batch's start, since a commit whose
  answer was lost may have happened.

And one rule for Kafka, which may forget to tell a partition how a transaction has ended: nothing
follows a transaction before all its markers are there (utils/kafka_client/transaction_markers.py).
"""

import time
from contextlib import suppress

from kafka import TopicPartition
from kafka.errors import (
    FencedInstanceIdError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
)
from kafka.producer.future import FutureRecordMetadata
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from utils.console import warn
from utils.kafka_client.batch import Batch, SizeLimits, decode_count, encode_count
from utils.kafka_client.connection import is_reachable, require_reachable
from utils.kafka_client.group import is_replaced, leave
from utils.kafka_client.rights import raise_if_refused
from utils.kafka_client.transaction_markers import TIMEOUT, TransactionMarkers
from utils.kafka_client.transactional_clients import discard, join, new_producer, own_id
from utils.process import Watchdog, reset_restarts, restart_process, time_limit

FLUSH_TIMEOUT = 4  # seconds; with the next one, below the transaction timeout
COMMIT_TIMEOUT = 4  # seconds
CLOSE_TIMEOUT = 10  # seconds
STALL_TIMEOUT = 45  # seconds without a bound in the client that the watchdog allows
RECOVERY_TIMEOUT = 60  # seconds of failures, with a broker there, until the process starts afresh
CONFIRM_AFTER = 0.02  # seconds without records; a look at once would only slow the commit's end
COMMIT_REPLIES_AFTER = 1.0  # seconds that offsets of a poll with replies only may wait
REPLACED_CHECK_INTERVAL = 5.0  # seconds without records between looks at who is the member
# What the client raises; besides its own errors, for example ValueError for a partition that was
# added a moment ago.
CLIENT_ERRORS = (KafkaError, ValueError, OSError, RuntimeError)
EXIT_FENCED = 3  # do not restart: another process does the work


class TransactionalStream:
    """A topic's records in batches; each batch is answered in one transaction, exactly once.

    `name` identifies this process: as transactional id, and as static member of the group
    (KIP-345), so that a restart gets its partitions back without a rebalance. `writes` are all
    topics that the answers go to.
    """

    def __init__(self, topic: str, group_id: str, name: str, writes: tuple[str, ...]) -> None:
        self.name = name
        self._transactional_id = f"{group_id}-{name}"
        self._group_id = group_id
        self._writes = writes
        self._unconfirmed: set[TopicPartition] | None = None  # where the last transaction went
        self._counts: dict[TopicPartition, int] = {}
        self._positions: dict[TopicPartition, int] = {}  # read, not yet committed
        self._committed: dict[TopicPartition, int] = {}  # of this generation, as _counts
        self._generation = -1
        self._limits = SizeLimits()
        self._committed_at = self._busy_at = time.monotonic()
        self._broken = False
        self._failing_since = 0.0  # the first of a row of failures
        self._failed_at = float("-inf")  # the last one
        self._watchdog = Watchdog()
        with self._watchdog(STALL_TIMEOUT, "Kafka did not let the predictor begin"):
            # First of all: it aborts a transaction that an earlier process of this name left open.
            self._make_producer()
            self._consumer = join(topic, group_id, name)
            self._consumer.skip(own_id(self._producer).producer_id)

    def poll(self, timeout: float = 0.5) -> Batch:
        """Return the next records (none after `timeout` seconds) and the counts they start from."""
        records, group, skipped = {}, None, {}
        try:
            with self._watchdog(STALL_TIMEOUT, "Kafka did not answer"):
                if self._broken:
                    self._begin_anew()
                if self._unconfirmed is not None:
                    timeout = min(timeout, CONFIRM_AFTER)
                records = self._consumer.poll(timeout_ms=int(timeout * 1000))
                group = self._consumer.group_metadata()
                positions = self._consumer.positions()
                if self._owns(records, group, positions):
                    skipped = self._skipped(records, positions)
                elif records:
                    self._rewind()
                    records = {}
                if self._unconfirmed is not None:
                    self._confirm_end()
        except CLIENT_ERRORS as error:
            self._break_off(error)
            records = {}
        if records:
            self._busy_at = time.monotonic()
        elif time.monotonic() - self._busy_at > REPLACED_CHECK_INTERVAL:
            self._stop_if_replaced()  # no transaction would tell: the client ignores it when idle
            self._busy_at = time.monotonic()
        return Batch(records, group, self._counts, self._limits, skipped)

    def _owns(self, records: dict, group: ConsumerGroupMetadata, positions: dict) -> bool:
        """True if this process is a member of the group and the records continue its offsets."""
        if group.generation_id < 0 or not group.member_id:
            return False
        if group.generation_id != self._generation:
            self._generation = group.generation_id
            self._forget_positions()
        for partition in positions.keys() - self._counts.keys():
            committed = self._consumer.committed(partition, metadata=True, timeout_ms=10_000)
            self._counts[partition] = decode_count(committed)
            self._committed[partition] = committed.offset if committed else 0
        known = self._committed
        return all(p in known and found[0].offset >= known[p] for p, found in records.items())

    def _skipped(self, records: dict, positions: dict) -> dict[TopicPartition, int]:
        """Return where partitions stand that brought own replies only: their lag is to be none."""
        quiet = (positions.keys() & self._committed.keys()) - records.keys()
        return {p: positions[p] for p in quiet if positions[p] > self._committed[p]}

    def commit(self, batch: Batch) -> bool:
        """Send answers and offsets as one transaction; False if the batch has to be read again.

        A batch without answers opens no transaction: its offsets go with the next one, after a
        second with one of their own.
        """
        if self._broken:
            return False
        self._positions |= batch.positions
        waited = time.monotonic() - self._committed_at
        if not self._positions or (not batch.outgoing and waited < COMMIT_REPLIES_AFTER):
            return True
        if batch.group is None or batch.group.generation_id != self._generation:
            # Offsets of replies, read in an earlier membership: their new owner reads them again.
            self._positions.clear()
            return True
        try:
            with self._watchdog(STALL_TIMEOUT, "Kafka did not end a transaction"):
                self._send(batch)
        except CLIENT_ERRORS as error:
            self._break_off(error)
            return False
        self._counts = batch.counts
        self._committed |= self._positions
        self._positions.clear()
        self._failed_at = float("-inf")
        self._committed_at = time.monotonic()
        self._unconfirmed = {
            TopicPartition(record["topic"], record["partition"]) for record in batch.outgoing
        }
        reset_restarts()
        return True

    def _send(self, batch: Batch) -> None:
        self._producer.begin_transaction()
        futures = self._put_all(batch.outgoing)
        self._producer.flush(FLUSH_TIMEOUT)
        failed = [
            pair for pair in zip(batch.outgoing, futures, strict=True) if not pair[1].succeeded()
        ]
        for record, future in failed:
            if isinstance(future.exception, MessageSizeTooLargeError):
                self._limits.learn(record)
        for _, future in failed:
            raise future.exception or KafkaTimeoutError("a record was not acknowledged")
        offsets = {
            partition: OffsetAndMetadata(offset, encode_count(batch.counts[partition]), -1)
            for partition, offset in self._positions.items()
        }
        with time_limit(COMMIT_TIMEOUT, KafkaTimeoutError("the broker did not answer a commit")):
            self._producer.send_offsets_to_transaction(offsets, batch.group)
            self._producer.commit_transaction()

    def _put_all(self, records: list[dict]) -> list[FutureRecordMetadata]:
        futures, send = [], self._producer.send
        try:
            for record in records:
                futures.append(send(**record))
        except MessageSizeTooLargeError:  # larger than max_request_size
            self._limits.learn(record)
            raise
        return futures

    def has_committed(self, partition: TopicPartition, offset: int) -> bool:
        """True if this group has committed everything up to this offset; True for offset -1."""
        committed = self._consumer.committed(partition, timeout_ms=10_000) or 0
        return committed > offset

    def _break_off(self, error: Exception) -> None:
        """Take note of an error; the next poll begins anew, for as long as the broker is away."""
        raise_if_refused(error)
        self._stop_if_replaced(fenced=isinstance(error, FencedInstanceIdError))
        self._broken = True
        self._positions.clear()
        now = time.monotonic()
        if now - self._failed_at > RECOVERY_TIMEOUT or not is_reachable():
            if now - self._failed_at > RECOVERY_TIMEOUT:
                warn(f"Kafka: {error}. What was not committed is read and answered again.")
            self._failing_since = now
        elif now - self._failing_since > RECOVERY_TIMEOUT:
            restart_process(f"No transaction works any more ({error})")
        self._failed_at = now
        time.sleep(0.1)  # spares a broker that is just starting

    def _begin_anew(self) -> None:
        """After an error: a new producer of the same id, then back to the committed offsets."""
        require_reachable()
        discard(self._producer)
        self._markers.close()
        self._make_producer()
        self._consumer.skip(own_id(self._producer).producer_id)
        self._rewind()
        self._broken = False

    def _make_producer(self) -> None:
        self._markers = TransactionMarkers(self._transactional_id, self._group_id, self._writes)
        self._producer = new_producer(self._transactional_id, self._markers)
        self._unconfirmed = None

    def _confirm_end(self) -> None:
        """Return when every partition knows how the last transaction has ended."""
        with time_limit(TIMEOUT + 1, KafkaTimeoutError("the broker does not answer")):
            self._markers.complete(own_id(self._producer), self._unconfirmed)
        self._unconfirmed = None

    def _rewind(self) -> None:
        """Go back to the committed offsets of every partition this process has now."""
        self._forget_positions()
        for partition in self._consumer.assignment():
            committed = self._consumer.committed(partition, timeout_ms=10_000)
            if committed is None:
                self._consumer.seek_to_beginning(partition)
            else:
                self._consumer.seek(partition, committed)

    def _forget_positions(self) -> None:
        for known in (self._counts, self._positions, self._committed):
            known.clear()

    def _stop_if_replaced(self, fenced: bool = False) -> None:
        if fenced or is_replaced(self._consumer, self._group_id, self.name):
            warn(f"Another predictor with PREDICTOR_ID={self.name} has taken over; this one stops.")
            raise SystemExit(EXIT_FENCED)

    def close(self) -> None:
        """Leave the group at once, so that nobody waits for a timeout, and close the clients."""
        with self._watchdog(CLOSE_TIMEOUT, "Kafka did not let the predictor leave"):
            member_id = self._consumer.group_metadata().member_id
            with suppress(*CLIENT_ERRORS):
                if self._unconfirmed is not None and not self._broken:
                    self._confirm_end()
            discard(self._producer)
            self._markers.close()
            self._consumer.close(autocommit=False, timeout_ms=2_000)
            with suppress(KafkaError):
                if member_id and is_reachable():
                    leave(self._group_id, self.name, member_id)
