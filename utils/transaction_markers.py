"""Sees to it that a transaction is ended on every partition, also where Kafka forgets one.

What the transaction coordinator has decided, commit or abort, it tells each partition with a marker
(KIP-98). A Kafka of one node that is killed in between never writes the markers that are missing:
when it starts again its partitions have no leader for a moment, and it takes them for deleted
("Couldn't find leader endpoint ... can be skipped" in its log; so do 3.9, 4.1, 4.3 and 4.4). Such a
transaction hangs (KIP-664): who reads committed records never gets past it, and whatever becomes
of its producer's next transaction becomes of it too, be that the opposite. So after every
transaction, before the next one begins, its producer looks whether all markers are there, and
writes those that Kafka has forgotten.
"""

import time
from typing import NamedTuple

from kafka import TopicPartition
from kafka.admin import ProducerState, TransactionDescription, TransactionState
from kafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaTimeoutError,
    NoError,
    RetriableError,
    TransactionalIdNotFoundError,
    for_code,
)
from kafka.protocol.producer.transaction import WriteTxnMarkersRequest

from utils.console import warn
from utils.kafka_client import make_admin

OFFSETS_TOPIC = "__consumer_offsets"
TIMEOUT = 3.0  # seconds for the markers to be there
INTERVAL = 0.001  # seconds between two looks
# Nothing is under way. Empty follows when a producer begins: by then committed transactions have
# their markers (see complete() and its callers), so what is open must have been aborted.
DECIDED = {
    TransactionState.COMPLETE_COMMIT: True,
    TransactionState.COMPLETE_ABORT: False,
    TransactionState.EMPTY: False,
}


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
        self._by_leader: dict[int, list[TopicPartition]] = {}
        self._all_found = False
        self._admin = make_admin()

    def complete(self, producer_id: int | None = None) -> None:
        """Return when every partition knows how the producer's last transaction has ended.

        Without a producer_id: of whoever has had the transactional id last. A transaction that is
        still under way is left alone. KafkaError if Kafka can't tell in time.
        """
        deadline = time.monotonic() + TIMEOUT
        while not self._try_to_complete(producer_id, deadline):
            time.sleep(INTERVAL)

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def _try_to_complete(self, producer_id: int | None, deadline: float) -> bool:
        try:
            if not self._all_found:
                self._find_partitions()
            if producer_id is None:
                producer_id = self._describe().producer_id
            if not (found := self._open_transactions(producer_id)) or self._end(found):
                return True
        except TransactionalIdNotFoundError:
            return True
        except RetriableError:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise KafkaTimeoutError("not every partition knows how the last transaction has ended")
        return False

    def _find_partitions(self) -> None:
        """Find out where there can be markers, and whom to ask for them."""
        self._by_leader, self._all_found = {}, True
        for topic in self._admin.describe_topics([*self._topics, OFFSETS_TOPIC]):
            partitions = topic["partitions"]
            if topic["name"] == OFFSETS_TOPIC:
                self._all_found = bool(partitions)  # Kafka makes it for the first group
                mine = partition_of_group(self._group_id, len(partitions) or 1)
                partitions = [each for each in partitions if each["partition_index"] == mine]
            if "READ" in (topic["authorized_operations"] or ()):
                for each in partitions:
                    partition = TopicPartition(topic["name"], each["partition_index"])
                    self._by_leader.setdefault(each["leader_id"], []).append(partition)

    def _describe(self) -> TransactionDescription:
        return self._admin.describe_transactions([self._transactional_id])[self._transactional_id]

    def _open_transactions(self, producer_id: int) -> set[OpenTransaction]:
        return {
            OpenTransaction(partition, producer, leader)
            for leader, partitions in self._by_leader.items()
            for partition, state in self._admin.describe_producers(partitions, leader).items()
            for producer in state.active_producers
            if producer.producer_id == producer_id
            and producer.current_transaction_start_offset >= 0
        }

    def _end(self, found: set[OpenTransaction]) -> bool:
        """Write the markers that nobody else will write; True if there is none to wait for."""
        last = self._describe()
        if last.state == TransactionState.ONGOING:
            return True
        # Open both before and after the coordinator was seen to have done with it: forgotten.
        hanging = found & self._open_transactions(last.producer_id)
        if last.state in DECIDED and hanging:
            return not self._write_markers(hanging, last)
        return False

    def _write_markers(self, hanging: set[OpenTransaction], last: TransactionDescription) -> bool:
        """Write those that are missing; if that is not allowed, look for no more: False."""
        decision = "commit" if DECIDED[last.state] else "abort"
        names = sorted(f"{each.partition.topic}-{each.partition.partition}" for each in hanging)
        text = f"Kafka had forgotten to {decision} the last transaction on {', '.join(names)}"
        try:
            for transaction in hanging:
                self._write_marker(transaction, last)
        except ClusterAuthorizationFailedError:
            warn(f"{text}, and to do it takes the right to ALTER the cluster.")
            self._by_leader = {}
            return False
        warn(f"{text}: done.")
        return True

    def _write_marker(self, transaction: OpenTransaction, last: TransactionDescription) -> None:
        """Say on one partition how the transaction has ended, as the coordinator should have."""
        topic, index = transaction.partition
        marker = WriteTxnMarkersRequest.WritableTxnMarker
        request = WriteTxnMarkersRequest(
            markers=[
                marker(
                    producer_id=last.producer_id,
                    producer_epoch=last.producer_epoch,
                    transaction_result=DECIDED[last.state],
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


def partition_of_group(group_id: str, partitions: int) -> int:
    """Return the partition of __consumer_offsets that has a group's offsets, as Kafka does it.

    abs(String.hashCode()) % partitions, with Java's 32 bits.
    """
    encoded, value = group_id.encode("utf-16-be"), 0
    for high, low in zip(encoded[::2], encoded[1::2], strict=True):
        value = (31 * value + 256 * high + low) & 0xFFFFFFFF
    return min(value, 2**32 - value) % partitions
