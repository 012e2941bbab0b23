"""What alerts lead to: a webhook, a command, a training. None of them can hold up the monitor."""

import http.client
import subprocess
import threading
import urllib.request
from abc import ABC, abstractmethod

from kafka.errors import KafkaError

from monitoring.rules import Rules, asks_for_training
from utils.console import warn
from utils.kafka_client.security import Refused
from utils.kafka_client.sender import Sender
from utils.kafka_client.topics import RETRAIN_TOPIC
from utils.messages import ControlMessage, encode
from utils.settings import settings

FAILURES = (
    OSError,
    ValueError,
    http.client.HTTPException,  # what answers does not speak HTTP
    subprocess.SubprocessError,
    KafkaError,
    Refused,
)
WEBHOOK_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 60.0  # seconds
TRIES = 10  # of one event, in about eight minutes
FIRST_PAUSE = 1.0  # seconds after the first try; each further one is twice as long
LONGEST_PAUSE = 120.0  # seconds between two tries


class Action(ABC):
    """One way to deliver events."""

    name: str

    def wants(self, rule: str, state: str) -> bool:
        """Return whether events of this rule are delivered; state : as in Event."""
        return state in ("begin", "end")

    @abstractmethod
    def act(self, event: bytes, text: str) -> None:
        """Deliver one event, as JSON; one of FAILURES if that fails."""

    def deliver(self, event: bytes, text: str, stop: threading.Event) -> bool:
        """Try to act until it works or TRIES are used up; False if `stop` is set meanwhile."""
        pause, error = FIRST_PAUSE, None
        for _ in range(TRIES):
            try:
                self.act(event, text)
                return True
            except FAILURES as failed:
                if error is None:
                    warn(f"The {self.name} of an alert failed: {failed}. Trying again.")
                error = failed
            if stop.wait(pause):
                return False
            pause = min(2 * pause, LONGEST_PAUSE)
        warn(f"The {self.name} of an alert failed {TRIES} times: {error}. It is dropped: {text}.")
        return True


class Webhook(Action):
    """POSTs events to a URL."""

    name = "webhook"

    def __init__(self, url: str) -> None:
        self._url = url

    def act(self, event: bytes, text: str) -> None:
        """Send one event; any status but 2xx is a failure."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, event, headers)  # noqa: S310 - http(s) only
        with urllib.request.urlopen(request, timeout=WEBHOOK_TIMEOUT):  # noqa: S310
            pass


class Command(Action):
    """Runs a program, without a shell; the event is its standard input."""

    name = "command"

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def act(self, event: bytes, text: str) -> None:
        """Run it once; killed after COMMAND_TIMEOUT, an exit code other than 0 is a failure."""
        subprocess.run(
            self._command,
            input=event,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT,
            check=True,
        )


class RetrainRequest(Action):
    """Asks for a training when a drift begins, or lasts, ahead of the count of requests."""

    name = "retrain request"

    def __init__(self) -> None:
        self._sender = Sender()

    def wants(self, rule: str, state: str) -> bool:
        """Return whether this is a drift that begins, or goes on."""
        return state in ("begin", "lasts") and asks_for_training(rule)

    def act(self, event: bytes, text: str) -> None:
        """Send the request; one that is sent twice leads to one training, or to a second one."""
        value = encode(ControlMessage(retrain=True, now=True, why=text))
        self._sender.send({"topic": RETRAIN_TOPIC, "value": value, "partition": 0})


def actions(rules: Rules) -> list[Action]:
    """Return the actions that the rules and RETRAIN_ON_DRIFT ask for."""
    found: list[Action] = []
    if rules.webhook:
        found.append(Webhook(rules.webhook))
    if rules.command:
        found.append(Command(rules.command))
    if settings.retrain_on_drift:
        found.append(RetrainRequest())
    return found
