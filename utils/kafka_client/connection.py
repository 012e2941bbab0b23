"""How Kafka is reached: the settings that every client shares, and whether Kafka answers.

kafka-python's defaults that hurt are replaced here.
"""

import logging
import socket

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError

from utils.kafka_client.security import Refused, check_entry, security_options
from utils.settings import settings

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
