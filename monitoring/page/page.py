"""The monitor's live page: one look tells whether predictions are right, fast and complete.

    page = open_page(settings.listen_host, settings.monitor_port)
    page.publish(snapshot, histories)    # once a second

Works offline; nothing can be changed through it. See web_server.py for what it serves.
"""

import errno
import socket
import threading
from collections.abc import Mapping

from monitoring.page.feed import Feed
from monitoring.page.web_server import Server
from monitoring.snapshot import History, Snapshot
from utils.console import say, warn


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


def open_page(host: str, port: int) -> Page | None:
    """Return the page and say its address; None if there is none: port 0, or it can't be used."""
    if not port:
        return None
    try:
        page = Page(host, port)
    except socket.gaierror as error:
        warn(f"LISTEN_HOST: {host!r} can't be used: {error.strerror}; there is no page.")
        return None
    except OSError as error:
        wrong = f"MONITOR_PORT: {port} can't be used on {host}"
        if error.errno == errno.EADDRNOTAVAIL:
            wrong = f"LISTEN_HOST: {host} is no address of this machine"
        warn(f"{wrong}: {error.strerror}; there is no page.")
        return None
    say(f"The page is open: {page.address}", "bold")
    return page
