"""Writes an e-mail to visitors who left and who, by the prediction, are worth it.

    python -m examples.follow_up.follow_up --dry-run              # prints instead of sending
    python -m examples.follow_up.follow_up --smtp localhost:1025 --sender shop@example.org
    python -m examples.follow_up.follow_up --smtp ... --sender ... --delay 1800

It reads what visitors do, and the predictions (examples/follow_up/events.py has the format). It
sends the e-mail --delay seconds after a visitor left, unless the visitor comes back or buys
meanwhile. A session gets at most one e-mail, and so does a visitor within a day. SMTP_USERNAME and
SMTP_PASSWORD in the environment log in, by STARTTLS. Kafka and TOPIC_PREFIX are the pipeline's.

Exactly once, and where that ends: positions and schedule are stored in one SQLite transaction, so
no event is lost or counted twice, whenever this process is killed. An e-mail is noted as sent as
soon as the server has answered that it takes it. A process that is killed between this answer and
the fsync of the note sends the e-mail again: SMTP has no transactions, and no sender can close this
gap (RFC 1047). A repeated e-mail has the same Message-ID, by which servers and mailboxes recognise
it.
"""

import argparse
import os
import re
import smtplib
import sqlite3
import time
from contextlib import closing
from threading import Event

from kafka.errors import KafkaError

from examples.follow_up.events import ADDRESS, EVENTS, TOPICS, decode_event, decode_prediction
from examples.follow_up.mail import (
    Refused,
    Server,
    TryLater,
    compose,
    connect,
    hand_over,
    offer,
)
from examples.follow_up.schedule import DAY, KEEP, Due, Schedule
from utils.console import say, warn
from utils.files import ROOT, make_private
from utils.kafka_client.reader import Polled, Reader
from utils.kafka_client.topics import APP_MESSAGES, prepare_topics
from utils.process import only_one, reset_restarts, stop_on_signals
from utils.script import command_line, run
from utils.settings import settings

COMPLAIN_EVERY = 60  # seconds


class FollowUp:
    """Moves events and predictions into the schedule, and sends what is due."""

    def __init__(self, schedule: Schedule, options: argparse.Namespace) -> None:
        self._schedule, self._options = schedule, options
        self._reader = Reader(schedule.positions(), EVENTS, APP_MESSAGES)
        self._due: Due | None = None
        self._ends: dict | None = None  # what must be read before this e-mail is sent
        self._server_back_at = self._complain_at = 0.0  # by the monotonic clock
        self._ignored = 0

    def step(self) -> None:
        """Read what has come, then send one e-mail if one is due; KafkaError, sqlite3.Error."""
        wait = 0.02 if self._ends else 0.5 * (self._due is None)
        polled = self._reader.poll(wait)
        if polled.positions:
            self._store(polled)
        before, self._due = self._due, self._next_due()
        if self._due is None:
            return
        # The visitor may be back, and we may not have read it yet, after a standstill for example:
        # first read all that Kafka holds now. So no e-mail is sent while Kafka is away.
        if self._ends is None or self._due != before or not polled.records:
            self._ends = self._reader.ends()
        if self._reader.has_read(self._ends):
            self._ends = None
            self._send(self._due)

    def recover(self) -> None:
        """Go back to the stored positions: what was polled and not stored is read again."""
        self._reader.return_to(self._schedule.positions())

    def close(self) -> None:
        """Close the consumer."""
        self._reader.close()

    def _next_due(self) -> Due | None:
        if time.monotonic() < self._server_back_at:
            return None
        return self._schedule.due(self._options.delay, self._options.too_late)

    def _store(self, polled: Polled) -> None:
        events, predictions = [], []
        for partition, records in polled.records.items():
            for record in records:
                if record.value == b"":  # a checkpoint of the journey's aggregator
                    continue
                if partition.topic == APP_MESSAGES:
                    predictions.append(decode_prediction(record.value))
                    continue
                try:
                    event = decode_event(record.value)
                except ValueError as error:
                    self._complain(str(error))
                    continue
                if event.session:
                    events.append((event, _time_of(record.timestamp)))
        self._schedule.add(events, filter(None, predictions), polled.positions)

    def _complain(self, reason: str) -> None:
        self._ignored += 1
        if time.monotonic() >= self._complain_at:
            warn(f"Ignored {self._ignored} invalid events; the last one: {reason[:200]}")
            self._ignored, self._complain_at = 0, time.monotonic() + COMPLAIN_EVERY

    def _send(self, due: Due) -> None:
        """Send an e-mail, or note why it was not sent."""
        message = compose(due, self._options.sender)
        if self._options.dry_run:
            self._schedule.settle(due.session, "sent")
            return say(f"Would send to {due.email}: {message['Subject']}", "green")
        try:
            with connect(self._options.server) as smtp:
                offer(smtp, message)
                # Where a disk is full, nothing is sent: this is the same write as the one below.
                self._schedule.begin_attempt(due.session, self._options.retry)
                hand_over(smtp, message)
                # Killed here, before the next line is on disk, we send it again: the only gap.
                self._schedule.settle(due.session, "sent")
        except Refused as error:
            self._schedule.settle(due.session, "refused")
            warn(f"The e-mail to {due.email} was refused, and is given up: {error}")
        except TryLater as error:
            self._schedule.postpone(due.session, self._options.retry)
            warn(f"The e-mail to {due.email} has to wait {self._options.retry:g} s: {error}")
        except (smtplib.SMTPException, OSError) as error:
            self._server_back_at = time.monotonic() + self._options.retry
            host, port, *_ = self._options.server
            warn(f"{host}:{port} takes no e-mail, next try in {self._options.retry:g} s: {error}")
        else:
            again = "; an earlier attempt may have arrived too" if due.attempts else ""
            say(f"Sent to {due.email}{again}.", "green")


