"""What a script needs of Kafka before it begins: an answer, its topics, and the right to use them.

Rights are asked for at the start, all at once: a right that is missing shall not show only with
the first invalid request, or at the end of the first training.
"""

import time
from collections.abc import Iterable
from contextlib import closing, suppress

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import (
    AuthorizationError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
)

from utils.console import say, warn
from utils.kafka_client import (
    APP_MESSAGES,
    DEAD_LETTER_TOPIC,
    OUTCOMES_TOPIC,
    RETRAIN_TOPIC,
    go_to,
    identity,
    is_reachable,
    make_admin,
)
from utils.security import Refused
from utils.settings import settings
from utils.shutdown import stopping

# Announcements need one order, hence one partition. The dead letter is the request plus headers,
# so its topic takes records larger than the broker's default limit of 1 MiB.
_TOPICS = {
    APP_MESSAGES: {"num_partitions": settings.partitions},
    RETRAIN_TOPIC: {"num_partitions": 1},
    OUTCOMES_TOPIC: {"num_partitions": 1},
    DEAD_LETTER_TOPIC: {"num_partitions": 1, "configs": {"max.message.bytes": str(2**23)}},
}

_needed: dict[str, set[str]] = {}  # topic -> the operations of this script on it


def prepare_topics(read: Iterable[str] = (), write: Iterable[str] = ()) -> None:
    """Wait until Kafka answers, then create those of the topics that aren't there.

    Raises SystemExit with one sentence when Kafka stays away for BROKER_TIMEOUT seconds, or when a
    topic is missing and may not be created; Refused when Kafka does not let us in, or does not
    allow to read or write them.
    """
    for operation, topics in (("READ", read), ("WRITE", write)):
        for name in topics:
            _needed.setdefault(name, set()).add(operation)
    with closing(_wait_for_admin()) as admin:
        for topic in admin.describe_topics(list(_needed)):
            name, partitions = topic["name"], len(topic["partitions"])
            if _is_forbidden(topic):
                continue
            if not partitions:
                _create_topic(admin, name)
            elif partitions != _TOPICS[name]["num_partitions"]:
                _accept_partitions(name, partitions)
        _check_rights(admin)


def _wait_for_admin() -> KafkaAdminClient:
    deadline = time.monotonic() + settings.broker_timeout
    listens = is_reachable()
    if not listens:
        warn(f"Waiting for Kafka at {settings.kafka_host} ...")
    while time.monotonic() < deadline and not stopping():
        if listens := is_reachable():
            with suppress(KafkaError):
                return make_admin()
        time.sleep(0.2)
    if stopping():
        raise SystemExit(0)
    protocol = settings.kafka_security_protocol
    raise SystemExit(
        f"No Kafka answers at {settings.kafka_host} (KAFKA_HOST) for "
        f"{settings.broker_timeout:g} s (BROKER_TIMEOUT). "
        + (f"Is KAFKA_SECURITY_PROTOCOL={protocol} right?" if listens else "Start one: make kafka")
    )


def _create_topic(admin: KafkaAdminClient, name: str) -> None:
    try:
        admin.create_topics({name: _TOPICS[name]}, wait_for_metadata=True)
    except TopicAlreadyExistsError:  # another script of the pipeline was faster
        admin.wait_for_topics([name])
    except KafkaError as error:
        reason = "CREATE is not allowed" if isinstance(error, AuthorizationError) else error
        raise SystemExit(f"Topic {name} is missing and can't be created: {reason}") from error
    else:
        say(f"Created the topic {name}.")


def _accept_partitions(name: str, partitions: int) -> None:
    if name == RETRAIN_TOPIC:
        raise SystemExit(f"Topic {name} has {partitions} partitions, but it must have one.")
    if name == APP_MESSAGES:
        say(
            f"Topic {name} has {partitions} partitions (PARTITIONS asks for {settings.partitions})."
        )


def _check_rights(admin: KafkaAdminClient) -> None:
    """Raise Refused, naming all rights on topics that are missing."""
    missing = []
    for topic in admin.describe_topics(list(_needed)):
        allowed = set(topic["authorized_operations"] or ())
        if allowed or _is_forbidden(topic):  # brokers before 2.3 don't tell
            lacking = sorted(_needed[topic["name"]] - allowed)
            missing += [f"{operation} on topic {topic['name']}" for operation in lacking]
    if missing:
        raise not_allowed(*missing)


def _is_forbidden(topic: dict) -> bool:
    return topic["error_code"] == TopicAuthorizationFailedError.errno


def not_allowed(*rights: str) -> Refused:
    """Return the error that names the rights that are missing."""
    user = f"KAFKA_USERNAME={settings.kafka_username}" if settings.kafka_username else "This client"
    return Refused(f"{user} has no right to {', '.join(rights)}; docs/security.md lists the ACLs.")


def refusal(error: Exception) -> Refused | None:
    """Return the reason, if waiting does not mend this error of a running client; else None."""
    if isinstance(error, Refused) or not isinstance(error, KafkaError):
        return error if isinstance(error, Refused) else None
    text = repr(error)  # the class says little: most of them come wrapped in a plain KafkaError
    if "GroupAuthorizationFailed" in text:
        return not_allowed(f"READ on group {identity.get('group')}")
    if "TransactionalIdAuthorizationFailed" in text:
        return not_allowed(f"WRITE on transactional id {identity.get('transactional id')}")
    try:
        if is_reachable() and "AuthorizationFailed" in text:
            with closing(make_admin()) as admin:
                _check_rights(admin)
    except Refused as refused:
        return refused
    except KafkaError:
        pass  # not now to be known; the next error asks again
    return None


def raise_if_refused(error: Exception) -> None:
    """Raise Refused if waiting does not mend this error of a running client."""
    if refused := refusal(error):
        raise refused


def recover(error: Exception, consumer: KafkaConsumer, offsets: dict[TopicPartition, int]) -> None:
    """Report an error and go back to the offsets; Refused if waiting does not mend it."""
    raise_if_refused(error)
    warn(f"{type(error).__name__}: {error}. Trying again.")
    go_to(consumer, offsets)
