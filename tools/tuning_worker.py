"""Takes part in the tuning of a trainer on another host; start any number, on any hosts.

    OBSERVATIONS_URL=postgresql://user:password@host/database python -m tools.tuning_worker

The trainer has the same OBSERVATIONS_URL, and tunes with --hyper optuna and more than one
evaluation. A worker has the project's code, the original data (python initialize.py) and the same
settings. It reads the same observations; if its rows are others, it says so and does not take part.
Ctrl-C or SIGTERM gives its trial back at once, and another process takes it; after a kill -9 that
happens 20 seconds later. See docs/tuning_workers.md.
"""

import math
import os
import signal
import time
from typing import TYPE_CHECKING

from joblib import cpu_count  # of a container: of the cores, those that it may use

from train.store.database import StoreError
from utils.console import say, warn
from utils.datasets.base import DatasetError
from utils.process import lower_priority
from utils.script import command_line, run
from utils.settings import settings

if TYPE_CHECKING:
    from train.shared_study import SharedStorage

POLL = 1  # seconds between two looks for a search, or for a database that is away


def work(storage: "SharedStorage", num_threads: int, seen: set[str]) -> None:
    """Take part in one search after another; ends by an error of the database.

    seen : the studies that this worker is done with; it adds to them.
    """
    from train.shared_study import close_storage
    from train.shared_worker import NotTheSame, open_search, take_part

    try:
        while True:
            study = open_search(storage, seen)
            if study is None:
                time.sleep(POLL)
                continue
            try:
                say(f"Done: {take_part(study, num_threads)} trials.")
            except KeyError:  # the training process has deleted the study
                say("Done: the search has ended.")
            except (NotTheSame, StoreError, DatasetError) as error:
                warn(f"Not taking part in this search: {error}")
            seen.add(study.study_name)  # not after an error of the database: then it goes on
    finally:
        close_storage(storage)


def main() -> None:
    """Wait for searches, and take part in them, until Ctrl-C or SIGTERM."""
    parser = command_line(__doc__, "tools.tuning_worker")
    cores = cpu_count()
    parser.add_argument("--threads", type=int, default=cores, help=f"for LightGBM ({cores})")
    threads = parser.parse_args().threads
    if threads < 1:
        parser.error(f"--threads: expected a number above 0, got {threads}")
    if not settings.observations_url.get_secret_value():
        raise SystemExit("OBSERVATIONS_URL: a worker needs the trainer's database; it is empty")
    try:
        from train.shared_study import open_storage, reason
    except ImportError:
        needs = "it needs psycopg: pip install -r requirements-cluster.txt"
        raise SystemExit(f"OBSERVATIONS_URL: {needs}") from None
    lower_priority(os.getpid())  # predictors on this host come first
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Optuna gives the trial back
    said, seen, deadline = "", set(), time.monotonic() + settings.broker_timeout
    try:
        while True:
            try:
                storage = open_storage()
                if deadline < math.inf:
                    say("The worker waits for a search.", "bold")
                deadline = math.inf  # a database that was there once is waited for
                work(storage, threads, seen)
            except Exception as error:  # of psycopg, SQLAlchemy or Optuna
                text = reason(error)
                if time.monotonic() > deadline:
                    waited = f"waited {settings.broker_timeout:g} s (BROKER_TIMEOUT)"
                    raise SystemExit(f"{text}; {waited}") from None
                if said != (said := text):
                    warn(f"Waiting for the database: {text} ..." if deadline < math.inf else text)
                time.sleep(POLL)
    except KeyboardInterrupt:
        say("The worker has ended.")


if __name__ == "__main__":
    run(main)
