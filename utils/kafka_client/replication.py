"""On how many brokers a topic has copies, and what happens to those that have too few.

With acks=all, which is every producer's default here, a record is acknowledged when all copies that
are in sync have it. So it takes min.insync.replicas=2 too: else one copy is enough, which may be
the one that is lost.
"""

from kafka import KafkaAdminClient
from kafka.errors import InvalidReplicationFactorError

from utils.console import warn
from utils.settings import settings

MOST = 3  # copies by default: one broker may be away for maintenance while another one fails
# Where Kafka keeps the groups' offsets and the state of transactions.
INTERNAL = ("__consumer_offsets", "__transaction_state")


def create_replicated(admin: KafkaAdminClient, name: str, options: dict) -> None:
    """Create a topic with as many copies as REPLICATION says; errors as create_topics().

    By default as many as there are brokers, at most three. A broker that is away counts, unless
    Kafka is older than 4.0 or uses ZooKeeper.
    """
    attempts = _attempts(admin)
    for copies in attempts:
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
            if copies == attempts[-1]:  # no broker is ready
                raise


def _attempts(admin: KafkaAdminClient) -> list[int]:
    """Return the numbers of copies to try: a broker that is away may be known to Kafka only."""
    brokers = len(admin._manager.cluster.brokers())
    if settings.replication:
        return [settings.replication]
    return [1] if brokers == 1 else list(range(MOST, 0, -1))


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
