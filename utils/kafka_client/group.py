"""Static membership in a consumer group (KIP-345): who has a name now, and how to give it back."""

from contextlib import closing

from kafka import KafkaConsumer
from kafka.admin import MemberToRemove
from kafka.errors import KafkaError

from utils.kafka_client.connection import make_admin, require_reachable


def group_members(group_id: str) -> dict[str, str]:
    """Return {group_instance_id: member_id} of a group; KafkaError if that can't be known now."""
    require_reachable()
    with closing(make_admin()) as admin:
        group = admin.describe_groups([group_id])[group_id]
    return {member["group_instance_id"]: member["member_id"] for member in group["members"]}


def is_replaced(consumer: KafkaConsumer, group_id: str, name: str) -> bool:
    """True if another process than the consumer's is now the group's member of this name."""
    try:
        members = group_members(group_id)
    except KafkaError:
        return False  # not now to be known; whoever wants to know asks again
    mine = consumer.group_metadata().member_id
    return bool(mine) and members.get(name, mine) != mine


def leave(group_id: str, name: str, member_id: str) -> None:
    """Take a member out of its group, which a static one does not do by itself; KafkaError.

    With its member_id, so that a successor that has taken the name already stays.
    """
    member = MemberToRemove(member_id=member_id, group_instance_id=name)
    with closing(make_admin()) as admin:
        admin.remove_group_members(group_id, [member])
