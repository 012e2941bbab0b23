"""No wait without a bound: some calls of kafka-python wait for ever when the broker is gone.

When the time for such a call is over, the script says so and starts itself afresh in the same
process (exec): in four terminals nobody else would do it. Everything that matters is in Kafka.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from kafka.errors import KafkaError, RetriableError

from utils.access import refusal
from utils.console import warn
from utils.shutdown import stopping

_RESTARTS = "WATCHDOG_RESTARTS"  # in the environment: exec leaves nothing else of the old program
MAX_RESTARTS = 5


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Raise the error in the body when it takes longer; for the main thread only.

    A signal gets through to a wait for a lock, which is how the client waits for the broker. Where
    even that does not help, there is the watchdog.
    """

    def expire(*_: object) -> NoReturn:
        raise error

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Watchdog:
    """Call it as `with watchdog(seconds, complaint):` around a call that may never return."""

    def __init__(self) -> None:
        self._seconds_left: float | None = None
        self._complaint = ""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def __call__(self, seconds: float, complaint: str) -> Iterator[None]:
        """Allow the body so many seconds; the same watchdog is not to be nested."""
        self._complaint, self._seconds_left = complaint, seconds
        try:
            yield
        finally:
            self._seconds_left = None

    def _watch(self) -> None:
        # Counts its own ticks instead of reading a clock: a laptop that wakes up after an hour of
        # sleep has not waited for an hour.
        tick = threading.Event()
        while not tick.wait(1):
            left = self._seconds_left
            if left is not None:
                self._seconds_left = left - 1
                if left <= 1:
                    start_afresh(f"{self._complaint} in time")


def start_afresh(why: str) -> NoReturn:
    """Replace this process by a new one of its command; exit after too many in a row."""
    if stopping():
        os._exit(0)  # somebody wants it to end, and everything that matters is in Kafka
    restarts = int(os.environ.get(_RESTARTS, "0"))
    if restarts >= MAX_RESTARTS:
        warn(f"{why}; giving up after {restarts} fresh starts in a row.")
        os._exit(1)
    warn(f"{why}; starting afresh.")
    sys.stdout.flush()
    os.environ[_RESTARTS] = str(restarts + 1)
    os.execv(sys.executable, sys.orig_argv)


def all_is_well() -> None:
    """Forget the fresh starts so far: the program works again."""
    os.environ.pop(_RESTARTS, None)


def run(main: Callable[[], None], restart: bool = False) -> None:
    """Run a script's main(); what Kafka or the disk refuses becomes one sentence, exit code 1.

    With `restart`, the script starts afresh where it lost the broker while it was starting. What it
    writes, personal data and models, is for its own user only.
    """
    os.umask(0o077)
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (KafkaError, OSError) as error:
        refused = refusal(error)
        if restart and isinstance(error, RetriableError) and not refused:
            start_afresh(f"Kafka: {error}")
        raise SystemExit(str(refused or f"{type(error).__name__}: {error}")) from None
