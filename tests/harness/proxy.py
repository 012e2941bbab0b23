"""A TCP proxy as a load balancer is one: it accepts connections whether or not Kafka is there."""

import selectors
import socket
import threading
from contextlib import suppress


class Proxy:
    """Forwards connections to `behind`; closes them at once while nothing listens there.

    accepted : the number of connections so far.
    """

    def __init__(self, behind: str, port: int = 0) -> None:
        name, port_behind = behind.split(":")
        self._behind = name, int(port_behind)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.host = f"localhost:{self._listener.getsockname()[1]}"
        self.accepted = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._forward, args=[client], daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._behind) as server:
            other = {client: server, server: client}
            with selectors.DefaultSelector() as selector:
                for side in other:
                    selector.register(side, selectors.EVENT_READ)
                while True:
                    for key, _ in selector.select():
                        if not (received := key.fileobj.recv(65536)):
                            return
                        other[key.fileobj].sendall(received)

    def close(self) -> None:
        """Accept no further connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
