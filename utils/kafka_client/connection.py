"""How clients reach Kafka: the settings that all of them share, and whether Kafka answers.

Replaces the defaults of kafka-python that hurt.
"""

import logging
import socket

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError

from utils.console import say, warn
from utils.kafka_client.security import Refused, check_login, security_options
from utils.settings import settings

# The client retries everything that it logs, and the scripts report what they cannot recover from.
# At level DEBUG it logs its settings and every byte that it sends, passwords among them.
logging.getLogger("kafka").setLevel(logging.CRITICAL)


def connection() -> dict:
    """Return the connection settings of every client.

    The back-offs decide how soon work continues after the broker comes back: kafka-python waits up
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
    """Return True if something listens at KAFKA_HOST.

    Ask before you make a client: one that finds no broker leaks a thread. Raises Refused if Kafka
    rejects the login or the certificate.
    """
    refused = None
    for host in settings.kafka_host.split(","):
        name, _, port = host.strip().rpartition(":")
        address = name.strip("[]"), int(port)
        try:
            with socket.create_connection(address, timeout=1) as connection:
                check_login(connection, address[0])
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


class Outage:
    """Reports when Kafka goes away and when it is back, once for all clients of a process."""

    def __init__(self) -> None:
        self._reported = False

    def begin(self) -> None:
        """Report that Kafka does not answer, unless that was reported."""
        if not self._reported:
            warn(f"Kafka does not answer at {settings.kafka_host} any more: waiting for it.")
        self._reported = True

    def end(self) -> None:
        """Report that Kafka answers again, if an outage was reported."""
        if self._reported:
            say("Kafka answers again.")
        self._reported = False


outage = Outage()
