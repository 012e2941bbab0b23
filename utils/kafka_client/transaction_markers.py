"""Makes sure that a transaction is ended on every partition, also when Kafka forgets one.

The transaction coordinator decides, commit or abort, and tells each partition by a marker (KIP-98).
A Kafka of one node that is killed in between never writes the markers that are missing: when it
starts again its partitions have no leader for a moment, and it treats them as deleted ("Couldn't
find leader endpoint ... can be skipped" in its log; KAFKA-20734, seen in 3.9, 4.1, 4.3 and 4.4).
Such a transaction hangs (KIP-664): readers of committed records never get past it, and it ends as
its producer's next transaction does, even if that is the opposite. So after every transaction,
before the next one begins, its producer checks that all markers are there, and writes those that
Kafka has forgotten.

To remove this on the day Kafka is fixed, delete this file, tests/test_transaction_markers.py and
tests/harness/forgetful_broker.py, with its test in tests/test_security.py and its paragraph in
docs/security.md. In transactions.py make a TransactionalProducer instead of the ConfirmingProducer,
without the group and the topics, and delete the calls of limit_wait() and confirm().
"""

import time
from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from kafka import TopicPartition
from kafka.admin import ProducerState, TransactionDescription, TransactionState
from kafka.errors import (
    KafkaTimeoutError,
    NoError,
    RetriableError,
    TopicAuthorizationFailedError,
    TransactionalIdNotFoundError,
    UnknownBrokerIdError,
    UnknownTopicOrPartitionError,
    for_code,
)
from kafka.producer.transaction_manager import ProducerIdAndEpoch
from kafka.protocol.producer.transaction import WriteTxnMarkersRequest
from kafka.structs import ConsumerGroupMetadata

from utils.console import warn
from utils.kafka_client.batch import SizeLimits
from utils.kafka_client.connection import make_admin
from utils.kafka_client.producer import Offsets, TransactionalProducer
from utils.kafka_client.rights import not_authorized
from utils.process import time_limit

OFFSETS_TOPIC = "__consumer_offsets"
CONFIRM_AFTER = 0.02  # seconds without records; a check at once would only slow the commit down
TIMEOUT = 5.0  # seconds for all markers to be written
INTERVAL = 0.001  # seconds between two checks
ERROR_INTERVAL = 0.05  # the same after an error: spares a Kafka that is just starting
# The coordinator has decided, and not yet written all markers.
UNDER_WAY = {
    TransactionState.PREPARE_COMMIT,
    TransactionState.PREPARE_ABORT,
    TransactionState.PREPARE_EPOCH_FENCE,
}
TRY_AGAIN = (RetriableError, UnknownBrokerIdError, TopicAuthorizationFailedError)


class ConfirmingProducer(TransactionalProducer):
    """A TransactionalProducer that checks whether its last transaction is ended everywhere.

    It writes to these topics and commits the offsets of this group. Call confirm() after each
    send(), before the next one.
    """

    def __init__(
        self, transactional_id: str, limits: SizeLimits, group_id: str, topics: tuple[str, ...]
    ) -> None:
        self.markers = TransactionMarkers(transactional_id, group_id, topics)
        self._unconfirmed: set[TopicPartition] | None = None  # where the last transaction went
        try:
            super().__init__(transactional_id, limits)
        except Exception:
            self.markers.close()
            raise

    def _begin(self) -> None:
        self.markers.complete()
        super()._begin()
        self.markers.complete(self.identity)

    def send(self, records: list[dict], offsets: Offsets, group: ConsumerGroupMetadata) -> None:
        """Send records and offsets in one transaction; see TransactionalProducer."""
        super().send(records, offsets, group)
        places = {(record["topic"], record["partition"]) for record in records}
        self._unconfirmed = {TopicPartition(*place) for place in places}

    def limit_wait(self, seconds: float) -> float:
        """Return how long the caller may wait for records before it calls confirm()."""
        return seconds if self._unconfirmed is None else min(seconds, CONFIRM_AFTER)

    def confirm(self) -> None:
        """Return when every partition knows how the last transaction has ended."""
        if self._unconfirmed is not None:
            with time_limit(TIMEOUT + 1, KafkaTimeoutError("the broker does not answer")):
                self.markers.complete(self.identity, self._unconfirmed)
            self._unconfirmed = None

    def close(self) -> None:
        """Close it at once; see TransactionalProducer."""
        super().close()
        self.markers.close()


class OpenTransaction(NamedTuple):
    """A transaction without a marker on one partition, and the node that leads the partition."""

    partition: TopicPartition
    producer: ProducerState
    leader: int


