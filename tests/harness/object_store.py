"""A real S3 server on loopback, and a proxy before it that makes faults."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

from tests.harness.pipeline import wait_until
from tools import local_kafka

LOGIN = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
PORTS = ("master", "volume", "filer", "s3")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


class ObjectStore:
    """SeaweedFS in a folder; bucket : one that is there.

    It takes only requests that are signed with LOGIN, reports nothing to anybody, and listens on
    loopback only.
    """

    bucket = "models"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: local_kafka.free_port() for name in (*PORTS, *map(_grpc, PORTS))}
        # Their paths may have at most 107 bytes, and those of folders of tests are long.
        sockets = f"/tmp/object-store-{self._ports['s3']}"  # noqa: S108
        self._sockets = {name: f"{sockets}-{name}.sock" for name in ("filer", "s3")}
        self.address = f"127.0.0.1:{self._ports['s3']}"
        self.environment = LOGIN | {"AWS_ENDPOINT_URL": f"http://{self.address}"}

    def start(self) -> None:
        """Start it, and return when it answers."""
        (self._folder / "store").mkdir(exist_ok=True)
        weed = Path(sys.executable).parent / "weed"
        options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder / 'store'}"]
        options += ["-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
        options += ["-filer", "-s3", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        options += [f"-{name}.localSocket={path}" for name, path in self._sockets.items()]
        options += [f"-{name}.port={self._ports[name]}" for name in PORTS]
        options += [f"-{name}.port.grpc={self._ports[_grpc(name)]}" for name in PORTS]
        with open(self._folder / "weed.log", "ab") as log:
            self._process = subprocess.Popen(
                [weed, "server", *options], env=os.environ | LOGIN, stdout=log, stderr=log
            )
        wait_until(self._answers, 60, "an S3 server that answers")

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "weed.log").read_text()[-2_000:]
        try:
            with urllib.request.urlopen(f"http://{self.address}/healthz", timeout=1):
                return self._makes_buckets()
        except OSError:
            return False

    def _makes_buckets(self) -> bool:
        import obstore
        from obstore.store import S3Store

        options = {"client_options": {"allow_http": True}, "endpoint": f"http://{self.address}"}
        login = {name.removeprefix("AWS_").lower(): value for name, value in LOGIN.items()}
        store = S3Store(self.bucket, **options, **login)
        with suppress(obstore.exceptions.BaseError):
            obstore.put(store, "first", b"")  # the server makes the bucket
            return True
        return False

    def kill(self) -> None:
        """End it, as kill -9 does."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for path in self._sockets.values():
            Path(path).unlink(missing_ok=True)


def _grpc(name: str) -> str:
    return f"{name}.grpc"


class Fault(NamedTuple):
    """What happens to requests of this method whose path contains `path`.

    kind : "slow" (by 1 s), a status such as "503", "half" (the server gets half of the body),
    "lost" (the request takes effect, its answer is lost), "short" (the client gets half of the
    answer's body).
    """

    kind: str
    method: str = ""
    path: str = ""


class FaultProxy:
    """An HTTP proxy before an object store; `faults` happen once each, in order.

    is_away : close every connection at once. requests : (method, path) of all requests so far.
    """

    def __init__(self, behind: str) -> None:
        self.behind, self.faults, self.is_away = behind, [], False
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": self})
        )
        self._server.daemon_threads = True
        address = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = LOGIN | {"AWS_ENDPOINT_URL": address}
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    def fault(self, method: str, path: str) -> str:
        """Return the kind of the fault that happens to this request, "" for none."""
        self.requests.append((method, path))
        for fault in self.faults:
            if fault.method in ("", method) and fault.path in path:
                self.faults.remove(fault)
                return fault.kind
        return ""

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30
    proxy: FaultProxy

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, TimeoutError, HTTPException):
            super().handle_one_request()

    def _forward(self) -> None:
        if self.proxy.is_away:
            return self._hang_up()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.proxy.fault(self.command, self.path)
        if kind == "slow":
            time.sleep(1)  # the fault itself
        if kind.isdigit():
            return self._answer(int(kind), {}, b"<Error><Code>Fault</Code></Error>")
        if kind == "half":
            self._send_half(body)
            return self._hang_up()
        status, headers, content = self._ask(body)
        if kind == "lost":
            return self._hang_up()
        self._answer(status, headers, content, short=kind == "short")

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward

    def _ask(self, body: bytes) -> tuple[int, dict, bytes]:
        connection = HTTPConnection(self.proxy.behind, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read()
        connection.close()
        return found

    def _send_half(self, body: bytes) -> None:
        connection = HTTPConnection(self.proxy.behind, timeout=30)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(body[: len(body) // 2])
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _answer(self, status: int, headers: dict, content: bytes, short: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in HOP:
                self.send_header(name, value)
        length = (
            headers.get("Content-Length", len(content)) if self.command == "HEAD" else len(content)
        )
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if short else content)
        if short:
            self._hang_up()

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        pass
