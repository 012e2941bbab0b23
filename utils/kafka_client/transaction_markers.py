"""Makes sure that a transaction is ended on every partition, also when Kafka forgets one.

The transaction coordinator decides, commit or abort, logs the decision, and tells each partition by
a marker (KIP-98). When all markers are written, it logs that the transaction is complete. It skips
partitions for which the metadata cache has no leader endpoint, as "likely deleted already"
(TransactionMarkerChannelManager.addTxnMarkersToBrokerQueue). In Kafka 4.3 the cache has none for a
partition without a leader either (KRaftMetadataCache.getPartitionLeaderEndpoint; its predecessor in
Scala let such a marker wait). When a single node that was killed starts again, its partitions have
no leader for a moment: markers of that moment are never written (KAFKA-20734). The transaction
hangs there (KIP-664): readers of committed records do not get past it, and it ends as its
producer's next transaction does, even if that is the opposite. So no transaction follows another
one before that has ended on every partition.

The invariant: a marker is written only for a transaction whose decision the coordinator has logged
as complete, for its very producer id and epoch, and which hung before and after that was seen.

- Ongoing: there is no decision yet. At a start, a request for a producer id makes the coordinator
  fence the owner and abort; unlike the second such request, which init_transactions() would send
  too, it leaves the decision in place (TransactionCoordinator.prepareInitProducerIdTransit).
- PrepareCommit, PrepareAbort: the coordinator is at work; its markers are waited for.
- CompleteCommit, CompleteAbort: it will write no more markers. What was open before this was seen
  and still is, was forgotten: the partition began it before the decision, and a later transaction
  would show as Ongoing. A commit keeps the epoch of its records, an abort may raise it by one.
- Empty, or what hangs was not seen before init_transactions(): the decision is not known, as after
  the death of a process between that call and its markers. Nothing is written; the error says that
  an administrator has to end it.

A twin, another process of the same name, can't come between. At a start, markers are written after
init_transactions(), which fences every older owner; after a commit they have this producer's epoch,
which a partition rejects as soon as it has seen a newer one (ProducerAppendInfo). The coordinator's
epoch in the marker fences nobody: it is the one that the partition knows. A coordinator that was
replaced and does not know it could answer with an older decision, but only where there is another
broker. So markers are written only where there is one; on several, what hangs is reported.

To remove this on the day Kafka is fixed, delete this file, transaction_view.py,
confirming_producer.py, tests/test_transaction_markers.py and tests/harness/forgetful_broker.py,
with its test in tests/test_security.py and its paragraphs in docs/security.md and
docs/operations.md. In transactions.py make a TransactionalProducer instead of the
ConfirmingProducer, without the group and the topics, and delete the calls of limit_wait() and
confirm().
"""

import time
from collections.abc import Callable
from typing import TypeVar

from kafka import TopicPartition
from kafka.admin import TransactionDescription, TransactionState
from kafka.errors import (
    ConcurrentTransactionsError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    RetriableError,
    TopicAuthorizationFailedError,
    TransactionalIdNotFoundError,
    UnknownBrokerIdError,
    for_code,
)
from kafka.producer.transaction_manager import ProducerIdAndEpoch
from kafka.protocol.producer.transaction import InitProducerIdRequest, WriteTxnMarkersRequest

from utils.console import warn
from utils.kafka_client.producer import TRANSACTION_TIMEOUT_MS
from utils.kafka_client.rights import not_authorized
from utils.kafka_client.transaction_view import (
    COMPLETE,
    Decision,
    OpenTransaction,
    TransactionView,
    names,
    operations,
)

PASS_TIMEOUT = 0.05  # seconds for the stable offsets to pass a transaction; usually 1 to 10 ms
PASS_INTERVAL = 0.001  # seconds between two looks at them
TIMEOUT = 5.0  # seconds to find out a decision, and to end what was forgotten
INTERVAL = 0.02  # seconds between two attempts at that
TRY_AGAIN = (RetriableError, UnknownBrokerIdError, TopicAuthorizationFailedError)
T = TypeVar("T")


