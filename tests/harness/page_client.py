"""Clients of the monitor's page that are no browser."""

import http.client
import json
import socket
import time
from contextlib import closing


def get(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """Return the response; its body is `text`."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.text = response.read()
        return response


def connect(port: int, sent: bytes = b"") -> socket.socket:
    """Return a connection on which this has been sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes the connection."""
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def send_slowly(connection: socket.socket, seconds: float) -> None:
    """Send a byte now and then: each comes in time, the whole never."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(b"X")
        time.sleep(0.05)


class Stream:
    """A client of /events.

    last : the id of the newest event.
    """

    def __init__(self, port: int, last: str = "") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._connection.request("GET", "/events", headers={"Last-Event-ID": last} if last else {})
        self.response = self._connection.getresponse()
        self.last = ""

    def event(self) -> dict:
        """Return the data of the next event."""
        lines = {}
        while "data" not in lines:
            line = self.response.readline().decode().rstrip("\n")
            name, _, value = line.partition(": ")
            lines[name] = value
        assert self.response.readline() == b"\n", "an event has one line of data"
        self.last = lines["id"]
        return json.loads(lines["data"])

    def close(self) -> None:
        """Close the connection."""
        self.response.close()
        self._connection.close()
