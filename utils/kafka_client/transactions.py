"""Exactly once: a batch's answers and the offsets of its records are one Kafka transaction.

Consume-transform-produce as of KIP-98 and KIP-447. kafka-python 3.0.12 loses or repeats records
in some error paths, hence four rules, kept here and in producer.py and nowhere else
(tests/test_traps.py shows what happens without them):

- The group's metadata are taken right after the poll that returned the batch, and are used for it
  only if they are those of a member: the heartbeat may reset them to "no member" at any time, and
  the broker accepts such offsets unfenced.
- Before the offsets are sent, flush() and then check every send's future: a batch that timed out
  fails only its future, and an epoch bump during a commit makes the commit return without one.
- Offsets and commit get a time limit of their own: when the coordinator refuses the connection, the
  client drops the request and waits for its answer indefinitely (sender.py sets target_node before
  await_ready() raises, and then does not enqueue the request again).
- After any error of a transaction: a new producer with the same transactional id (which aborts what
  is left), then seek to the committed offsets. Not to the batch's start: a commit whose answer was
  lost may have happened.

And one rule for Kafka, which may forget to tell a partition how a transaction has ended: no
transaction follows another one before all markers of that are written
(utils/kafka_client/transaction_markers.py).
"""

import time
from collections.abc import Collection
from contextlib import suppress
from functools import partial

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import FencedInstanceIdError, KafkaError, RetriableError
from kafka.structs import ConsumerGroupMetadata

from utils.console import warn
from utils.kafka_client.batch import Batch, SizeLimits
from utils.kafka_client.confirming_producer import ConfirmingProducer
from utils.kafka_client.connection import is_reachable, require_reachable
from utils.kafka_client.group import is_replaced, join_group, leave_group
from utils.kafka_client.progress import Progress
from utils.kafka_client.resumption import Resumption
from utils.kafka_client.rights import Rights
from utils.kafka_client.security import Refused
from utils.process import Watchdog, health, reset_restarts, restart_process
from utils.telemetry import telemetry

CLOSE_TIMEOUT = 10  # seconds
STALL_TIMEOUT = 45  # seconds for calls of the client that have no limit of their own
RECOVERY_TIMEOUT = 60  # seconds of failures, while Kafka answers, until the process is restarted
JOIN_TIMEOUT = 0.5  # seconds that a poll waits at least while the group has no new generation yet
COMMIT_REPLIES_AFTER = 1.0  # seconds that the offsets of a poll with replies only may wait
REPLACED_CHECK_INTERVAL = 5.0  # seconds without records between checks who the member is
# What the client raises; besides its own errors, for example ValueError for a partition that was
# added a moment ago.
CLIENT_ERRORS = (KafkaError, ValueError, OSError, RuntimeError)
EXIT_FENCED = 3  # do not restart: another process does the work


