"""Static membership in a consumer group (KIP-345): join, look up and remove members."""

from contextlib import closing

from kafka.admin import MemberToRemove
from kafka.errors import KafkaError

from utils.kafka_client.connection import make_admin, require_reachable
from utils.kafka_client.consumer import Consumer, make_consumer
from utils.kafka_client.positions import all_partitions
from utils.kafka_client.security import Refused

# The partitions of a dead member are given to others after this time.
SESSION_TIMEOUT_MS = 6_000
MEMBER = {  # settings of a consumer that is a member
    "session_timeout_ms": SESSION_TIMEOUT_MS,
    # A broker that hangs is left after this time. A member may have to wait for another one as
    # long as the session of that lasts.
    "request_timeout_ms": SESSION_TIMEOUT_MS + 500,
    "heartbeat_interval_ms": 300,  # a rebalance waits for the next heartbeat
    "max_poll_records": 4_000,
    "max_partition_fetch_bytes": 2**23,
    "metadata_max_age_ms": 3_000,  # by then it has noticed that a topic got more partitions
}


def join_group(topic: str, group_id: str, instance_id: str) -> Consumer:
    """Return a static member of a consumer group that shares a topic's partitions.

    The member that has this `instance_id` already, if any, is fenced and loses its partitions.
    """
    consumer = make_consumer(group_id=group_id, group_instance_id=instance_id, **MEMBER)
    consumer.subscribe([topic])
    # Fetch metadata before joining: a group leader that does not know the topic yet assigns no
    # partitions, and if it is killed before it corrects that, its static successor is not the
    # leader and keeps the empty assignment indefinitely.
    all_partitions(consumer, topic)
    return consumer


def group_members(group_id: str) -> dict[str, str]:
    """Return {group_instance_id: member_id} of a group; KafkaError if Kafka can't tell now."""
    require_reachable()
    with closing(make_admin()) as admin:
        group = admin.describe_groups([group_id])[group_id]
    return {member["group_instance_id"]: member["member_id"] for member in group["members"]}


def is_replaced(consumer: Consumer, group_id: str, instance_id: str) -> bool:
    """Return True if another process is now the group's member with this instance id.

    False if Kafka can't tell now.
    """
    try:
        members = group_members(group_id)
    except (KafkaError, Refused):
        # Refused: a password changed while connections that need no new login go on working.
        return False
    own = consumer.group_metadata().member_id
    return bool(own) and members.get(instance_id, own) != own


def leave_group(group_id: str, instance_id: str, member_id: str) -> None:
    """Remove a static member from its group, which its close() does not do; KafkaError.

    Names the member_id too, so that a successor with the same instance id stays.
    """
    member = MemberToRemove(member_id=member_id, group_instance_id=instance_id)
    with closing(make_admin()) as admin:
        admin.remove_group_members(group_id, [member])
