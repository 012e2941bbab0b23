"""One place for everything that has to do with reaching Kafka: names, connections, clients.

Every client of the pipeline is made here, so that no script can differ from the others in how it
connects. kafka-python's defaults that hurt are replaced here.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError

from utils.console import say, warn
from utils.consumer import Consumer
from utils.security import Refused, check_entry, security_options
from utils.settings import settings

APP_MESSAGES = settings.topic_prefix + "app_messages"
RETRAIN_TOPIC = settings.topic_prefix + "retrain_topic"
OUTCOMES_TOPIC = settings.topic_prefix + "outcomes_topic"
DEAD_LETTER_TOPIC = settings.topic_prefix + "dead_letter_topic"
PREDICTOR_GROUP = settings.topic_prefix + "predictors"

identity: dict[str, str] = {}  # this process' group and transactional id, as refusals name them
OFFLINE = 5.0  # seconds without a connection, after which a consumer asks whether it is let in

# The client retries whatever it logs, and the scripts report what they cannot get over. Nor may it
# log more: at DEBUG that is its settings and every byte that it sends, passwords among them.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


def connection() -> dict:
    """Return the connection settings that every client shares.

    The back-offs decide how soon work goes on after the broker comes back: kafka-python waits up
    to 30 s by default.
    """
    return {
        "bootstrap_servers": [host.strip() for host in settings.kafka_host.split(",")],
        "bootstrap_timeout_ms": 10_000,
        "request_timeout_ms": 10_000,
        "retry_backoff_ms": 10,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 500,
        **security_options(),
    }


class _Consumer(Consumer):
    """Its poll() raises Refused when Kafka lets us in no more; else it would wait for ever.

    Only once it has lost its connections: until then a changed password disturbs nobody. Of several
    consumers in one process the first one says that Kafka is away, or back.
    """

    _online = 0.0
    _away = False

    def poll(self, *arguments, **options) -> dict:
        records = super().poll(*arguments, **options)
        connections = list(self._client._manager._conns.values())
        if any(connection.connected for connection in connections):
            self._online = time.monotonic()
            if _Consumer._away:
                say("Kafka answers again.")
            _Consumer._away = False
        elif time.monotonic() - self._online > OFFLINE:
            self._online = time.monotonic()
            if not is_reachable() and not _Consumer._away:
                warn(f"Kafka does not answer at {settings.kafka_host} any more: waiting for it.")
                _Consumer._away = True
        return records


def make_consumer(**options) -> KafkaConsumer:
    """Return a consumer that reads committed records only, from the earliest, and never by itself
    commits an offset. It takes part in no group unless the options name one."""
    defaults = {
        "isolation_level": "read_committed",
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "allow_auto_create_topics": False,
        "metrics_enabled": False,
    }
    if "group_id" in options:
        identity["group"] = options["group_id"]
    consumer = _Consumer(**connection() | defaults | options)
    # kafka-python 3.0.12 does not hand the setting on: each consumer would wait 0.1 s at its start.
    consumer._cluster.config["retry_backoff_ms"] = consumer.config["retry_backoff_ms"]
    return consumer


def make_producer(**options) -> KafkaProducer:
    """Return an idempotent producer (transactional, where the options give a transactional_id)."""
    defaults = {
        "enable_idempotence": True,
        "allow_auto_create_topics": False,
        "delivery_timeout_ms": 30_000,
        "max_block_ms": 10_000,
        "max_request_size": 2**23,
        "metrics_enabled": False,
    }
    if "transactional_id" in options:
        identity["transactional id"] = options["transactional_id"]
    return KafkaProducer(**connection() | defaults | options)


def make_admin() -> KafkaAdminClient:
    """Return an administration client; close it after use."""
    return KafkaAdminClient(**connection())


def is_reachable() -> bool:
    """True if something listens at KAFKA_HOST. A client that finds nobody leaks a thread.

    Raises Refused if Kafka does not let us in and never will.
    """
    refused = None
    for host in settings.kafka_host.split(","):
        name, _, port = host.strip().rpartition(":")
        address = name.strip("[]"), int(port)
        try:
            with socket.create_connection(address, timeout=1) as connection:
                check_entry(connection, address[0])
            return True
        except OSError:
            continue
        except Refused as error:
            refused = error
    if refused:
        raise refused
    return False


def require_reachable() -> None:
    """Raise KafkaConnectionError if nothing listens at KAFKA_HOST, Refused as is_reachable()."""
    if not is_reachable():
        raise KafkaConnectionError(f"no Kafka answers at {settings.kafka_host}")


def group_members(group_id: str) -> dict[str, str]:
    """Return {group_instance_id: member_id} of a group; KafkaError if that can't be known now."""
    require_reachable()
    with closing(make_admin()) as admin:
        group = admin.describe_groups([group_id])[group_id]
    return {member["group_instance_id"]: member["member_id"] for member in group["members"]}


def all_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return every partition of a topic, in order; KafkaError if the topic can't be found."""
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise KafkaError(f"topic {topic} has no partitions that can be read")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


def assign_all(consumer: KafkaConsumer, *topics: str) -> list[TopicPartition]:
    """Let a consumer read every partition of these topics, and return them."""
    partitions = [partition for topic in topics for partition in all_partitions(consumer, topic)]
    consumer.assign(partitions)
    return partitions


def read_from_now_on(*topics: str) -> KafkaConsumer:
    """Return a consumer of every partition of these topics, outside of any group, at their ends.

    What is sent once it has returned is read; KafkaTimeoutError if an end can't be known.
    """
    consumer = make_consumer()
    partitions = assign_all(consumer, *topics)
    consumer.seek_to_end(*partitions)
    for partition in partitions:
        if consumer.position(partition, timeout_ms=10_000) is None:
            raise KafkaTimeoutError(f"the end of {partition.topic} is not known")
    return consumer


def read_from(offsets: dict[TopicPartition, int], *topics: str) -> KafkaConsumer:
    """Return a consumer of every partition of these topics, outside of any group.

    It begins at the given offsets, and at the earliest where there is none.
    """
    consumer = make_consumer(
        max_poll_records=4_000,
        max_partition_fetch_bytes=2**23,
        auto_offset_reset="none",  # an error instead of a silent jump, see skip_deleted()
    )
    assign_all(consumer, *topics)
    go_to(consumer, offsets)
    return consumer


def records_up_to_now(consumer: KafkaConsumer) -> Iterator[ConsumerRecord]:
    """Yield what its partitions hold at this moment, from its positions on."""
    ends = consumer.end_offsets(list(consumer.assignment()))
    while any(consumer.position(partition) < end for partition, end in ends.items()):
        for records in consumer.poll(timeout_ms=200).values():
            yield from records


def go_to(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    """Set every position to its given offset, or to the beginning where there is none."""
    for partition in consumer.assignment():
        if partition in offsets:
            consumer.seek(partition, offsets[partition])
        else:
            consumer.seek_to_beginning(partition)


def skip_deleted(consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> int:
    """Go to the given offsets, or on to the earliest there is; return how many records are gone.

    Retention deletes records whether or not the trainer has seen them. An offset beyond the end
    means that the topic has been made anew: it is read from its beginning, and nothing is missed.
    """
    go_to(consumer, offsets)
    partitions = list(consumer.assignment())
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    missed = 0
    for partition in partitions:
        offset = offsets.get(partition, first[partition])
        if not first[partition] <= offset <= end[partition]:
            gone = max(first[partition] - offset, 0)
            warn(f"{partition.topic}-{partition.partition}: {gone} records are gone.")
            consumer.seek(partition, first[partition])
            missed += gone
    return missed
