"""The process a script runs in: signals, time limits, restarts, memory.

Some calls of kafka-python wait without a limit when the broker is gone. When the time for such a
call is over, the process says so and restarts itself (exec): in four terminals nobody else would.
"""

import ctypes
import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from utils.console import warn

MAX_RESTARTS = 5  # in a row
_RESTARTS = "WATCHDOG_RESTARTS"  # in the environment, the one thing that exec passes on
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # mallopt(3), malloc.h of glibc
_LARGE_BLOCK = 2**22  # bytes; smaller ones come and go with every batch

_stop = threading.Event()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set; either one a second time exits at once.

    The clients have no wakeup(), so loops poll for at most half a second and check the event.
    """

    def handle(number: int, _frame: object) -> None:
        if _stop.is_set():
            os._exit(128 + number)
        _stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return _stop


def stopping() -> bool:
    """Return True once a signal has asked this process to stop."""
    return _stop.is_set()


@contextmanager
def time_limit(seconds: float, error: Exception) -> Iterator[None]:
    """Raise the error in the body when it takes longer; for the main thread only.

    A signal interrupts a wait for a lock, which is how the client waits for the broker. Where even
    that does not help, there is the Watchdog.
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
    """Restarts the process when a call takes too long: `with watchdog(seconds, complaint):`."""

    def __init__(self) -> None:
        self._seconds_left: float | None = None
        self._complaint = ""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def __call__(self, seconds: float, complaint: str) -> Iterator[None]:
        """Allow the body this many seconds; must not be nested."""
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
                    restart_process(f"{self._complaint} in time")


def restart_process(why: str) -> NoReturn:
    """Replace this process by a new one of the same command; exit after too many in a row."""
    if stopping():
        os._exit(0)  # whoever stops it wants it to end, and all state that matters is in Kafka
    restarts = int(os.environ.get(_RESTARTS, "0"))
    if restarts >= MAX_RESTARTS:
        warn(f"{why}; giving up after {restarts} restarts in a row.")
        os._exit(1)
    warn(f"{why}; restarting.")
    sys.stdout.flush()
    os.environ[_RESTARTS] = str(restarts + 1)
    os.execv(sys.executable, sys.orig_argv)


def reset_restarts() -> None:
    """Forget the restarts so far: the program works again."""
    os.environ.pop(_RESTARTS, None)


def return_freed_memory() -> None:
    """Let the allocator return freed memory to the system, where the C library is glibc.

    Call it before a script starts threads. By default each thread has a heap of its own, and what
    the thread that loads models leaves in its own grows with each model. And once a large block was
    freed, the next ones of its size come from the heap, where small ones behind them keep it from
    shrinking: after a model with a text of 7 MB it stayed 20 MB larger.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def collect_garbage_rarely() -> None:
    """Exclude the objects that exist now from garbage collection, and collect new ones rarely.

    The objects that exist now live long: collecting them again and again would cost pauses of
    50 ms. Later ones are freed by their reference counts, and a full batch has 30,000 objects;
    LightGBM leaves two in a cycle for each batch.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
