"""Shows how the pipeline is doing: are predictions right, fast and complete, and from which model?

    python monitor.py
    python monitor.py --once             # read what is there, print the figures as JSON, and end
    python monitor.py --from-beginning   # forget what it knows, and read again what Kafka still has

It reads what any observer could read, the topics and the models' cards, and disturbs nobody. It
joins each request with its prediction and, whenever it comes, its outcome. What it knows is in
data/monitor.db, with the places in the topics up to which it has read: killed at any moment, it
goes on where it was.
"""

import os
import time
from collections.abc import Callable
from contextlib import closing

import msgspec

from monitoring.observer import FILE, READS, Observer
from monitoring.snapshot import Snapshot
from utils.console import say
from utils.kafka_client.topics import prepare_topics
from utils.process import (
    collect_garbage_rarely,
    only_one,
    reset_restarts,
    stop_on_signals,
    stopping,
)
from utils.script import command_line, run
from utils.settings import settings

SHOW_EVERY = 1.0  # seconds


def follow(observer: Observer, sinks: list[Callable[[Snapshot], None]]) -> None:
    """Read on, and give each sink a snapshot once a second, until Ctrl-C or SIGTERM."""
    shown_at = 0.0
    while not stopping():
        observer.step()
        if time.monotonic() >= shown_at + SHOW_EVERY:
            shown_at = time.monotonic()
            snapshot = observer.snapshot()
            for show in sinks:
                show(snapshot)


def main() -> None:
    """Follow the topics until Ctrl-C or SIGTERM."""
    parser = command_line(__doc__)
    parser.add_argument("--from-beginning", action="store_true", help="read everything again")
    parser.add_argument("--once", action="store_true", help="print the figures as JSON, and end")
    arguments = parser.parse_args()
    os.nice(10)  # predictors come first
    stop = stop_on_signals()
    prepare_topics(read=READS)
    path = settings.data_dir / FILE
    # Two monitors of one file would count each message twice.
    with (
        only_one(
            path.with_suffix(".lock"), stop, "Another monitor is running: waiting for its end."
        ),
        closing(Observer(path, arguments.from_beginning)) as observer,
    ):
        collect_garbage_rarely()
        reset_restarts()
        if arguments.once:
            observer.read_all(stopping)
            print(msgspec.json.encode(observer.snapshot()).decode())
            return
        say("The monitor follows the topics.", "bold")
        follow(observer, [])


if __name__ == "__main__":
    run(main, restart=True)