class TransactionMarkers:
    """The markers of a transactional id that writes to these topics and commits a group's offsets.

    They can be checked on the partitions that this client may READ.
    """

    def __init__(self, transactional_id: str, group_id: str, topics: tuple[str, ...]) -> None:
        self._transactional_id = transactional_id
        self._group_id = group_id
        self._topics = topics
        self._leaders: dict[TopicPartition, int] = {}
        self._unreadable: set[str] = set()
        self._all_found = False
        self._admin = make_admin()

    def complete(
        self,
        own: ProducerIdAndEpoch | None = None,
        partitions: Collection[TopicPartition] | None = None,
    ) -> None:
        """Return when every partition knows how the last transaction has ended.

        Call it before init_transactions(), which makes Kafka forget its last decision; then with
        the producer's `own` identity, for what init_transactions() has aborted; and after each
        commit, with the partitions written to (otherwise all readable ones are checked). Refused if
        a right to write missing markers is missing, KafkaError if Kafka can't tell in time.
        """
        deadline, problem = time.monotonic() + TIMEOUT, "some markers are missing"
        while time.monotonic() < deadline:
            try:
                if self._is_complete(own, partitions):
                    return
                time.sleep(INTERVAL)
            except TransactionalIdNotFoundError:
                return
            except TRY_AGAIN as error:
                problem = repr(error)
                self._all_found = False  # a partition may have moved
                time.sleep(ERROR_INTERVAL)
        raise KafkaTimeoutError(f"the last transaction has not ended everywhere: {problem}")

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def _is_complete(
        self, own: ProducerIdAndEpoch | None, partitions: Collection[TopicPartition] | None
    ) -> bool:
        """Check once, and write forgotten markers; return True if there is nothing to wait for."""
        if not (self._all_found and self._leaders.keys() >= self._readable(partitions)):
            self._find_partitions()
        producer_id = own.producer_id if own else self._describe().producer_id
        if not (found := self._open_transactions(producer_id, partitions)):
            return True
        last = self._describe()
        if own and (last.producer_id, last.producer_epoch) != (own.producer_id, own.epoch):
            return True  # another producer has taken over
        if last.state in UNDER_WAY:
            return False
        committed = last.state == TransactionState.COMPLETE_COMMIT
        if not committed and not (own and last.state == TransactionState.EMPTY):
            return True  # it is open, or becomes EMPTY in init_transactions()
        # Open both before and after the coordinator was seen to be done with it: forgotten.
        if hanging := found & self._open_transactions(producer_id, partitions):
            self._end(hanging, last, committed)
        return False

    def _readable(self, partitions: Collection[TopicPartition] | None) -> set[TopicPartition]:
        return {each for each in partitions or () if each.topic not in self._unreadable}

    def _find_partitions(self) -> None:
        """Find out which partitions can have markers, and which nodes lead them."""
        self._leaders, self._unreadable = {}, set()
        self._all_found, all_found = False, True
        for topic in self._admin.describe_topics([*self._topics, OFFSETS_TOPIC]):
            error = for_code(topic["error_code"])
            if error is UnknownTopicOrPartitionError:
                all_found = False  # Kafka creates the one for offsets with the first group
            elif error is TopicAuthorizationFailedError or "READ" not in _operations(topic):
                self._unreadable.add(topic["name"])
            elif error is NoError:
                self._leaders |= self._leaders_of(topic)
            else:
                raise error(f"{topic['name']} can't be described")
        self._all_found = all_found

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
        self, producer_id: int, partitions: Collection[TopicPartition] | None
    ) -> set[OpenTransaction]:
        by_leader = defaultdict(list)
        for partition, leader in self._leaders.items():
            if partitions is None or partition in partitions or partition.topic == OFFSETS_TOPIC:
                by_leader[leader].append(partition)
        return {
            OpenTransaction(partition, producer, leader)
            for leader, led in by_leader.items()
            for partition, state in self._admin.describe_producers(led, leader).items()
            for producer in state.active_producers
            if producer.producer_id == producer_id
            and producer.current_transaction_start_offset >= 0
        }

    def _end(
        self, hanging: set[OpenTransaction], last: TransactionDescription, committed: bool
    ) -> None:
        """Write the missing markers: all of them, or none if a right is missing."""
        names = sorted(f"{each.partition.topic}-{each.partition.partition}" for each in hanging)
        decision = "commit" if committed else "abort"
        text = f"Kafka has forgotten to {decision} the last transaction on {', '.join(names)}"
        missing = [f"READ topic {name}" for name in sorted(self._unreadable)]
        if "ALTER" not in _operations(self._admin.describe_cluster()):
            missing.append("ALTER the cluster")
        if missing:
            warn(f"{text}; this client lacks rights to end it there.")
            raise not_authorized(*missing)
        for transaction in hanging:
            self._write_marker(transaction, last, committed)
        warn(f"{text}: it is ended there now.")

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
        response = self._admin._manager.run(self._send, request, transaction.leader)
        error = for_code(response.markers[0].topics[0].partitions[0].error_code)
        if error is not NoError:
            raise error(f"no marker could be written on {topic}-{index}")

    async def _send(self, request: WriteTxnMarkersRequest, leader: int) -> object:
        return await self._admin._manager.send(request, node_id=leader)


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
