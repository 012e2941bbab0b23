"""Lets kafka-python's clients find a coordinator that has moved to another broker.

kafka-python 3.0.12 has two bugs, which cost a failover up to ten seconds each:

- Its producer drops a request whose coordinator refuses the connection, and waits for the answer
  indefinitely: await_ready() raises where _maybe_send_pending_request() (sender.py) expects False,
  after which it would look for the coordinator and send the request again.
- Its admin client never forgets a coordinator that it has found (_find_coordinator_ids(),
  client.py).
"""

from functools import partial

from kafka import KafkaAdminClient, KafkaProducer
from kafka.errors import KafkaError
from kafka.protocol.metadata.find_coordinator import CoordinatorType


def retry_coordinators(producer: KafkaProducer) -> None:
    """Make a producer look again for a coordinator that can't be reached, instead of hanging."""
    client = producer._sender._client
    client.await_ready = partial(_is_ready, client.await_ready)


def _is_ready(await_ready, *arguments, **options) -> bool:
    try:
        return await_ready(*arguments, **options)
    except KafkaError:
        return False


def forget_coordinator(admin: KafkaAdminClient, transactional_id: str) -> None:
    """Make an admin client look for the coordinator of a transactional id again."""
    key = CoordinatorType.TRANSACTION, transactional_id
    admin._manager.cluster._coordinators.pop(key, None)
