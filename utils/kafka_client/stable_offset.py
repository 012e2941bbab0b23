"""Notices a transaction of another client that keeps committed records from being read.

Readers of committed records get no further than the last stable offset, where the oldest open
transaction of a partition begins (KIP-98). A client that hangs in a transaction stops them until
that times out, after up to 15 minutes (transaction.max.timeout.ms).
"""

import time
from contextlib import closing, suppress
from operator import attrgetter

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ProducerState
from kafka.consumer.subscription_state import TopicPartitionState
from kafka.errors import KafkaError

from utils.console import say, warn
from utils.kafka_client.connection import make_admin, require_reachable
from utils.kafka_client.security import Refused

BLOCKED_AFTER = 10.0  # seconds without progress, after which Kafka is asked for the reason
INTERVAL = 1.0  # seconds between two looks


class StableOffsetWatch:
    """Reports, once for each time, whose transaction stops a consumer.

    It looks only at what the consumer knows, and asks Kafka only when a partition has had records
    for BLOCKED_AFTER seconds that were not returned.
    """

    def __init__(self) -> None:
        self._looked_at = 0.0
        self._since: dict[
            TopicPartition, tuple[int, float]
        ] = {}  # position, time of the first look
        self._reported: set[TopicPartition] = set()

    def look(self, assignment: dict[TopicPartition, TopicPartitionState]) -> None:
        """Compare the positions with those of earlier calls."""
        now = time.monotonic()
        if now - self._looked_at < INTERVAL:
            return
        self._looked_at = now
        for partition, state in list(assignment.items()):
            position = state.position.offset if state.position else -1
            before, since = self._since.get(partition, (None, now))
            if position != before:
                self._since[partition] = position, now
                self._report_progress(partition)
            elif now - since > BLOCKED_AFTER and position < (state.highwater or 0):
                self._since[partition] = position, now  # the next question, if this one fails
                self._report_reason(partition, position)

    def _report_progress(self, partition: TopicPartition) -> None:
        if partition in self._reported:
            self._reported.remove(partition)
            say(f"{_name(partition)} can be read again.")

    def _report_reason(self, partition: TopicPartition, position: int) -> None:
        if partition in self._reported:
            return
        with suppress(KafkaError, Refused):
            require_reachable()
            with closing(make_admin()) as admin:
                producers = admin.describe_producers([partition])[partition].active_producers
                ongoing = [each for each in producers if each.current_transaction_start_offset >= 0]
                starts = attrgetter("current_transaction_start_offset")
                oldest = min(ongoing, key=starts, default=None)
                # Otherwise the consumer was busy with its other partitions for so long.
                if oldest and starts(oldest) <= position:
                    self._reported.add(partition)
                    warn(_sentence(partition, oldest, _owner(admin, oldest.producer_id)))


def _sentence(partition: TopicPartition, producer: ProducerState, owner: str) -> str:
    sent = time.strftime("%H:%M:%S", time.localtime(producer.last_timestamp / 1000))
    return (
        f"{_name(partition)} can't be read beyond offset "
        f"{producer.current_transaction_start_offset}: producer {producer.producer_id} ({owner}) "
        f"has had a transaction open there since {sent} or earlier; docs/operations.md says what "
        "to do."
    )


def _owner(admin: KafkaAdminClient, producer_id: int) -> str:
    """Return the transactional id of a producer, and its timeout, as far as Kafka tells."""
    with suppress(KafkaError):
        for listed in admin.list_transactions(producer_id_filters=[producer_id]).values():
            for name in [each.transactional_id for each in listed]:
                timeout = admin.describe_transactions([name])[name].transaction_timeout_ms / 1000
                return f"transactional id {name}, timeout {timeout:g} s"
    return "its transactional id is not known"


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"
