"""A small HTTP server for Prometheus and for whoever asks whether a script is alive.

    /metrics   the numbers, in Prometheus' text format or OpenMetrics
    /healthz   200 "ok"; 503 and one sentence if the main loop is stuck. Kafka may be away.
    /readyz    200 "ok"; 503 while the script waits to begin, or for Kafka

It answers GET, one request per connection. Whatever clients do, it has at most MAX_CONNECTIONS
threads, and no connection lasts longer than CONNECTION_TIMEOUT.
"""

import socket
import socketserver
import threading
import time
from contextlib import suppress

from prometheus_client import CollectorRegistry, MetricsHandler

from utils.process import health

MAX_CONNECTIONS = 8
CONNECTION_TIMEOUT = 5.0  # seconds


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves at most MAX_CONNECTIONS at a time; others are closed at once."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64  # connections that wait to be accepted

    def __init__(self, address: tuple[str, int], handler: type) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._since: dict[socket.socket, float] = {}  # when each open connection began
        super().__init__(address, handler)

    def verify_request(self, request: socket.socket, client_address: object) -> bool:
        """Return False if there are too many connections."""
        return len(self._since) < MAX_CONNECTIONS

    def process_request(self, request: socket.socket, client_address: object) -> None:
        """Answer in a thread."""
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End the connections that last too long; serve_forever() calls this twice a second."""
        for request, since in list(self._since.items()):
            if time.monotonic() - since > CONNECTION_TIMEOUT:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: socket.socket) -> None:
        """Close a connection."""
        self._since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address: object) -> None:
        """Say nothing: a client that went away is no event."""


class Handler(MetricsHandler):
    """Answers one request."""

    timeout = CONNECTION_TIMEOUT
    server_version, sys_version = "pipeline", ""

    def do_GET(self) -> None:
        """Answer a GET request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self.path = path  # without a query: it could choose some of the metrics
            super().do_GET()
        elif path == "/healthz":
            self._answer(stuck())
        elif path == "/readyz":
            self._answer("" if health.ready else "It is not ready.")
        else:
            self.send_error(404)

    def _answer(self, problem: str) -> None:
        content = f"{problem or 'ok'}\n".encode()
        self.send_response(503 if problem else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def stuck() -> str:
    """Return a sentence if the main loop is stuck, else ""."""
    silence = health.overdue()
    return f"The main loop has been stuck for {silence:.0f} seconds." if silence else ""


def start(address: tuple[str, int], collector: object) -> Server:
    """Serve what the collector collects in a thread, until the process ends; OSError."""
    registry = CollectorRegistry()
    registry.register(collector)
    server = Server(address, Handler.factory(registry))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
