"""Sees to it that a transaction is ended on every partition, also where Kafka forgets one.

What the transaction coordinator has decided, commit or abort, it tells each partition with a marker
(KIP-98). A Kafka of one node that is killed in between never writes the markers that are missing:
when it starts again its partitions have no leader for a moment, and it takes them for deleted
("Couldn't find leader endpoint ... can be skipped" in its log; KAFKA-20734, seen in 3.9, 4.1, 4.3
and 4.4). Such a transaction hangs (KIP-664): who reads committed records never gets past it, and
whatever becomes of its producer's next transaction becomes of it too, be that the opposite. So
after every transaction, before the next one begins, its producer looks whether all markers are
there, and writes those that Kafka has forgotten.
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

from utils.console import warn
from utils.kafka_client.connection import make_admin
from utils.kafka_client.rights import not_allowed

OFFSETS_TOPIC = "__consumer_offsets"
TIMEOUT = 5.0  # seconds for the markers to be there
INTERVAL = 0.001  # seconds between two looks
ERROR_INTERVAL = 0.05  # the same after an error: spares a Kafka that is just starting
# The coordinator has decided, and not yet written all markers.
UNDER_WAY = {
    TransactionState.PREPARE_COMMIT,
    TransactionState.PREPARE_ABORT,
    TransactionState.PREPARE_EPOCH_FENCE,
}
TRY_AGAIN = (RetriableError, UnknownBrokerIdError, TopicAuthorizationFailedError)


class OpenTransaction(NamedTuple):
    """A transaction that has no marker yet on one partition, and which node leads that."""

    partition: TopicPartition
    producer: ProducerState
    leader: int


class TransactionMarkers:
    """The markers of a transactional id that writes to these topics and commits a group's offsets.

    They are looked for on the partitions that this client may READ.
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

        Call it before a producer begins, which makes Kafka forget what it has decided before; then
        with its `own` id to see to what its beginning has aborted; and after each of its commits,
        with the partitions it has written to (else all are looked at, if they can be). Refused
        where the right to mend it is missing, KafkaError if Kafka can't tell in time.
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
        raise KafkaTimeoutError(f"the last transaction is not ended everywhere: {problem}")

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def _is_complete(
        self, own: ProducerIdAndEpoch | None, partitions: Collection[TopicPartition] | None
    ) -> bool:
        """Look once, and write what is missing for good; True if there is nothing to wait for."""
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
            return True  # it is open, or becomes Empty when a producer begins
        # Open both before and after the coordinator was seen to have done with it: forgotten.
        if hanging := found & self._open_transactions(producer_id, partitions):
            self._end(hanging, last, committed)
        return False

    def _readable(self, partitions: Collection[TopicPartition] | None) -> set[TopicPartition]:
        return {each for each in partitions or () if each.topic not in self._unreadable}

    def _find_partitions(self) -> None:
        """Find out where there can be markers, and whom to ask for them."""
        self._leaders, self._unreadable = {}, set()
        self._all_found, all_found = False, True
        for topic in self._admin.describe_topics([*self._topics, OFFSETS_TOPIC]):
            error = for_code(topic["error_code"])
            if error is UnknownTopicOrPartitionError:
                all_found = False  # Kafka makes the one for offsets when there is a group
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
        """Write the markers that are missing, all of them or none."""
        names = sorted(f"{each.partition.topic}-{each.partition.partition}" for each in hanging)
        decision = "commit" if committed else "abort"
        text = f"Kafka has forgotten to {decision} the last transaction on {', '.join(names)}"
        missing = [f"READ on topic {name}" for name in sorted(self._unreadable)]
        if "ALTER" not in _operations(self._admin.describe_cluster()):
            missing.append("ALTER on the cluster")
        if missing:
            warn(f"{text}; to end it there takes more rights.")
            raise not_allowed(*missing)
        for transaction in hanging:
            self._write_marker(transaction, last, committed)
        warn(f"{text}: that is done now.")

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
    """Return what this client may do with a topic, or the cluster; nothing if Kafka doesn't say."""
    return described["authorized_operations"] or ()


def partition_of_group(group_id: str, partitions: int) -> int:
    """Return the partition of __consumer_offsets that has a group's offsets, as Kafka does it.

    abs(String.hashCode()) % partitions, with Java's 32 bits.
    """
    encoded, value = group_id.encode("utf-16-be"), 0
    for high, low in zip(encoded[::2], encoded[1::2], strict=True):
        value = (31 * value + 256 * high + low) & 0xFFFFFFFF
    return min(value, 2**32 - value) % 2**31 % partitions