class TransactionMarkers:
    """The markers of a transactional id that writes to these topics and commits a group's offsets.

    Open transactions are seen on the partitions that this client may READ.
    """

    def __init__(self, transactional_id: str, group_id: str, topics: tuple[str, ...]) -> None:
        self.view = TransactionView(transactional_id, group_id, topics)

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
        if not self.view.knows(written):
            return False
        stable = self.view.stable_offsets(written)
        if any(stable[partition] <= offset for partition, offset in written.items()):
            return False
        # It is not known which offset these are written to; but few producers write there.
        return not self.view.open_transactions(producer_id, self.view.offsets())

    def last_decision(
        self, own: ProducerIdAndEpoch | None = None, timeout: float = TIMEOUT
    ) -> Decision | None:
        """Wait until the coordinator has decided how the last transaction ends, and return that.

        own : the producer's identity; None before init_transactions(), where a transaction of the
        last owner is aborted. None if there is nothing to end: the id is new, or has another owner.
        KafkaTimeoutError if Kafka can't tell in time.
        """
        return self._retry(lambda: self._decision(own), timeout)

    def _decision(self, own: ProducerIdAndEpoch | None) -> Decision | None:
        try:
            last = self.view.describe()
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
            was_open = self.view.open_transactions(last.producer_id)
            if self.view.describe() == last:
                return Decision(last, was_open)
        raise ConcurrentTransactionsError(f"the last transaction is {last.state.value}")

    def _abort(self, last: TransactionDescription) -> None:
        """Let the coordinator fence the owner of a transaction and abort it."""
        request = InitProducerIdRequest(
            transactional_id=self.view.transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            producer_id=-1,
            producer_epoch=-1,
        )
        self.view.ask(request, last.coordinator_id)  # it answers: try again, or why it can't

    def require_means(self, decision: Decision | None) -> None:
        """Raise what end_forgotten() would raise, while Kafka still knows the decision."""
        if decision is not None and decision.was_open:
            self._has_means(decision, decision.was_open)

    def end_forgotten(self, decision: Decision | None, timeout: float = TIMEOUT) -> None:
        """Return when no partition has an open transaction; write the markers that were forgotten.

        Refused if a right to that is missing; KafkaError if the decision is not known, or if the
        cluster has several brokers and an administrator has to abort.
        """
        if decision is not None:
            self._retry(lambda: self._end_forgotten(decision), timeout)

    def _end_forgotten(self, decision: Decision) -> None:
        hanging = {
            each
            for each in self.view.open_transactions(decision.last.producer_id)
            if each.producer.producer_epoch <= decision.last.producer_epoch  # of no newer owner
        }
        if not hanging:
            return
        if not self._has_means(decision, hanging):
            return warn(f"{decision.forgotten(hanging)}; the next commit ends it.")
        for transaction in hanging:
            self._write_marker(transaction, decision)
        warn(f"{decision.forgotten(hanging)}: it is ended there now.")
        raise ConcurrentTransactionsError("the markers are written just now")  # look again

    def _has_means(self, decision: Decision, hanging: set[OpenTransaction]) -> bool:
        """Return True if markers may be written; False if what hangs is left to the next commit."""
        if not all(map(decision.covers, hanging)):
            raise KafkaError(
                f"a transaction hangs on {names(hanging)}, and Kafka no longer knows how it was "
                "to end; docs/operations.md says what to do"
            )
        text, cluster = decision.forgotten(hanging), self.view.admin.describe_cluster()
        if len(cluster["brokers"]) > 1 or self.view.has_several_brokers:
            if not decision.is_commit:
                raise KafkaError(f"{text}; docs/operations.md says what to do")
            return False
        missing = [f"READ topic {name}" for name in sorted(self.view.unreadable)]
        if "ALTER" not in operations(cluster):
            missing.append("ALTER the cluster")
        if missing:
            warn(f"{text}; this client lacks rights to end it there.")
            raise not_authorized(*missing)
        return True

    def close(self) -> None:
        """Close the connection."""
        self.view.admin.close()

    def _retry(self, attempt: Callable[[], T], timeout: float) -> T:
        deadline, problem = time.monotonic() + timeout, ""
        while time.monotonic() < deadline:
            try:
                self.view.find_partitions()  # they may have moved
                return attempt()
            except TRY_AGAIN as error:
                problem = repr(error)
                time.sleep(INTERVAL)
        raise KafkaTimeoutError(f"the last transaction has not ended everywhere: {problem}")

    def _write_marker(self, transaction: OpenTransaction, decision: Decision) -> None:
        topic, index = transaction.partition
        marker = WriteTxnMarkersRequest.WritableTxnMarker
        request = WriteTxnMarkersRequest(
            markers=[
                marker(
                    producer_id=decision.last.producer_id,
                    producer_epoch=decision.last.producer_epoch,
                    transaction_result=decision.is_commit,
                    topics=[marker.WritableTxnMarkerTopic(name=topic, partition_indexes=[index])],
                    coordinator_epoch=max(transaction.producer.coordinator_epoch, 0),
                )
            ]
        )
        response = self.view.ask(request, transaction.leader)
        error = for_code(response.markers[0].topics[0].partitions[0].error_code)
        if error is not NoError:
            raise error(f"no marker could be written on {topic}-{index}")
