"""One place for everything that has to do with reaching Kafka: topics, connections, clients.

Every client of the pipeline is made here, so that no script can differ from the others in how it
connects. kafka-python's defaults that hurt are replaced; ../README.md says which and why.
"""

import logging
import socket
import time
from contextlib import closing, suppress

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaConnectionError, KafkaError, TopicAlreadyExistsError

from utils.console import say, warn
from utils.consumer import Consumer
from utils.settings import settings
from utils.shutdown import stopping

APP_MESSAGES = settings.topic_prefix + "app_messages"
RETRAIN_TOPIC = settings.topic_prefix + "retrain_topic"
OUTCOMES_TOPIC = settings.topic_prefix + "outcomes_topic"
DEAD_LETTER_TOPIC = settings.topic_prefix + "dead_letter_topic"
PREDICTOR_GROUP = settings.topic_prefix + "predictors"

# Announcements need one order, hence one partition. The dead letter is the request plus headers,
# so its topic takes records larger than the broker's default limit of 1 MiB.
_TOPICS = {
    APP_MESSAGES: {"num_partitions": settings.partitions},
    RETRAIN_TOPIC: {"num_partitions": 1},
    OUTCOMES_TOPIC: {"num_partitions": 1},
    DEAD_LETTER_TOPIC: {"num_partitions": 1, "configs": {"max.message.bytes": str(2**23)}},
}

# The client retries whatever it logs, and the scripts report what they cannot get over.
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
    }


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
    return Consumer(**connection() | defaults | options)


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
    return KafkaProducer(**connection() | defaults | options)


def make_admin() -> KafkaAdminClient:
    """Return an administration client; close it after use."""
    return KafkaAdminClient(**connection())


def is_reachable() -> bool:
    """True if something listens at KAFKA_HOST. A client that finds nobody leaks a thread."""
    for host in settings.kafka_host.split(","):
        name, _, port = host.strip().rpartition(":")
        with suppress(OSError), socket.create_connection((name.strip("[]"), int(port)), timeout=1):
            return True
    return False


def group_members(group_id: str) -> dict[str, str]:
    """Return {group_instance_id: member_id} of a group; KafkaError if that can't be known now."""
    if not is_reachable():
        raise KafkaConnectionError(f"no Kafka answers at {settings.kafka_host}")
    with closing(make_admin()) as admin:
        group = admin.describe_groups([group_id])[group_id]
    return {member["group_instance_id"]: member["member_id"] for member in group["members"]}


def all_partitions(consumer: KafkaConsumer, topic: str) -> list[TopicPartition]:
    """Return every partition of a topic, in order; KafkaError if the topic can't be found."""
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise KafkaError(f"topic {topic} has no partitions that can be read")
    return [TopicPartition(topic, partition) for partition in sorted(partitions)]


def read_from(offsets: dict[TopicPartition, int], *topics: str) -> KafkaConsumer:
    """Return a consumer of every partition of these topics, outside of any group.

    It begins at the given offsets, and at the earliest where there is none.
    """
    consumer = make_consumer(
        max_poll_records=4_000,
        max_partition_fetch_bytes=2**23,
        auto_offset_reset="none",  # an error instead of a silent jump, see skip_deleted()
    )
    partitions = [partition for topic in topics for partition in all_partitions(consumer, topic)]
    consumer.assign(partitions)
    go_to(consumer, offsets)
    return consumer


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


def prepare_topics(*topics: str) -> None:
    """Wait until Kafka answers, then create those of the topics that aren't there.

    Raises SystemExit with one sentence when Kafka stays away for BROKER_TIMEOUT seconds, or when a
    topic is missing and may not be created.
    """
    admin = _wait_for_admin()
    try:
        existing = {topic["name"]: topic for topic in admin.describe_topics(list(topics))}
        for name in topics:
            partitions = len(existing.get(name, {}).get("partitions", ()))
            if not partitions:
                _create_topic(admin, name)
            elif partitions != _TOPICS[name]["num_partitions"]:
                _accept_partitions(name, partitions)
    finally:
        admin.close()


def _wait_for_admin() -> KafkaAdminClient:
    deadline = time.monotonic() + settings.broker_timeout
    if not is_reachable():
        warn(f"Waiting for Kafka at {settings.kafka_host} ...")
    while time.monotonic() < deadline and not stopping():
        if is_reachable():
            with suppress(KafkaError):
                return make_admin()
        time.sleep(0.2)
    if stopping():
        raise SystemExit(0)
    raise SystemExit(
        f"No Kafka answers at {settings.kafka_host} (KAFKA_HOST) for "
        f"{settings.broker_timeout:g} s (BROKER_TIMEOUT). Start one: make kafka"
    )


def _create_topic(admin: KafkaAdminClient, name: str) -> None:
    try:
        admin.create_topics({name: _TOPICS[name]}, wait_for_metadata=True)
    except TopicAlreadyExistsError:  # another script of the pipeline was faster
        admin.wait_for_topics([name])
    except KafkaError as error:
        raise SystemExit(f"Topic {name} is missing and can't be created: {error}") from error
    else:
        say(f"Created the topic {name}.")


def _accept_partitions(name: str, partitions: int) -> None:
    if name == RETRAIN_TOPIC:
        raise SystemExit(f"Topic {name} has {partitions} partitions, but it must have one.")
    if name == APP_MESSAGES:
        say(
            f"Topic {name} has {partitions} partitions (PARTITIONS asks for {settings.partitions})."
        )
