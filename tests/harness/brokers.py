"""Real brokers for tests and benchmarks, on free ports of loopback."""

import random
import socket
from contextlib import suppress


def free_port() -> int:
    """Return a free port below the ephemeral ones.

    While the broker is away, a client that calls an ephemeral port may be given the same one for
    its own end: TCP then connects it to itself, and the broker can't have its port back.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
