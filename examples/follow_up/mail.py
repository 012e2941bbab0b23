"""One e-mail: its text, and how an SMTP server is asked to take it (RFC 5321)."""

import hashlib
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import NamedTuple

from examples.follow_up.schedule import Due
from utils.settings import settings

TIMEOUT = 30  # seconds
# For the answer to a message, by RFC 5321, 4.5.3.2.6: who gives up earlier sends it again.
MESSAGE_TIMEOUT = 600


class Server(NamedTuple):
    """An SMTP server. With a username, STARTTLS is required, with a certificate that is valid."""

    host: str
    port: int
    username: str = ""
    password: str = ""


class Refused(Exception):
    """The server will not take this message, now or later (5xx)."""


class TryLater(Exception):
    """The server does not take this message now (4xx)."""


def compose(mail: Due, sender: str) -> EmailMessage:
    """Return the message; the same bytes for the same visit, however often it is asked for."""
    message = EmailMessage(policy.SMTP.clone(max_line_length=998))  # addresses can't be folded
    message["From"], message["To"] = sender, mail.email
    message["Subject"] = f"Still interested in {mail.item or 'what you were looking at'}?"
    message["Date"] = format_datetime(datetime.fromtimestamp(mail.due_at, UTC))
    message["Message-ID"] = message_id(mail.session, sender)
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
    message.set_content(
        "You left before you decided. We have kept everything as you left it.\n\n"
        "If you have a question, answer this e-mail: somebody will call you.\n"
    )
    return message


def message_id(session: str, sender: str) -> str:
    """Return the Message-ID of a session's e-mail: always the same one.

    A hash, because a stranger who could guess it would be able to make a mailbox drop our message
    as a repeated one, by sending his own before.
    """
    digest = hashlib.sha256(f"{settings.topic_prefix} {session}".encode()).hexdigest()
    return f"<{digest[:40]}@{sender.partition('@')[2]}>"


@contextmanager
def connect(server: Server) -> Iterator[smtplib.SMTP]:
    """Yield a connection; an smtplib.SMTPException or OSError if the server takes no messages."""
    with smtplib.SMTP(server.host, server.port, timeout=TIMEOUT) as smtp:
        if server.username:
            smtp.starttls(context=ssl.create_default_context())
            smtp.login(server.username, server.password)
        smtp.ehlo_or_helo_if_needed()
        yield smtp


def offer(smtp: smtplib.SMTP, message: EmailMessage) -> None:
    """Ask whether the server takes a message for this address; Refused or TryLater if not."""
    code, text = smtp.mail(message["From"])
    if code != 250:  # no message of ours
        raise smtplib.SMTPSenderRefused(code, text, message["From"])
    _check(*smtp.rcpt(message["To"]))


def hand_over(smtp: smtplib.SMTP, message: EmailMessage) -> None:
    """Return as soon as the server is responsible for the message; Refused or TryLater if not.

    After any other error it is not known whether it is.
    """
    smtp.sock.settimeout(MESSAGE_TIMEOUT)
    try:
        _check(*smtp.data(bytes(message)))
    except smtplib.SMTPDataError as error:  # the command itself is refused
        _check(error.smtp_code, error.smtp_error)
    smtp.sock.settimeout(TIMEOUT)


def _check(code: int, text: bytes) -> None:
    if not 200 <= code < 300:
        reason = f"{code} {text.decode(errors='replace')[:200]}"
        raise Refused(reason) if code >= 500 else TryLater(reason)
