"""One e-mail: its text, and how an SMTP server is asked to take it (RFC 5321)."""

import hashlib
import smtplib
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import NamedTuple

from examples.follow_up.schedule import Due
from utils.settings import settings

CONNECT_TIMEOUT = 10  # seconds
# RFC 5321, 4.5.3.2.6: who waits less for the answer to a message sends it twice (RFC 1047).
ANSWER_TIMEOUT = 600


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
    message["From"], message["To"] = sender, mail.visitor
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


def send(message: EmailMessage, server: Server, accepted: Callable[[], None]) -> None:
    """Send a message, and call accepted() as soon as the server has taken responsibility for it.

    Refused or TryLater about this message; another smtplib.SMTPException or OSError if the server
    is away, or takes no messages from us at all.
    """
    with smtplib.SMTP(server.host, server.port, timeout=CONNECT_TIMEOUT) as smtp:
        smtp.sock.settimeout(ANSWER_TIMEOUT)
        if server.username:
            smtp.starttls(context=ssl.create_default_context())
            smtp.login(server.username, server.password)
        try:
            smtp.sendmail(message["From"], message["To"], bytes(message))
        except smtplib.SMTPRecipientsRefused as error:
            [(code, text)] = error.recipients.values()
            raise _verdict(code, text) from None
        except smtplib.SMTPDataError as error:
            raise _verdict(error.smtp_code, error.smtp_error) from None
        accepted()  # before the connection is closed: nothing else is in the gap


def _verdict(code: int, text: bytes) -> Exception:
    reason = f"{code} {text.decode(errors='replace')[:200]}"
    return Refused(reason) if code >= 500 else TryLater(reason)
