"""A visitor of the shop in examples/journey without a browser: sends what its page sends."""

import http.client
import json
import threading
import time
import uuid


class Visitor:
    """One session. Its stream is read in a thread; `received` are its messages, in order.

    posted : when each view was reported; received_at : when its message came (time.monotonic()).
    """

    def __init__(self, port: int, source: str = "direct") -> None:
        self.port = port
        answer = self.request("GET", "/")
        self.cookie = answer.getheader("Set-Cookie", "").split(";")[0]
        self.received: list[dict] = []
        self.received_at: dict[str, float] = {}
        self.posted: dict[str, float] = {}
        self._listening = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._listening.wait(10)
        self.report({"kind": "arrived", "device": "desktop", "source": source})

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> http.client.HTTPResponse:
        """Send any request on a connection of its own; the body of the response is its `text`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        if cookie := getattr(self, "cookie", ""):
            headers = {"Cookie": cookie} | headers
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.text = answer.read()
        connection.close()
        return answer

    def post(self, body: bytes, **headers: str) -> int:
        """Report these bytes as an event; return the status."""
        headers = {"Content-Type": "application/json"} | headers
        return self.request("POST", "/events", body, **headers).status

    def report(self, event: dict) -> None:
        """Report an event, again until the shop has stored it, as the page does."""
        while (status := self.post(json.dumps(event).encode())) != 202:
            assert status in (429, 503), f"{status} for {event}"
            time.sleep(0.1)

    def view(self, item: str) -> str:
        """Look at an item; return the name of the view."""
        view = str(uuid.uuid4())
        self.posted[view] = time.monotonic()
        self.report({"kind": "viewed", "view": view, "item": item})
        return view

    def react(self, view: str, reaction: str) -> None:
        """React to a view."""
        self.report({"kind": "reacted", "view": view, "reaction": reaction})

    def leave(self) -> None:
        """Close the page."""
        self.report({"kind": "left"})

    def _listen(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("GET", "/stream", headers={"Cookie": self.cookie})
        stream = connection.getresponse()
        self._listening.set()
        while line := stream.readline():
            if line.startswith(b"data: "):
                message = json.loads(line.removeprefix(b"data: "))
                self.received_at[message["view"]] = time.monotonic()
                self.received.append(message)
