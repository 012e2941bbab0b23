"""On how many brokers a topic has copies, and what happens to those that have too few.

With acks=all, which is every producer's default here, a record is acknowledged when all copies that
are in sync have it. So it takes min.insync.replicas=2 too: else one copy is enough, which may be
the one that is lost.
"""

import time
from contextlib import suppress

from kafka import KafkaAdminClient
from kafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NodeNotReadyError,
    RetriableError,
    TopicAlreadyExistsError,
    UnknownBrokerIdError,
)

from utils.console import warn
from utils.process import stopping
from utils.settings import settings

MOST = 3  # copies by default: one broker may be away for maintenance while another one fails
# Where Kafka keeps the groups' offsets and the state of transactions.
INTERNAL = ("__consumer_offsets", "__transaction_state")


def wait_for_brokers(admin: KafkaAdminClient, deadline: float) -> None:
    """Return when Kafka knows as many brokers as KAFKA_HOST names, or at the deadline.

    Where brokers start for the first time, all topics would have their only copy on the first one.
    deadline : as time.monotonic() counts.
    """
    named = min(len(settings.kafka_host.split(",")), settings.replication or MOST)
    if named == 1 or _registered(admin) >= named:
        return
    warn(f"Waiting until Kafka knows {named} brokers: KAFKA_HOST names as many ...")
    while _registered(admin) < named and time.monotonic() < deadline:
        _pause()
    _refresh(admin)


def _registered(admin: KafkaAdminClient) -> int:
    """Return how many brokers Kafka knows; one that is away counts, since Kafka 4.0."""
    with suppress(KafkaError):
        return len(admin.describe_cluster()["brokers"])
    return 0


def _pause() -> None:
    if stopping():
        raise SystemExit(0)
    time.sleep(0.2)


def _refresh(admin: KafkaAdminClient) -> None:
    """Let the client find the brokers that take part now, and the controller."""
    admin._controller_id = None
    with suppress(KafkaError):
        admin._manager.run(admin._manager.cluster.refresh_metadata)


def create_replicated(
    admin: KafkaAdminClient, name: str, options: dict, deadline: float = 0
) -> bool:
    """Create a topic with as many copies as REPLICATION says; return False if it exists already.

    By default as many as there are brokers, at most three. A broker that is away counts, unless
    Kafka is older than 4.0 or uses ZooKeeper. deadline : as time.monotonic() counts; until then a
    failure that may pass, as brokers are starting, is followed by another attempt. Other errors as
    create_topics().
    """
    while True:
        try:
            _create(admin, name, options)
            return True
        except TopicAlreadyExistsError:  # another script was faster
            admin.wait_for_topics([name])
            return False
        except (RetriableError, UnknownBrokerIdError):
            if time.monotonic() > deadline:
                raise
        _pause()
        _refresh(admin)


def _create(admin: KafkaAdminClient, name: str, options: dict) -> None:
    for copies in _attempts(admin):
        configs = options.get("configs", {})
        if copies >= MOST:
            configs = {"min.insync.replicas": "2"} | configs
        replicated = options | {"replication_factor": copies, "configs": configs}
        try:
            admin.create_topics({name: replicated}, wait_for_metadata=True)
            return
        except InvalidReplicationFactorError:
            if settings.replication:
                text = f"REPLICATION={copies}, but Kafka has fewer brokers"
                raise InvalidReplicationFactorError(text) from None
    raise NodeNotReadyError("no broker is ready")


def _attempts(admin: KafkaAdminClient) -> list[int]:
    """Return the numbers of copies to try: Kafka may know more brokers than it reports."""
    if settings.replication:
        return [settings.replication]
    return [1] if _registered(admin) == 1 else list(range(MOST, 0, -1))


def warn_of_few_copies(admin: KafkaAdminClient, described: list[dict]) -> None:
    """Warn once of all topics that have fewer copies than new ones would get.

    described : topics as describe_topics() returns them. On one broker no request is sent.
    """
    brokers = {broker.node_id for broker in admin._manager.cluster.brokers()}
    wanted = settings.replication or min(len(brokers), MOST)
    if wanted == 1:
        return
    few = []
    for topic in [*described, *admin.describe_topics(list(INTERNAL))]:
        copies = min((len(each["replica_nodes"]) for each in topic["partitions"]), default=wanted)
        if copies < wanted:
            few.append(f"{topic['name']} ({copies})")
    if few:
        warn(
            f"These topics have fewer than {wanted} copies: {', '.join(sorted(few))}. What is on "
            "one broker only is lost, or away, with that; docs/cluster.md says what to do."
        )
