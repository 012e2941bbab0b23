"""Lets kafka-python 3.0.12 read from its sockets in large portions.

It reads 4 kB at a time: a fetch of 8 MB takes 2,000 calls, each of which costs as much as decoding
a record.
"""

from kafka.errors import KafkaConnectionError
from kafka.net.transport import KafkaTCPTransport

_PORTION = 2**18  # bytes


def read_large_portions() -> None:
    """Replace how connections without TLS read, for all clients of the process."""
    KafkaTCPTransport._sock_recv = _receive


def _receive(self: KafkaTCPTransport) -> tuple[bytes, KafkaConnectionError | None]:
    """Return what has arrived, and an error if the connection is lost."""
    received, error = [], None
    try:
        while data := self._sock.recv(_PORTION):
            received.append(data)
        error = KafkaConnectionError("socket disconnected")
    except (BlockingIOError, InterruptedError):
        pass  # there is no more at present
    except Exception as failure:  # as in kafka-python's: the connection must not stay, unread
        error = KafkaConnectionError(failure)
    return b"".join(received), error
