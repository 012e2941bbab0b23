"""One place for everything that has to do with reaching Kafka: topics, connections, clients.

Every client of the pipeline is made here, so that no script can differ from the others in how it
connects. kafka-python's defaults that hurt are replaced; ../README.md says which and why.
"""

import logging
import time
from contextlib import closing

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError

from utils.console import say, warn
from utils.settings import settings

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
    return KafkaConsumer(**connection() | defaults | options)


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


def group_members(group_id: str) -> dict[str, str]:
    """Return {group_instance_id: member_id} of a group; KafkaError if that can't be known now."""
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
    consumer.seek_to_beginning(*partitions)
    for partition in offsets.keys() & set(partitions):
        consumer.seek(partition, offsets[partition])
    return consumer


def skip_deleted(consumer: KafkaConsumer) -> dict[TopicPartition, int]:
    """Go on at the earliest offset where a position is out of range; return how many are missed.

    Retention deletes records whether or not the trainer has seen them. A position beyond the end
    means that the topic has been made anew: it is read from its beginning, and nothing is missed.
    """
    partitions = list(consumer.assignment())
    first, end = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    missed = {}
    for partition in partitions:
        position = consumer.position(partition, timeout_ms=10_000)
        if not first[partition] <= position <= end[partition]:
            missed[partition] = max(first[partition] - position, 0)
            consumer.seek(partition, first[partition])
            warn(f"{partition.topic}-{partition.partition}: {missed[partition]} records are gone.")
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
    said = False
    while True:
        try:
            remaining = max(deadline - time.monotonic(), 0.1)
            return KafkaAdminClient(
                **connection() | {"bootstrap_timeout_ms": min(remaining, 1) * 1000}
            )
        except KafkaError as error:
            if time.monotonic() >= deadline:
                raise SystemExit(
                    f"No Kafka answers at {settings.kafka_host} (KAFKA_HOST) for "
                    f"{settings.broker_timeout:g} s (BROKER_TIMEOUT). Start one: make kafka"
                ) from error
            if not said:
                warn(f"Waiting for Kafka at {settings.kafka_host} ...")
                said = True


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
