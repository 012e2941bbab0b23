"""What the coordinator and the partitions say of the transactions of one transactional id."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from kafka import IsolationLevel, KafkaAdminClient, TopicPartition
from kafka.admin import OffsetSpec, ProducerState, TransactionDescription, TransactionState
from kafka.errors import (
    KafkaError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from utils.kafka_client.connection import make_admin
from utils.kafka_client.coordinators import forget_coordinator

OFFSETS_TOPIC = "__consumer_offsets"
TRANSACTIONS_TOPIC = "__transaction_state"
REQUEST_TIMEOUT_MS = 4_000  # another broker may know the answer: as long as a transaction waits
COMPLETE = {TransactionState.COMPLETE_COMMIT, TransactionState.COMPLETE_ABORT}


class OpenTransaction(NamedTuple):
    """A transaction without a marker on one partition, and the node that leads the partition."""

    partition: TopicPartition
    producer: ProducerState
    leader: int

    @property
    def place(self) -> tuple[TopicPartition, int, int]:
        """What stays the same as long as it is open: partition, epoch, and first offset."""
        producer = self.producer
        return self.partition, producer.producer_epoch, producer.current_transaction_start_offset


class Decision(NamedTuple):
    """What the coordinator says of the last transaction, and where that was open before."""

    last: TransactionDescription
    was_open: set[OpenTransaction]

    @property
    def is_commit(self) -> bool:
        """True if the coordinator has logged that the transaction is committed everywhere."""
        return self.last.state == TransactionState.COMPLETE_COMMIT

    def covers(self, transaction: OpenTransaction) -> bool:
        """Return True if it is logged as complete, and this transaction is the one it is about."""
        raised = self.last.producer_epoch - transaction.producer.producer_epoch
        known = self.last.state in COMPLETE and transaction.place in {
            t.place for t in self.was_open
        }
        return known and raised in ((0,) if self.is_commit else (0, 1))

    def forgotten(self, hanging: set[OpenTransaction]) -> str:
        """Return a sentence about partitions without a marker."""
        verb = "commit" if self.is_commit else "abort"
        return f"Kafka has forgotten to {verb} the last transaction on {names(hanging)}"


class TransactionView:
    """The partitions that a transactional id writes to, and the state of its transactions there.

    It writes to these topics and commits the offsets of this group.

    unreadable : topics that this client may not READ; open transactions on them can't be seen.
    """

    def __init__(self, transactional_id: str, group_id: str, topics: tuple[str, ...]) -> None:
        self.transactional_id = transactional_id
        self._group_id = group_id
        self._topics = topics
        self._leaders: dict[TopicPartition, int] = {}
        self.unreadable: set[str] = set()
        self.admin = make_admin(request_timeout_ms=REQUEST_TIMEOUT_MS)
        self._nodes = {broker.node_id for broker in self.admin._manager.cluster.brokers()}

    def find_partitions(self) -> None:
        """Find out which partitions can have markers, and which nodes lead them."""
        self._leaders, self.unreadable = {}, set()
        asked = [*self._topics, OFFSETS_TOPIC, TRANSACTIONS_TOPIC]
        for topic in self.admin.describe_topics(asked):
            error = for_code(topic["error_code"])
            self._nodes.update(*(each["replica_nodes"] for each in topic["partitions"]))
            if topic["name"] == TRANSACTIONS_TOPIC:
                continue  # asked for its nodes only
            if error is UnknownTopicOrPartitionError:
                continue  # Kafka creates the one for offsets with the first group
            if error is TopicAuthorizationFailedError or "READ" not in operations(topic):
                self.unreadable.add(topic["name"])
            if error is NoError:
                self._leaders |= self._leaders_of(topic)
            elif error is not TopicAuthorizationFailedError:
                raise error(f"{topic['name']} can't be described")

    @property
    def has_several_brokers(self) -> bool:
        """True if any copy of these partitions or of Kafka's own is on another broker.

        That one may be away: Kafka before 4.0 names only the brokers that are there.
        """
        return len(self._nodes) > 1

    def _leaders_of(self, topic: dict) -> dict[TopicPartition, int]:
        name, partitions = topic["name"], topic["partitions"]
        if name == OFFSETS_TOPIC:
            mine = partition_of_group(self._group_id, len(partitions))
            partitions = [each for each in partitions if each["partition_index"] == mine]
        return {
            TopicPartition(name, each["partition_index"]): each["leader_id"] for each in partitions
        }

    def knows(self, partitions: Iterable[TopicPartition]) -> bool:
        """Return True if these partitions were found, and that of the group's offsets."""
        offsets_are_known = self.offsets() or OFFSETS_TOPIC in self.unreadable
        return bool(offsets_are_known) and self._leaders.keys() >= set(partitions)

    def offsets(self) -> set[TopicPartition]:
        """Return the partition of the group's offsets, if it was found."""
        return {each for each in self._leaders if each.topic == OFFSETS_TOPIC}

    def describe(self) -> TransactionDescription:
        """Return what the coordinator says of the last transaction."""
        try:
            return self.admin.describe_transactions([self.transactional_id])[self.transactional_id]
        except KafkaError:
            forget_coordinator(self.admin, self.transactional_id)  # it may have moved
            raise

    def stable_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the last stable offsets: where the oldest open transaction begins, or the end."""
        found = {}
        for leader, led in self._by_leader(partitions).items():
            request = KafkaAdminClient._list_partition_offsets_request(
                dict.fromkeys(led, OffsetSpec.LATEST), IsolationLevel.READ_COMMITTED.value
            )
            response = self.ask(request, leader)
            found |= KafkaAdminClient._list_partition_offsets_process_response(response)
        return {partition: each.offset for partition, each in found.items()}

    def open_transactions(
        self, producer_id: int, partitions: Collection[TopicPartition] | None = None
    ) -> set[OpenTransaction]:
        """Return the producer's open transactions on these partitions, by default all."""
        asked = self._leaders if partitions is None else partitions
        readable = {each for each in asked if each.topic not in self.unreadable}
        return {
            OpenTransaction(partition, producer, leader)
            for leader, led in self._by_leader(readable).items()
            for partition, state in self.admin.describe_producers(led, leader).items()
            for producer in state.active_producers
            if producer.producer_id == producer_id
            and producer.current_transaction_start_offset >= 0
        }

    def _by_leader(self, partitions: Collection[TopicPartition]) -> dict[int, list[TopicPartition]]:
        by_leader = defaultdict(list)
        for partition in partitions:
            by_leader[self._leaders[partition]].append(partition)
        return by_leader

    def ask(self, request: object, node: int) -> object:
        """Send a request to a node and return its response."""

        async def send() -> object:
            return await self.admin._manager.send(request, node_id=node)

        return self.admin._manager.run(send)


def names(transactions: set[OpenTransaction]) -> str:
    """Return the partitions of these transactions as a text."""
    return ", ".join(
        sorted(f"{each.partition.topic}-{each.partition.partition}" for each in transactions)
    )


def operations(described: dict) -> Collection[str]:
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
