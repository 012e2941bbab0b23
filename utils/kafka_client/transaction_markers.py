"""Makes sure that a transaction is ended on every partition, also when Kafka forgets one.

The transaction coordinator decides, commit or abort, logs the decision, and tells each partition by
a marker (KIP-98). When all markers are written, it logs that the transaction is complete. It skips
the partitions that are not in the metadata cache, as deleted ones are not
(TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue, "Couldn't find leader endpoint"). Since
Kafka 4.1 the cache says the same of a partition that has no leader
(KRaftMetadataCache.getPartitionLeaderEndpoint; its predecessor in Scala made the marker wait). A
single node that was killed has no leaders for a moment when it starts again: markers of that moment
are never written (KAFKA-20734). The transaction hangs there (KIP-664): readers of committed records
do not get past it, and it ends as its producer's next transaction does, even if that is the
opposite. So no transaction follows another one before that has ended on every partition.

The invariant: a marker is written only for a transaction whose decision the coordinator has logged
as complete, for its very producer id and epoch, and which hung before and after that was seen.

- Ongoing: there is no decision yet. At a start, a request for a producer id makes the coordinator
  fence the owner and abort; unlike the second such request, which init_transactions() would send
  too, it leaves the decision in place (TransactionCoordinator.prepareInitProducerIdTransit).
- PrepareCommit, PrepareAbort: the coordinator is at work; its markers are waited for.
- CompleteCommit, CompleteAbort: it will write no more markers. What was open before this was seen
  and still is, was forgotten: the partition began it before the decision, and a later transaction
  would show as Ongoing. A commit keeps the epoch of its records, an abort may raise it by one.
- Empty, or what hangs was not seen before init_transactions(): the decision is not known. Nothing
  is written; the error says that an administrator has to end it.

A twin, another process of the same name, can't come between. At a start, markers are written after
init_transactions(), which fences every older owner; after a commit they have this producer's epoch,
which a partition rejects as soon as it has seen a newer one (ProducerAppendInfo). A coordinator
that was replaced and does not know it could answer with an older decision; it needs a second
broker. So markers are written only where there is one; on several, what hangs is reported.

To remove this on the day Kafka is fixed, delete this file, tests/test_transaction_markers.py and
tests/harness/forgetful_broker.py, with its test in tests/test_security.py and its paragraph in
docs/security.md. In transactions.py make a TransactionalProducer instead of the ConfirmingProducer,
without the group and the topics, and delete the calls of limit_wait() and confirm().
"""

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import NamedTuple, TypeVar