def _time_of(timestamp: int) -> float:
    """Return a record's time in seconds since 1970; a clock that is ahead postpones nothing."""
    return min(timestamp / 1000, time.time()) if timestamp >= 0 else time.time()


def _seconds(text: str) -> float:
    if not 0 <= float(text) <= KEEP:
        raise argparse.ArgumentTypeError(f"expected seconds, from 0 to {KEEP}")
    return float(text)


def parse_options() -> argparse.Namespace:
    """Return the options; SystemExit with a sentence that names the wrong one."""
    parser = command_line(__doc__, "examples.follow_up.follow_up")
    add = parser.add_argument
    add("--smtp", metavar="HOST:PORT", help="the SMTP server that takes the e-mails")
    add("--sender", default="shop@example.org", help="e-mail address (shop@example.org)")
    add("--delay", type=_seconds, default=0, help="seconds after the visitor left (0)")
    add("--retry", type=_seconds, default=60, help="seconds until an e-mail is tried again (60)")
    add("--too-late", type=_seconds, default=DAY, help="seconds until it is given up (a day)")
    add("--dry-run", action="store_true", help="print instead of sending, with a schedule apart")
    options = parser.parse_args()
    if not re.match(ADDRESS, options.sender):
        parser.error("--sender: expected an e-mail address")
    if options.delay + options.too_late > KEEP:
        parser.error(f"--delay and --too-late: together at most {KEEP} s")
    found = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d{1,5})", options.smtp or "")
    if not found and not options.dry_run:
        parser.error("--smtp: expected host:port")
    if found:
        login = (os.environ.get(name, "") for name in ("SMTP_USERNAME", "SMTP_PASSWORD"))
        options.server = Server(found[1].strip("[]"), int(found[2]), *login)
    return options


def main() -> None:
    """Read and send until Ctrl-C or SIGTERM."""
    options = parse_options()
    stop = stop_on_signals()
    make_private(settings.data_dir, ROOT)
    path = settings.data_dir / f"follow_up{'_dry_run' if options.dry_run else ''}.db"
    prepare_topics(read=(EVENTS, APP_MESSAGES), others=TOPICS)
    waiting = "Another process sends the e-mails: waiting until it ends."
    with only_one(path.with_suffix(".lock"), stop, waiting):
        try:
            with closing(Schedule(path)) as schedule:
                follow(FollowUp(schedule, options), stop)
        except sqlite3.Error as error:
            raise SystemExit(f"{path}: {error}") from None


def follow(follow_up: FollowUp, stop: Event) -> None:
    """Step until `stop` is set; go on after each outage of Kafka."""
    reset_restarts()
    say("Waiting for visitors who leave.", "bold")
    complaint = ""
    while not stop.is_set():
        try:
            follow_up.step()
        except KafkaError as error:
            if str(error) != complaint:
                warn(f"{type(error).__name__}: {error}. Trying again.")
            complaint = str(error)
            stop.wait(1)
            follow_up.recover()
    follow_up.close()


if __name__ == "__main__":
    run(main, restart=True)
