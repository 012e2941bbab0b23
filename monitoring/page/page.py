"""The monitor's live page: one look tells whether predictions are right, fast and complete.

    page = LatePage(settings.listen_host, settings.monitor_port)
    page.publish(snapshot, histories)    # once a second

Works offline; nothing can be changed through it. See web_server.py for what it serves.
"""

import errno
import math
import socket
import threading
import time
from collections.abc import Mapping

from monitoring.page.feed import Feed
from monitoring.page.web_server import Server
from monitoring.snapshot import History, Snapshot
from utils.console import say, warn

OPEN_EVERY = 5.0  # seconds between attempts to open the page


class Page:
    """Serves the page from a thread of its own until close(); OSError if the port can't be used.

    port : 0: any free one. address : the URL of the page.
    """

    def __init__(self, host: str, port: int) -> None:
        self._feed = Feed()
        self._server = Server(host, port, self._feed)
        name = "localhost" if host in ("", "0.0.0.0", "::") else host  # noqa: S104
        name = f"[{name}]" if ":" in name else name
        self.port = self._server.server_port
        self.address = f"http://{name}:{self.port}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="page", daemon=True
        ).start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return self._server.connections

    def publish(self, snapshot: Snapshot, histories: Mapping[str, History]) -> None:
        """Show this from now on; histories are by their span: hour, day, all."""
        self._feed.publish(snapshot, histories)

    def close(self) -> None:
        """End all connections and stop."""
        self._feed.close()
        self._server.shutdown()
        self._server.server_close()


class LatePage:
    """The page, opened by publish() as soon as its port is free; port 0: none."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self.page: Page | None = None
        self._problem, self._open_at = "", 0.0 if port else math.inf

    def publish(self, snapshot: Snapshot, histories: Mapping[str, History]) -> None:
        """Show this from now on, on the page if there is one; opens it if it can be."""
        self.open()
        if self.page:
            self.page.publish(snapshot, histories)

    def open(self) -> None:
        """Open the page if it is not, say its address, or once why there is none."""
        if self.page or time.monotonic() < self._open_at:
            return
        self._open_at = time.monotonic() + OPEN_EVERY
        try:
            self.page = Page(self._host, self._port)
        except OSError as error:
            self._fail(error)
        else:
            say(f"The page is open: {self.page.address}", "bold")

    def _fail(self, error: OSError) -> None:
        wrong = f"MONITOR_PORT: {self._port} can't be used on {self._host}"
        if isinstance(error, socket.gaierror):
            wrong = f"LISTEN_HOST: {self._host!r} can't be used"
            self._open_at = math.inf  # to ask for a name may take long
        elif error.errno == errno.EADDRNOTAVAIL:
            wrong = f"LISTEN_HOST: {self._host} is no address of this machine"
        then = "there is no page" if self._open_at == math.inf else "the page opens when it can be"
        if wrong != self._problem:
            warn(f"{wrong}: {error.strerror}; {then}.")
        self._problem = wrong

    def close(self) -> None:
        """Close the page, if there is one."""
        if self.page:
            self.page.close()
