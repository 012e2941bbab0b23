"""A real SMTP server on loopback, which can be slow, refuse, or be away."""

import re
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import NamedTuple

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tools import local_kafka

OK = "250 OK"


class Accepted(NamedTuple):
    """A message that the server took, whether or not its client heard of it."""

    to: list[str]
    content: bytes
    at: float  # seconds since 1970

    @property
    def message_id(self) -> str:
        return re.search(rb"^Message-ID: (.*)\r$", self.content, re.MULTILINE)[1].decode()


class MailServer:
    """accepted : the messages that it took, in order; login : the name and password that it asks
    for, by STARTTLS, None if everybody may send.

    answer_rcpt, answer_data : functions of an address that return the server's answer to its RCPT
    and, once the message was taken down, to its DATA. A slow server is one whose function sleeps.
    """

    def __init__(self, context: ssl.SSLContext | None = None, login: tuple | None = None) -> None:
        self.port = local_kafka.free_port()
        self.accepted: list[Accepted] = []
        self.answer_rcpt: Callable[[str], str] = lambda address: OK
        self.answer_data: Callable[[str], str] = lambda address: OK
        self._options = {}
        if context:
            self._options = {
                "tls_context": context,
                "auth_required": True,
                "authenticator": lambda *call: AuthResult(
                    success=(call[-1].login.decode(), call[-1].password.decode()) == login,
                    handled=False,  # aiosmtpd sends the answer
                ),
            }

    @contextmanager
    def running(self):
        """Listen until the block ends."""
        controller = Controller(self, "127.0.0.1", self.port, **self._options)
        controller.start()
        try:
            yield self
        finally:
            controller.stop()

    async def handle_RCPT(  # noqa: N802 (aiosmtpd's name)
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = self.answer_rcpt(address)
        if answer == OK:
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        message = Accepted(envelope.rcpt_tos, envelope.content, time.time())
        answer = self.answer_data(message.to[0])
        if answer == OK:
            self.accepted.append(message)
        return answer

    def recipients(self) -> list[str]:
        """Return the address of each message that was taken, in order."""
        return [address for message in self.accepted for address in message.to]

    def repeats(self) -> int:
        """Return how many messages were taken again, with the Message-ID of an earlier one."""
        return len(self.accepted) - len(Counter(each.message_id for each in self.accepted))
