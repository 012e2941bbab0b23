"""The topics of the pipeline: their names, and how a script makes sure that they exist."""

import time
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress

from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError, KafkaError

from utils.console import say, warn
from utils.kafka_client.connection import is_listening, is_reachable, make_admin
from utils.kafka_client.replication import (
    create_replicated,
    wait_for_brokers,
    warn_of_few_copies,
)
from utils.kafka_client.rights import Rights, is_forbidden
from utils.process import patience, reset_restarts, stopping
from utils.settings import settings

APP_MESSAGES = settings.topic_prefix + "app_messages"
RETRAIN_TOPIC = settings.topic_prefix + "retrain_topic"
OUTCOMES_TOPIC = settings.topic_prefix + "outcomes_topic"
DEAD_LETTER_TOPIC = settings.topic_prefix + "dead_letter_topic"
PREDICTOR_GROUP = settings.topic_prefix + "predictors"

# Announcements need a total order, hence one partition. A dead letter is a request plus headers, so
# its topic takes records larger than the broker's default limit of 1 MiB.
_TOPICS = {
    APP_MESSAGES: {"num_partitions": settings.partitions},
    RETRAIN_TOPIC: {"num_partitions": 1},
    OUTCOMES_TOPIC: {"num_partitions": 1},
    DEAD_LETTER_TOPIC: {"num_partitions": 1, "configs": {"max.message.bytes": str(2**23)}},
}


def prepare_topics(
    read: Iterable[str] = (), write: Iterable[str] = (), others: Mapping[str, dict] | None = None
) -> None:
    """Wait until Kafka answers, then create those of the topics that do not exist.

    Before it creates one, it waits until Kafka knows as many brokers as KAFKA_HOST names.
    others : how to create topics that are not among those above, as the values of _TOPICS.
    Raises SystemExit with one sentence when Kafka does not answer within BROKER_TIMEOUT seconds of
    the script's start (a process that restarted itself waits without a limit), or when a topic is
    missing and can't be created; Refused when Kafka rejects the login, or when the right to read or
    write a topic is missing.
    """
    rights, known = Rights(read, write), _TOPICS | (others or {})
    deadline = time.monotonic() + patience(settings.broker_timeout)
    with closing(_wait_for_admin(deadline)) as admin:
        found = admin.describe_topics(rights.topics)
        missing = [t["name"] for t in found if not t["partitions"] and not is_forbidden(t)]
        _create_topics(admin, {name: known[name] for name in missing}, deadline)
        described = rights.check_topics(admin)
        for topic in described:
            name, partitions = topic["name"], len(topic["partitions"])
            if partitions not in (0, known[name]["num_partitions"]):
                _accept_partitions(name, partitions)
        warn_of_few_copies(admin, described)


def existing_topics(read: Iterable[str]) -> list[str]:
    """Return those of the topics that exist; Refused if the right to read one is missing."""
    rights = Rights(read)
    with closing(make_admin()) as admin:
        rights.check_topics(admin)
        return [each["name"] for each in admin.describe_topics(rights.topics) if each["partitions"]]


def _wait_for_admin(deadline: float) -> KafkaAdminClient:
    if not is_reachable():
        warn(f"Waiting for Kafka at {settings.kafka_host} ...")
        reset_restarts()  # the outage was the reason for those so far
    while time.monotonic() < deadline and not stopping():
        if is_reachable():
            with suppress(KafkaError):
                return make_admin()
        time.sleep(0.2)
    if stopping():
        raise SystemExit(0)
    protocol = settings.kafka_security_protocol
    hint = f"Is KAFKA_SECURITY_PROTOCOL={protocol} right?"
    raise SystemExit(
        f"No Kafka answers at {settings.kafka_host} (KAFKA_HOST): waited "
        f"{settings.broker_timeout:g} s (BROKER_TIMEOUT). "
        + (hint if is_listening() else "Start one: make kafka")
    )


def _create_topics(admin: KafkaAdminClient, missing: dict[str, dict], deadline: float) -> None:
    # A process that restarted itself waits for Kafka without a limit, but not for more brokers.
    deadline = min(deadline, time.monotonic() + settings.broker_timeout)
    if missing:
        wait_for_brokers(admin, deadline)
    for name, options in missing.items():
        _create_topic(admin, name, options, deadline)


def _create_topic(admin: KafkaAdminClient, name: str, options: dict, deadline: float) -> None:
    try:
        if create_replicated(admin, name, options, deadline):
            say(f"Created the topic {name}.")
    except KafkaError as error:
        reason = "not authorized to CREATE it" if isinstance(error, AuthorizationError) else error
        raise SystemExit(f"Topic {name} is missing and can't be created: {reason}") from error


def _accept_partitions(name: str, partitions: int) -> None:
    if name == RETRAIN_TOPIC:
        raise SystemExit(f"Topic {name} has {partitions} partitions, but it must have one.")
    if name == APP_MESSAGES:
        say(
            f"Topic {name} has {partitions} partitions (PARTITIONS asks for {settings.partitions})."
        )