class TransactionalStream:
    """A topic's records in batches; each batch is answered in one transaction, exactly once.

    `name` identifies this process: as transactional id, and as static member of the group
    (KIP-345), so that a restart gets its partitions back without a rebalance. `writes` are all
    topics that the answers go to. `own_records` says that no answers go to `topic` itself, so that
    checkpoints are records of their own there, with an empty value. Refused if a right to any of
    that is missing.
    """

    def __init__(
        self,
        topic: str,
        group_id: str,
        name: str,
        writes: tuple[str, ...],
        own_records: bool = False,
    ) -> None:
        self._own_records = own_records
        self.name = name
        self._group_id = group_id
        transactional_id = f"{group_id}-{name}"
        self._rights = Rights([topic], writes, group_id, transactional_id)
        self._open_producer = partial(
            ConfirmingProducer, transactional_id, SizeLimits(), group_id, writes
        )
        self._progress = Progress()
        self._failures = Failures()
        self._broken = False  # until the next poll recovers
        self._busy_at = time.monotonic()
        self._watchdog = Watchdog()
        with self._watchdog(STALL_TIMEOUT, "Kafka did not let the predictor start"):
            with self._rights.translate_errors():
                # First of all: it aborts a transaction that an earlier process of this name left.
                self._producer = self._open_producer()
                self._consumer = join_group(topic, group_id, name)
            self._consumer.skip_transactions_of(self._producer.identity.producer_id)
        extend = partial(self._watchdog.extend, STALL_TIMEOUT)
        self._resumption = Resumption(self._consumer, topic, group_id, extend)

    def poll(self, timeout: float = 0.5) -> Batch:
        """Return the next records (none after `timeout` seconds) and the counts before them."""
        try:
            with self._watchdog(STALL_TIMEOUT, "Kafka did not answer"):
                if self._broken:
                    self._recover()
                batch = self._read(self._producer.limit_wait(timeout))
                self._producer.confirm()
        except CLIENT_ERRORS as error:
            self._note_failure(error)
            batch = self._batch({}, None)
        if batch.by_partition:
            self._busy_at = time.monotonic()
        elif time.monotonic() - self._busy_at > REPLACED_CHECK_INTERVAL:
            self._stop_if_replaced()  # no transaction would tell: the client ignores it when idle
            self._busy_at = time.monotonic()
        return batch

    def _read(self, timeout: float) -> Batch:
        if self._consumer.is_joining():
            timeout = max(timeout, JOIN_TIMEOUT)
        records = self._consumer.poll(timeout_ms=int(timeout * 1000))
        group = self._consumer.group_metadata()
        positions = self._consumer.positions()
        progress = self._progress
        if group.generation_id < 0 or not group.member_id or self._consumer.is_joining():
            progress.forget()  # of what was read without a membership nothing is answered
            health.ready, telemetry.predictor.partitions = False, 0
            return self._batch({}, group)
        progress.enter(group.generation_id)
        health.ready, telemetry.predictor.partitions = True, len(positions)
        if went_back := progress.went_back(positions, records):
            self._recover(went_back)  # a log that was cut may lack the end of a transaction of ours
            return self._batch({}, group)
        resumed: set[TopicPartition] = set()
        if self._resumption.is_due(progress, positions.keys() | records.keys()):
            resumed = self._resumption.resume(progress)  # these are read again from there
            positions = self._consumer.positions()
        usable = progress.committed.keys() - resumed
        records = {partition: found for partition, found in records.items() if partition in usable}
        progress.note_positions(positions)
        return self._batch(records, group, progress.skipped(records, positions))

    def _batch(
        self,
        records: dict[TopicPartition, list[ConsumerRecord]],
        group: ConsumerGroupMetadata | None,
        skipped: dict[TopicPartition, int] | None = None,
    ) -> Batch:
        return Batch(records, group, self._progress.counts, self._producer.limits, skipped)

    def commit(self, batch: Batch) -> bool:
        """Send answers and offsets as one transaction; False if the batch has to be read again.

        A batch without answers opens no transaction: its offsets go with the next one, or after a
        second with one of their own.
        """
        if self._broken:
            return False
        progress = self._progress
        progress.uncommitted |= batch.positions
        waited = time.monotonic() - progress.committed_at
        if not progress.uncommitted or (not batch.outgoing and waited < COMMIT_REPLIES_AFTER):
            return True
        if batch.group is None or batch.group.generation_id != progress.generation:
            # Offsets of replies, read in an earlier membership: their new owner reads them again.
            progress.uncommitted.clear()
            return True
        try:
            with self._watchdog(STALL_TIMEOUT, "Kafka did not end a transaction"):
                checkpoints = self._add_checkpoints(batch)
                resumption = self._resumption
                offsets = progress.offsets(
                    batch.counts, checkpoints, resumption.topic_id, resumption.leader_epochs()
                )
                self._producer.send(batch.outgoing, offsets, batch.group)
        except CLIENT_ERRORS as error:
            telemetry.predictor.transactions_failed += 1
            self._note_failure(error)
            return False
        progress.note_commit(offsets, batch.counts, checkpoints)
        batch.note_committed()
        self._failures.reset()
        reset_restarts()
        return True

    def _add_checkpoints(self, batch: Batch) -> dict[TopicPartition, int]:
        """Add a checkpoint for each partition; return the offsets in those that found a place."""
        added = {}
        for partition in batch.by_partition:
            offset, count = batch.positions[partition], batch.counts[partition]
            checkpoint = self._resumption.checkpoint(offset, count)
            if self._own_records:
                place = {"topic": partition.topic, "partition": partition.partition, "key": b""}
                batch.outgoing.append(place | {"value": b""})
            if batch.add_checkpoint(partition, checkpoint):
                added[partition] = offset
        return added

    def has_committed(self, partition: TopicPartition, offset: int) -> bool:
        """Return True if this group has committed everything up to this offset; -1: always.

        What it has committed beyond the end of a log that was cut does not count.
        """
        with self._rights.translate_errors():
            committed = self._consumer.committed(partition, timeout_ms=10_000) or 0
            end = self._consumer.end_offsets([partition])[partition]
        return offset < committed <= end or offset < 0

    def _note_failure(self, error: Exception) -> None:
        """Make the next poll recover; Refused if that can't help."""
        if refused := self._rights.refusal(error):
            raise refused
        if not isinstance(error, RetriableError):  # of those, no fence is the reason
            self._stop_if_replaced(fenced=isinstance(error, FencedInstanceIdError))
        self._broken, health.ready = True, False
        self._progress.uncommitted.clear()
        self._failures.add(error)
        time.sleep(0.1)  # spares a broker that is just starting

    def _recover(self, was_cut: Collection[TopicPartition] = ()) -> None:
        """After an error: a new producer of the same id, then back to the committed offsets."""
        require_reachable()
        self._producer.close()
        self._producer = self._open_producer()
        self._consumer.skip_transactions_of(self._producer.identity.producer_id)
        self._progress.forget()
        self._resumption.resume(self._progress, was_cut)
        self._broken = False

    def _stop_if_replaced(self, fenced: bool = False) -> None:
        if fenced or is_replaced(self._consumer, self._group_id, self.name):
            warn(f"Another predictor with PREDICTOR_ID={self.name} has taken over; this one stops.")
            raise SystemExit(EXIT_FENCED)

    def close(self) -> None:
        """Leave the group at once, so that nobody waits for a timeout, and close the clients."""
        with self._watchdog(CLOSE_TIMEOUT, "Kafka did not let the predictor leave"):
            member_id = self._consumer.group_metadata().member_id
            with suppress(*CLIENT_ERRORS, Refused):  # the next process with this name reports it
                if not self._broken:
                    self._producer.confirm()
            self._producer.close()
            self._consumer.close(autocommit=False, timeout_ms=2_000)
            with suppress(KafkaError, Refused):  # then the session times out
                if member_id and is_reachable():
                    leave_group(self._group_id, self.name, member_id)


class Failures:
    """Consecutive failures: the first is reported, and after RECOVERY_TIMEOUT comes a restart."""

    def __init__(self) -> None:
        self._first_at = 0.0
        self._last_at = float("-inf")

    def add(self, error: Exception) -> None:
        """Report the first error; restart the process if Kafka answers and yet errors persist."""
        now = time.monotonic()
        if now - self._last_at > RECOVERY_TIMEOUT or not is_reachable():
            if now - self._last_at > RECOVERY_TIMEOUT:
                warn(f"Kafka: {error}. What was not committed is read and answered again.")
            self._first_at = now
        elif now - self._first_at > RECOVERY_TIMEOUT:
            restart_process(f"No transaction has succeeded for {RECOVERY_TIMEOUT} s ({error})")
        self._last_at = now

    def reset(self) -> None:
        """Note a success."""
        self._last_at = float("-inf")
