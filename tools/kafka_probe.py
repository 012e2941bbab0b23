"""What listens at an address: a Kafka, something else, or nothing."""

import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress

from tools.kafka_install import BrokerError

CORRELATION = 431  # any number; the response must repeat it
# Complete requests: size, API key, version, correlation id, no client id, and what they ask for.
API_VERSIONS = struct.pack(">ihhih", 10, 18, 0, CORRELATION, -1)
METADATA = struct.pack(">ihhihib", 15, 3, 4, CORRELATION, -1, 0, 0)  # of no topics
_PORTS = range(20_000, 30_000)


def is_kafka(host: str, timeout: float = 5) -> bool:
    """Return True if a Kafka at host ("name:port", or several, with commas) answers ApiVersions."""
    return any(_answers(address(one), timeout) for one in host.split(","))


def count_brokers(host: str, timeout: float = 5) -> int:
    """Return how many brokers take part, as the one at host ("name:port") knows; 0: no answer."""
    answer = _ask(address(host), METADATA, 16, timeout)  # the delay, the number of brokers
    return struct.unpack_from(">i", answer, 12)[0] if len(answer) == 16 else 0


def listens(host: str) -> bool:
    """Return True if something accepts connections at host; BrokerError if it is no address."""
    try:
        with socket.create_connection(address(host), 5):
            return True
    except OSError:
        return False


def require_startable(host: str) -> None:
    """Raise BrokerError if no broker can start: its port is in use, or the host is remote."""
    name, port = address(host)
    if listens(host):
        raise BrokerError(
            f"port {port} is in use by something that is not Kafka: stop it (`lsof -i :{port}` "
            f"names it), or set KAFKA_HOST to another port"
        )
    with suppress(OSError):
        if socket.gethostbyname(name) == "127.0.0.1":
            return
    raise BrokerError(f"no Kafka answers at {host}, and it can be started at localhost only")


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens at, below the ephemeral ports.

    While the broker is away, a client that connects to an ephemeral port may be given the same one
    for its own end: TCP then connects it to itself, and the broker can't bind its port again.
    """
    while True:
        port = random.SystemRandom().choice(_PORTS)
        if is_free(port):
            return port


def is_free(port: int) -> bool:
    """Return True if a server can listen at this port of 127.0.0.1."""
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def address(host: str) -> tuple[str, int]:
    """Return name and port of "name:port"; BrokerError if it is something else."""
    name, _, port = host.strip().rpartition(":")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise BrokerError(f"KAFKA_HOST must look like localhost:9092, not {host!r}")
    return name.strip("[]"), int(port)


def until(condition: Callable, timeout: float) -> object:
    """Return the condition's first true value, False if it stays false for timeout seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return value


def _answers(where: tuple[str, int], timeout: float) -> bool:
    answer = _ask(where, API_VERSIONS, 10, timeout)
    return answer[8:] == b"\0\0"  # no error


def _ask(where: tuple[str, int], request: bytes, length: int, timeout: float) -> bytes:
    """Return the first bytes of the response, from its size on; nothing if there is none."""
    try:
        with socket.create_connection(where, timeout) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as stream:
                answer = stream.read(length)
    except OSError:
        return b""
    return answer if answer[4:8] == struct.pack(">i", CORRELATION) else b""
