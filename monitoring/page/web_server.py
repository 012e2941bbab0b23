"""The HTTP server of the monitor's page: reads only, few clients at once, none for ever.

    /                       the page; its files are those in FILES, nothing else is served
    /snapshot.json          the newest Snapshot
    /history.json?span=S    the newest History of a span: hour, day or all
    /events                 both, as server-sent events (WHATWG HTML, 9.2): one a second

One request a connection. Bound to a loopback address, it answers only if the Host header says so
too: the page of another site that has this address as its own name (DNS rebinding) gets nothing.
"""

import io
import ipaddress
import socket
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from urllib.parse import parse_qs, urlsplit

from monitoring.page.feed import Feed

MAX_CONNECTIONS = 50
MAX_REFUSALS = 10  # further connections that are told so; the rest are closed
MAX_STREAMS = 20
MAX_HEAD = 16_384  # bytes of a request: it has no body
TIMEOUT = 5.0  # seconds for a whole request, and for each response or event
HEARTBEAT = 10.0  # seconds without news after which a stream says that it is alive
SEND_BUFFER = 131_072  # bytes that a client may leave unread before it counts as slow

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_FOLDER = Path(__file__).parent / "static"
# Path of a URL: (content, type).
FILES = {
    f"/{file.name}": (file.read_bytes(), _TYPES[file.suffix[1:]])
    for file in sorted(_FOLDER.iterdir())
    if file.suffix[1:] in _TYPES
}
FILES["/"] = FILES.pop("/index.html")

_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Server(ThreadingHTTPServer):
    """Serves a feed; OSError if the address can't be used.

    connections : how many are open.
    """

    daemon_threads = True
    request_queue_size = 64
    allow_reuse_port = False  # two monitors must not share a port

    def __init__(self, host: str, port: int, feed: Feed) -> None:
        self.feed = feed
        self.names = _allowed_names(host)
        self.streams = threading.BoundedSemaphore(MAX_STREAMS)
        self.connections, self._lock = 0, threading.Lock()
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which may take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def is_full(self) -> bool:
        """Return whether more connections are open than are served."""
        return self.connections > MAX_CONNECTIONS

    def process_request(self, request: socket.socket, client_address: tuple) -> None:
        """Handle a connection in a thread of its own, unless there are too many."""
        if self.connections >= MAX_CONNECTIONS + MAX_REFUSALS:
            self.shutdown_request(request)
            return
        self._count(1)
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system gives no further thread
            self._count(-1)
            self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, client_address: tuple) -> None:
        """Handle a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.connections += change


def _allowed_names(host: str) -> set[str] | None:
    """Return the names that a Host header may have; None: any."""
    with suppress(ValueError):
        if not ipaddress.ip_address(host).is_loopback:
            return None
        return {host, "localhost", "127.0.0.1", "::1"}
    return {host, "127.0.0.1", "::1"} if host == "localhost" else None


class _Handler(BaseHTTPRequestHandler):
    server: Server
    server_version, sys_version = "monitor", ""
    error_message_format = "%(code)d %(message)s\n"
    error_content_type = "text/plain; charset=utf-8"

    def handle(self) -> None:
        with suppress(OSError):  # the client is gone, or too slow
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            head = self._read_head()
            self.connection.settimeout(TIMEOUT)
            self.rfile = io.BytesIO(head)
            super().handle()

    def _read_head(self) -> bytes:
        head, end = b"", time.monotonic() + TIMEOUT
        while b"\r\n\r\n" not in head and len(head) <= MAX_HEAD:
            self.connection.settimeout(max(end - time.monotonic(), 0.001))
            received = self.connection.recv(MAX_HEAD)
            if not received:
                break
            head += received
        return head

    def parse_request(self) -> bool:
        """Refuse what is too long."""
        if len(self.rfile.getbuffer()) <= MAX_HEAD:
            return super().parse_request()
        self.command, self.requestline, self.request_version = "", "", "HTTP/1.0"
        self.send_error(431)
        return False

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")  # urlsplit() raises errors
        if self.server.is_full():
            self._refuse("too many connections")
        elif not self._is_for_us():
            self.send_error(403, "this page has another name: see LISTEN_HOST")
        elif path in FILES:
            self._send(*FILES[path])
        elif path == "/snapshot.json":
            self._send_json(self.server.feed.snapshot)
        elif path == "/history.json":
            span = parse_qs(query).get("span", ["hour"])[0]
            self._send_json(self.server.feed.histories.get(span, b""))
        elif path == "/events":
            self._stream()
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.send_error(405, "this page can only be read")

    do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_POST

    def _is_for_us(self) -> bool:
        names = self.server.names
        with suppress(ValueError):
            return names is None or urlsplit("//" + self.headers.get("Host", "")).hostname in names
        return False

    def _refuse(self, why: str) -> None:
        self._retry_after = "5"
        self.send_error(503, why)

    def _send_json(self, content: bytes) -> None:
        if content:
            self._send(content, "application/json")
        else:
            self.send_error(404, "not known, or not yet")

    def _send(self, content: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _stream(self) -> None:
        if not self.server.streams.acquire(blocking=False):
            self._refuse("too many streams")
            return
        try:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if self.command != "HEAD":
                self._write_events(self.server.feed)
        finally:
            self.server.streams.release()

    def _write_events(self, feed: Feed) -> None:
        version = feed.version_of(self.headers.get("Last-Event-ID", ""))
        self.wfile.write(b"retry: 1000\n\n")
        while not feed.closed:
            version, event = feed.news(version, HEARTBEAT)
            self.wfile.write(event or b":\n\n")

    def end_headers(self) -> None:
        """Add the headers that every response has."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if retry := getattr(self, "_retry_after", None):
            self.send_header("Retry-After", retry)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: anybody could fill the log."""
