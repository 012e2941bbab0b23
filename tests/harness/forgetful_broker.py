"""Leaves a transaction as a Kafka that was killed at the wrong moment leaves it.

The coordinator is not told of every partition that a transaction writes to, so it writes no marker
there: the effect of the real fault, without having to hit the millisecond.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.producer.transaction_manager import TxnOffsetCommitHandler

from tests.harness.pipeline import wait_until


@contextmanager
def trusting(host: str) -> Iterator[None]:
    """Let the broker accept records that the coordinator does not know of (KIP-890 forbids it)."""
    set_verification(host, "false")
    try:
        yield
    finally:
        set_verification(host, "true")


def set_verification(host: str, value: str) -> None:
    name = "transaction.partition.verification.enable"
    with KafkaAdminClient(bootstrap_servers=host) as admin:
        admin.alter_configs([ConfigResource(ConfigResourceType.BROKER, "1", {name: value})])
        # The setting takes effect a little later.
        asked = [ConfigResource(ConfigResourceType.BROKER, "1", [name])]
        wait_until(
            lambda: f"'{value}'" in str(admin.describe_configs(asked)), what=f"{name}={value}"
        )


@contextmanager
def forgetting(producer: KafkaProducer, partition: TopicPartition) -> Iterator[None]:
    """Don't tell the coordinator about this partition, nor about the group's offsets."""
    manager = producer._transaction_manager
    begin, send_offsets = manager.begin_transaction, manager.send_offsets_to_transaction

    def begin_with_the_partition():
        begin()
        manager._partitions_in_transaction.add(partition)

    def send_offsets_at_once(offsets, group):
        pending = manager._pending_txn_offset_commits
        pending.update(offsets)
        handler = TxnOffsetCommitHandler(manager, group, pending, None)
        manager._enqueue_request(handler)
        return handler._result

    manager.begin_transaction = begin_with_the_partition
    manager.send_offsets_to_transaction = send_offsets_at_once
    try:
        yield
    finally:
        manager.begin_transaction, manager.send_offsets_to_transaction = begin, send_offsets