from kafka import IsolationLevel, KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec, ProducerState, TransactionDescription, TransactionState
from kafka.errors import (
    ConcurrentTransactionsError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    RetriableError,
    TopicAuthorizationFailedError,
    TransactionalIdNotFoundError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.transaction_manager import ProducerIdAndEpoch
from kafka.protocol.producer.transaction import InitProducerIdRequest, WriteTxnMarkersRequest

from utils.console import warn
from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.connection import make_admin
from utils.kafka_client.producer import TRANSACTION_TIMEOUT_MS, TransactionalProducer
from utils.kafka_client.rights import not_authorized
from utils.process import time_limit

OFFSETS_TOPIC = "__consumer_offsets"
CONFIRM_AFTER = 0.02  # seconds without records; a check at once would only slow the commit down
PASS_TIMEOUT = 0.05  # seconds for the stable offsets to pass a transaction; usually 1 to 10 ms
PASS_INTERVAL = 0.001  # seconds between two looks at them
TIMEOUT = 5.0  # seconds to find out a decision, and to end what was forgotten
INTERVAL = 0.02  # seconds between two attempts at that
TRY_AGAIN = (RetriableError, UnknownBrokerIdError, TopicAuthorizationFailedError)
COMPLETE = {TransactionState.COMPLETE_COMMIT: True, TransactionState.COMPLETE_ABORT: False}
T = TypeVar("T")


class ConfirmingProducer(TransactionalProducer):
    """A TransactionalProducer that makes sure that its last transaction is ended everywhere.

    It writes to these topics and commits the offsets of this group. Call confirm() after each
    send(), before the next one.
    """

    def __init__(
        self, transactional_id: str, limits: SizeLimits, group_id: str, topics: tuple[str, ...]
    ) -> None:
        self.markers = TransactionMarkers(transactional_id, group_id, topics)
        self._unconfirmed: dict[TopicPartition, int] = {}  # the last offsets written to
        try:
            super().__init__(transactional_id, limits)
        except Exception:
            self.markers.close()
            raise

    def _begin(self) -> None:
        decision = self.markers.last_decision()  # Kafka forgets it in init_transactions()
        super()._begin()
        self.markers.end_forgotten(decision)

    def _check(self, records: list[dict], futures: list[FutureRecordMetadata]) -> None:
        super()._check(records, futures)
        for written in (future.value for future in futures):
            offset = max(written.offset, self._unconfirmed.get(written.topic_partition, -1))
            self._unconfirmed[written.topic_partition] = offset

    def limit_wait(self, seconds: float) -> float:
        """Return how long the caller may wait for records before it calls confirm()."""
        return min(seconds, CONFIRM_AFTER) if self._unconfirmed else seconds

    def confirm(self) -> None:
        """Return when the last transaction has ended on every partition; errors as the markers'."""
        if self._unconfirmed:
            with time_limit(2 * TIMEOUT + 1, KafkaTimeoutError("the broker does not answer")):
                if not self.markers.are_passed(self._unconfirmed, self.identity.producer_id):
                    self.markers.end_forgotten(self.markers.last_decision(self.identity))
            self._unconfirmed = {}

    def close(self) -> None:
        """Close it at once; see TransactionalProducer."""
        super().close()
        self.markers.close()


class OpenTransaction(NamedTuple):
    """A transaction without a marker on one partition, and the node that leads the partition."""

    partition: TopicPartition
    producer: ProducerState
    leader: int


class Decision(NamedTuple):
    """What the coordinator says of the last transaction, and where that was open before."""

    last: TransactionDescription
    was_open: set[OpenTransaction]

    def covers(self, transaction: OpenTransaction) -> bool:
        """Return True if it is logged as complete, and this transaction is the one it is about."""
        raised = self.last.producer_epoch - transaction.producer.producer_epoch
        may_raise = 0 if COMPLETE.get(self.last.state) else 1
        known = self.last.state in COMPLETE and transaction in self.was_open
        return known and 0 <= raised <= may_raise


class TransactionMarkers:
    """The markers of a transactional id that writes to these topics and commits a group's offsets.

    Open transactions are seen on the partitions that this client may READ.
    """

    def __init__(self, transactional_id: str, group_id: str, topics: tuple[str, ...]) -> None:
        self._transactional_id = transactional_id
        self._group_id = group_id
        self._topics = topics
        self._leaders: dict[TopicPartition, int] = {}
        self._unreadable: set[str] = set()
        self._admin = make_admin()

    def are_passed(self, written: dict[TopicPartition, int], producer_id: int) -> bool:
        """Wait a moment until the last stable offsets are beyond what a transaction has written.

        They never pass an open transaction, so its markers are there then. The cost does not depend
        on the number of producers, as that of describe_producers() does.
        """
        deadline = time.monotonic() + PASS_TIMEOUT
        try:
            while not (passed := self._are_passed(written, producer_id)):
                if time.monotonic() > deadline:
                    break
                time.sleep(PASS_INTERVAL)
        except TRY_AGAIN:
            return False
        return passed

    def _are_passed(self, written: dict[TopicPartition, int], producer_id: int) -> bool:
        # The topic of the offsets has few producers, and no offset of it is known.
        offsets = {each for each in self._leaders if each.topic == OFFSETS_TOPIC}
        if not (offsets or OFFSETS_TOPIC in self._unreadable) or written.keys() - self._leaders:
            return False  # a partition that is new
        stable = {}
        for leader, led in self._by_leader(written).items():
            request = KafkaAdminClient._list_partition_offsets_request(
                dict.fromkeys(led, OffsetSpec.LATEST), IsolationLevel.READ_COMMITTED.value
            )
            response = self._ask(request, leader)
            stable |= KafkaAdminClient._list_partition_offsets_process_response(response)
        if any(stable[partition].offset <= offset for partition, offset in written.items()):
            return False
        return not self._open_transactions(producer_id, offsets)

    def last_decision(self, own: ProducerIdAndEpoch | None = None) -> Decision | None:
        """Wait until the coordinator has decided how the last transaction ends, and return that.

        own : the producer's identity; None before init_transactions(), where a transaction of the
        last owner is aborted. None if there is nothing to end: the id is new, or has another owner.
        KafkaTimeoutError if Kafka can't tell in time.
        """
        return self._retry(lambda: self._decision(own))

    def _decision(self, own: ProducerIdAndEpoch | None) -> Decision | None:
        try:
            last = self._describe()
        except TransactionalIdNotFoundError:
            return None
        is_ongoing = last.state == TransactionState.ONGOING
        if own and (
            is_ongoing or (last.producer_id, last.producer_epoch) != (own.producer_id, own.epoch)
        ):
            return None
        if is_ongoing:
            self._abort(last)
        elif last.state == TransactionState.EMPTY or last.state in COMPLETE:
            was_open = self._open_transactions(last.producer_id, self._leaders)
            if self._describe() == last:
                return Decision(last, was_open)
        raise ConcurrentTransactionsError(f"the last transaction is {last.state.value}")

    def _abort(self, last: TransactionDescription) -> None:
        """Let the coordinator fence the owner of a transaction and abort it."""
        request = InitProducerIdRequest(
            transactional_id=self._transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            producer_id=-1,
            producer_epoch=-1,
        )
        self._ask(request, last.coordinator_id)  # it answers: try again, or why it can't

    def end_forgotten(self, decision: Decision | None) -> None:
        """Return when no partition has an open transaction; write the markers that were forgotten.

        Refused if a right to that is missing; KafkaError if the decision is not known, or if the
        cluster has several brokers and an administrator has to abort.
        """
        if decision is not None:
            self._retry(lambda: self._end_forgotten(decision))

    def _end_forgotten(self, decision: Decision) -> None:
        hanging = self._open_transactions(decision.last.producer_id, self._leaders)
        if not hanging:
            return
        if not all(map(decision.covers, hanging)):
            raise KafkaError(
                f"a transaction hangs on {_names(hanging)}, and Kafka no longer knows how it was "
                "to end; docs/operations.md says what to do"
            )
        if self._end(hanging, decision.last, COMPLETE[decision.last.state]):
            raise ConcurrentTransactionsError("the markers are written just now")  # look again

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def _retry(self, attempt: Callable[[], T]) -> T:
        deadline, problem = time.monotonic() + TIMEOUT, ""
        while time.monotonic() < deadline:
            try:
                self._find_partitions()  # they may have moved
                return attempt()
            except TRY_AGAIN as error:
                problem = repr(error)
                time.sleep(INTERVAL)
        raise KafkaTimeoutError(f"the last transaction has not ended everywhere: {problem}")

    def _find_partitions(self) -> None:
        """Find out which partitions can have markers, and which nodes lead them."""
        self._leaders, self._unreadable = {}, set()
        for topic in self._admin.describe_topics([*self._topics, OFFSETS_TOPIC]):
            error = for_code(topic["error_code"])
            if error is UnknownTopicOrPartitionError:
                continue  # Kafka creates the one for offsets with the first group
            if error is TopicAuthorizationFailedError or "READ" not in _operations(topic):
                self._unreadable.add(topic["name"])
            if error is NoError:
                self._leaders |= self._leaders_of(topic)
            elif error is not TopicAuthorizationFailedError:
                raise error(f"{topic['name']} can't be described")

    def _leaders_of(self, topic: dict) -> dict[TopicPartition, int]:
        name, partitions = topic["name"], topic["partitions"]
        if name == OFFSETS_TOPIC:
            mine = partition_of_group(self._group_id, len(partitions))
            partitions = [each for each in partitions if each["partition_index"] == mine]
        return {
            TopicPartition(name, each["partition_index"]): each["leader_id"] for each in partitions
        }

    def _describe(self) -> TransactionDescription:
        return self._admin.describe_transactions([self._transactional_id])[self._transactional_id]

    def _open_transactions(
        self, producer_id: int, partitions: Collection[TopicPartition]
    ) -> set[OpenTransaction]:
        """Return the producer's open transactions on those partitions that may be read."""
        readable = {each for each in partitions if each.topic not in self._unreadable}
        return {
            OpenTransaction(partition, producer, leader)
            for leader, led in self._by_leader(readable).items()
            for partition, state in self._admin.describe_producers(led, leader).items()
            for producer in state.active_producers
            if producer.producer_id == producer_id
            and producer.current_transaction_start_offset >= 0
        }

    def _by_leader(self, partitions: Collection[TopicPartition]) -> dict[int, list[TopicPartition]]:
        by_leader = defaultdict(list)
        for partition in partitions:
            by_leader[self._leaders[partition]].append(partition)
        return by_leader

    def _end(
        self, hanging: set[OpenTransaction], last: TransactionDescription, committed: bool
    ) -> bool:
        """Write the missing markers: all of them, or none. False: they are left to the next commit.

        Refused if a right is missing, KafkaError if they are to be left to an administrator.
        """
        decision = "commit" if committed else "abort"
        text = f"Kafka has forgotten to {decision} the last transaction on {_names(hanging)}"
        cluster = self._admin.describe_cluster()
        if len(cluster["brokers"]) > 1:
            if not committed:
                raise KafkaError(f"{text}; docs/operations.md says what to do")
            warn(f"{text}; the next commit ends it.")
            return False
        missing = [f"READ topic {name}" for name in sorted(self._unreadable)]
        if "ALTER" not in _operations(cluster):
            missing.append("ALTER the cluster")
        if missing:
            warn(f"{text}; this client lacks rights to end it there.")
            raise not_authorized(*missing)
        for transaction in hanging:
            self._write_marker(transaction, last, committed)
        warn(f"{text}: it is ended there now.")
        return True

    def _write_marker(
        self, transaction: OpenTransaction, last: TransactionDescription, committed: bool
    ) -> None:
        topic, index = transaction.partition
        marker = WriteTxnMarkersRequest.WritableTxnMarker
        request = WriteTxnMarkersRequest(
            markers=[
                marker(
                    producer_id=last.producer_id,
                    producer_epoch=last.producer_epoch,
                    transaction_result=committed,
                    topics=[marker.WritableTxnMarkerTopic(name=topic, partition_indexes=[index])],
                    coordinator_epoch=max(transaction.producer.coordinator_epoch, 0),
                )
            ]
        )
        response = self._ask(request, transaction.leader)
        error = for_code(response.markers[0].topics[0].partitions[0].error_code)
        if error is not NoError:
            raise error(f"no marker could be written on {topic}-{index}")

    def _ask(self, request: object, node: int) -> object:
        async def send() -> object:
            return await self._admin._manager.send(request, node_id=node)

        return self._admin._manager.run(send)


def _names(transactions: set[OpenTransaction]) -> str:
    return ", ".join(
        sorted(f"{each.partition.topic}-{each.partition.partition}" for each in transactions)
    )


def _operations(described: dict) -> Collection[str]:
    """Return the operations that this client may use on a topic or the cluster, if Kafka tells."""
    return described["authorized_operations"] or ()


def partition_of_group(group_id: str, partitions: int) -> int:
    """Return the partition of __consumer_offsets that holds a group's offsets.

    As Kafka computes it: abs(String.hashCode()) % partitions, in 32 bits.
    """
    encoded, value = group_id.encode("utf-16-be"), 0
    for high, low in zip(encoded[::2], encoded[1::2], strict=True):
        value = (31 * value + 256 * high + low) & 0xFFFFFFFF
    return min(value, 2**32 - value) % 2**31 % partitions
