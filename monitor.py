"""Shows how the pipeline is doing: are predictions right, fast and complete, and from which model?

    python monitor.py                    # the live page is at http://127.0.0.1:8501
    python monitor.py --terminal         # in the terminal, too
    python monitor.py --once             # read what is there, print the figures as JSON, and end
    python monitor.py --from-beginning   # forget what it knows, and read again what Kafka still has

It reads what any observer could read, the topics and the models' cards, and disturbs nobody. It
joins each request with its prediction and, whenever it comes, its outcome. What it knows is in
data/monitor.db, with the places in the topics up to which it has read: killed at any moment, it
goes on where it was. It also raises alerts (monitoring/alerts.toml), keeps the messages for an
audit, and logs trainings to MLflow if that is installed.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from threading import Event
from typing import NoReturn

import msgspec

from monitoring.alerts import Alerts, shown_alerts
from monitoring.audit.message_archive import MessageArchive
from monitoring.figures.curves import SPANS
from monitoring.figures.database import FILE
from monitoring.metrics.serve import serve_metrics
from monitoring.observer import READS, Observer
from monitoring.pace import Pace
from monitoring.page.page import LatePage
from monitoring.page.terminal import terminal_view
from monitoring.rules import load_rules
from monitoring.snapshot import History, Snapshot
from monitoring.tracking.address import check_address
from monitoring.tracking.tracking import Tracking
from utils.console import say, speak_on_stderr
from utils.files import ROOT, locked, make_private
from utils.kafka_client.topics import RETRAIN_TOPIC, prepare_topics
from utils.process import (
    LOWEST_SESSION_NICE,
    collect_garbage_rarely,
    lower_priority,
    only_one,
    reset_restarts,
    stop_on_signals,
    stopping,
)
from utils.script import command_line, run
from utils.settings import settings

Show = Callable[[Snapshot, dict[str, History]], None]


def follow(
    observer: Observer,
    archive: MessageArchive,
    alerts: Alerts,
    tracking: Tracking,
    shows: list[Show],
) -> None:
    """Read on, and show how it is, once a second if it can, until Ctrl-C or SIGTERM."""
    pace = Pace()
    while not stopping():
        observer.step()  # waits for records, at most half a second
        if not pace.is_due():
            continue
        snapshot = observer.snapshot()
        for event in alerts.check(snapshot):
            observer.mark("alert" if event.state == "begin" else "end", event.text)
        snapshot.alerts = alerts.shown()
        snapshot.following.notes += archive.notes()
        histories = {span: observer.history(span) for span in SPANS}
        for show in shows:
            show(snapshot, histories)
        tracking.step(snapshot)
        pace.rest()


def watch(observer: Observer, archive: MessageArchive, in_terminal: bool) -> None:
    """Open what shows the figures, and follow the topics."""
    shows = [serve_metrics("monitor")]  # if METRICS_PORT is set
    with ExitStack() as opened:
        alerts = opened.enter_context(closing(Alerts(load_rules(settings.alert_rules))))
        tracking = opened.enter_context(closing(Tracking()))
        page = opened.enter_context(closing(LatePage(settings.listen_host, settings.monitor_port)))
        page.open()
        shows.append(page.publish)
        if in_terminal:
            shows.append(opened.enter_context(terminal_view()))
        else:
            say("The monitor follows the topics.", "bold")
        follow(observer, archive, alerts, tracking, shows)


def only_monitor(lock: Path, stop: Event, must_answer: bool) -> AbstractContextManager[None]:
    """Hold the lock of DATA_DIR; wait while another monitor does, or refuse if a person waits."""

    def refuse() -> NoReturn:
        page = f"http://{settings.listen_host}:{settings.monitor_port}"
        where = f"ask it at {page} or {page}/snapshot.json, or set another DATA_DIR"
        raise SystemExit(f"A monitor is running on {settings.data_dir}: {where}.")

    if must_answer:
        return locked(lock, refuse)
    return only_one(lock, stop, "Another monitor is running: waiting for its end.")


def main() -> None:
    """Follow the topics until Ctrl-C or SIGTERM."""
    parser = command_line(__doc__)
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--terminal", action="store_true", help="show the figures in the terminal")
    shown.add_argument("--once", action="store_true", help="print the figures as JSON, and end")
    parser.add_argument("--from-beginning", action="store_true", help="read everything again")
    arguments = parser.parse_args()
    if arguments.once:
        speak_on_stderr()
    lower_priority(os.getpid(), LOWEST_SESSION_NICE)  # predictors come first
    stop = stop_on_signals()
    check_address()  # a mistake in a setting or in the rules ends it before it waits for Kafka
    load_rules(settings.alert_rules)
    try:
        make_private(settings.data_dir, ROOT)
    except OSError as error:
        raise SystemExit(f"DATA_DIR: {settings.data_dir}: {error.strerror}") from None
    prepare_topics(read=READS, write=(RETRAIN_TOPIC,) if settings.retrain_on_drift else ())
    path = settings.data_dir / FILE
    # Two monitors of one file would count each message twice. The archive keeps what a poll has
    # returned before the observer notes its positions: after a kill, nothing is missing there.
    with (
        only_monitor(path.with_suffix(".lock"), stop, arguments.once or arguments.terminal),
        closing(MessageArchive()) as archive,
        closing(Observer(path, archive.add, arguments.from_beginning)) as observer,
    ):
        archive.go_on(observer.positions)
        collect_garbage_rarely()
        reset_restarts()
        if arguments.once:
            observer.read_all(stopping)
            snapshot = observer.snapshot()
            snapshot.alerts = shown_alerts()
            print(msgspec.json.encode(snapshot).decode())
        else:
            watch(observer, archive, arguments.terminal)


if __name__ == "__main__":
    run(main, restart=True)
