"""A shop whose visitors leave, and the example that writes to them, with a real mail server."""

import json
import os
import signal

from tests.harness.mail_server import MailServer
from tests.harness.pipeline import wait_until

READY = "Waiting for visitors who leave."


class Shop:
    """Sends what a shop would send, and runs the example."""

    def __init__(self, pipeline, port: int) -> None:
        self.pipeline, self.port = pipeline, port
        for topic in ("app_messages", "events"):
            pipeline.create_topic(topic, partitions=2)

    def start(self, *options: str, **environment: str):
        """Start the example; it is ready when this returns."""
        command = ("-m", "examples.follow_up.follow_up", "--smtp", f"localhost:{self.port}")
        options = ("--retry", "0.2", *options)
        return self.pipeline.start_and_wait(*command, *options, until=READY, **environment)

    def event(self, name: str, kind: str, email: str = "", **fields: str) -> None:
        """Send an event; the visitor's address is made of the name if it is not given."""
        message = {"session": session_of(name), "kind": kind, "email": email or address(name)}
        self.pipeline.send(message | fields, topic="events", key=name.encode())

    def predict(self, *names: str) -> None:
        """Send a prediction for each visitor, as the tutorial's predictor does."""
        for name in names:
            prediction = {"request_id": f"{session_of(name)}-1", "prediction": 1.0}
            self.pipeline.send(prediction, partition=0)

    def buy(self, name: str) -> None:
        """Let a visitor buy something."""
        self.event(name, "reacted", reaction="bought")

    def leave(self, *names: str) -> None:
        """Let visitors leave, and return when Kafka has stored it."""
        for name in names:
            self.event(name, "left")
        self.pipeline.producer.flush()

    def left_at(self) -> dict[str, float]:
        """Return when each visitor left, by e-mail address, in seconds since 1970."""
        events = [(json.loads(r.value), r.timestamp) for r in self.pipeline.records("events")]
        return {each["email"]: at / 1000 for each, at in events if each["kind"] == "left"}


def address(name: str) -> str:
    """Return the e-mail address of the visitor with this name."""
    return f"{name}@visitors.example"


def session_of(name: str) -> str:
    """Return the session of the visitor with this name."""
    return name.replace("-", "_").ljust(16, "_")


def wait_for_mail(mail: MailServer, *names: str) -> None:
    """Return when each of these visitors has got an e-mail."""
    wanted = set(map(address, names))
    wait_until(lambda: wanted <= set(mail.recipients()), what=f"e-mails for {names}")


def kill(process) -> None:
    """End a process as a power cut does, and return when it has ended."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
