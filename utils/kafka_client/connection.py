"""How clients reach Kafka: the settings that all of them share, and whether Kafka answers.

Replaces the defaults of kafka-python that hurt.
"""

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import suppress

from kafka import KafkaAdminClient
from kafka.errors import KafkaConnectionError
from kafka.net.manager import KafkaConnectionManager

from utils.console import say, warn
from utils.kafka_client.security import ANSWER_TIMEOUT, check_login, security_options
from utils.settings import settings

# The client retries everything that it logs, and the scripts report what they cannot recover from.
# At level DEBUG it logs its settings and every byte that it sends, passwords among them.
logging.getLogger("kafka").setLevel(logging.CRITICAL)
# A host that hangs while a client connects or logs in is waited for 10 to 30 s by default. The
# clients of kafka-python 3.0.12 do not accept this setting of theirs.
KafkaConnectionManager.DEFAULT_CONFIG |= {
    "socket_connection_setup_timeout_ms": ANSWER_TIMEOUT * 500,  # doubled after a failure
    "socket_connection_setup_timeout_max_ms": ANSWER_TIMEOUT * 1000,
}

CONNECT_TIMEOUT = 1  # seconds
GRACE = 0.2  # seconds that other hosts may answer later than the first one


def connection() -> dict:
    """Return the connection settings of every client.

    The back-offs decide how soon work continues after the broker comes back: kafka-python waits up
    to 30 s by default.
    """
    return {
        "bootstrap_servers": _bootstrap_servers(),
        "bootstrap_timeout_ms": 10_000,
        "request_timeout_ms": 10_000,
        "retry_backoff_ms": 10,
        "reconnect_backoff_ms": 50,
        "reconnect_backoff_max_ms": 500,
        **security_options(),
    }


def make_admin(**options) -> KafkaAdminClient:
    """Return an administration client; close it after use."""
    return KafkaAdminClient(**connection() | options)


def _hosts() -> list[str]:
    return [host.strip() for host in settings.kafka_host.split(",")]


def _bootstrap_servers() -> list[str]:
    """Return the hosts of KAFKA_HOST that answer; all of them if none does.

    kafka-python tries one host after the other, at random. For one that accepts the connection and
    never answers, it waits until its whole bootstrap times out.
    """
    hosts = _hosts()
    return hosts if len(hosts) == 1 else answering_hosts(GRACE) or hosts


def answering_hosts(grace: float = 0) -> list[str]:
    """Return the hosts of KAFKA_HOST that answered until `grace` seconds after the first answer.

    All are asked at once, so a host that hangs delays nothing. Refused if none answers, and one of
    them rejects the login or the certificate.
    """
    hosts = _hosts()
    if len(hosts) == 1:
        return hosts if _answers(hosts[0]) else []
    pool = ThreadPoolExecutor(len(hosts))
    probes = [pool.submit(_answers, host) for host in hosts]
    pool.shutdown(wait=False)
    succeeded = (probe for probe in as_completed(probes) if not probe.exception())
    if any(probe.result() for probe in succeeded):
        done, _ = wait(probes, timeout=grace)
        answered = {probe for probe in done if not probe.exception() and probe.result()}
        return [host for host, probe in zip(hosts, probes, strict=True) if probe in answered]
    for refused in filter(None, (probe.exception() for probe in probes)):
        raise refused
    return []


def _answers(host: str) -> bool:
    """Return True if a host answers an ApiVersions request; Refused if it rejects the login."""
    try:
        with _connect(host) as connection:
            check_login(connection, host.rpartition(":")[0].strip("[]"))
    except OSError:
        return False
    return True


def _connect(host: str) -> socket.socket:
    name, _, port = host.rpartition(":")
    return socket.create_connection((name.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT)


def is_reachable() -> bool:
    """Return True if Kafka answers at KAFKA_HOST.

    An accepted connection is no answer: a load balancer accepts them without a Kafka behind it. Ask
    before you make a client: one that finds no broker leaks a thread. Raises Refused if Kafka
    rejects the login or the certificate.
    """
    return bool(answering_hosts())


def is_listening() -> bool:
    """Return True if something accepts connections at KAFKA_HOST, whether or not it answers."""
    for host in _hosts():
        with suppress(OSError), _connect(host):
            return True
    return False


def require_reachable() -> None:
    """Raise KafkaConnectionError if no Kafka answers at KAFKA_HOST, Refused as is_reachable()."""
    if not is_reachable():
        raise KafkaConnectionError(f"no Kafka answers at {settings.kafka_host}")


class Outage:
    """Reports when Kafka goes away and when it is back, once for all clients of a process."""

    def __init__(self) -> None:
        self.since: float | None = None  # seconds since 1970; None: Kafka answers

    def begin(self) -> None:
        """Report that Kafka does not answer, unless that was reported."""
        if self.since is None:
            warn(f"Kafka does not answer at {settings.kafka_host} any more: waiting for it.")
            self.since = time.time()

    def end(self) -> None:
        """Report that Kafka answers again, if an outage was reported."""
        if self.since is not None:
            say("Kafka answers again.")
        self.since = None


outage = Outage()
