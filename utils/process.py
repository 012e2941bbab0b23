"""The process that a script runs in: signals, health, time limits, restarts, memory.

Some calls of kafka-python wait without a limit when the broker is gone. When such a call takes too
long, the process reports that and restarts itself (exec), as no supervisor watches a terminal.
"""

import ctypes
import gc
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from utils.console import say, warn
from utils.files import locked

MAX_RESTARTS = 5  # in a row
_RESTARTS = "PIPELINE_RESTARTS"  # in the environment, which a new program inherits
_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # mallopt(3), malloc.h of glibc
BETWEEN_CALLS = 60  # seconds that a loop may take from one watched call to the next
_LARGE_BLOCK = 2**22  # bytes; every batch allocates smaller ones

# Of the session: it gets a tenth of a core that others want all the time, with 19 a seventieth. A
# training must come to its end, on a busy machine too; a monitor can catch up later.
_SESSION_NICE = 10
LOWEST_SESSION_NICE = 19

_stop = threading.Event()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set; a second signal exits at once.

    kafka-python's clients have no wakeup(), so loops poll for at most half a second and check the
    event.
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
    """Raise the error in the body if that takes longer; for the main thread only.

    A signal interrupts a wait for a lock, which is how the client waits for the broker. The
    Watchdog is for the calls that even a signal does not interrupt.
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


class Health:
    """Tells a main loop that goes on from a stuck one: a beat says how soon the next one comes.

    ready : whether the script does its work, and does not only wait to begin.
    """

    def __init__(self) -> None:
        self.ready = False
        self._beat = time.monotonic(), math.inf

    def beat(self, within: float) -> None:
        """Note that the loop goes on, and that the next beat comes within this many seconds."""
        self._beat = time.monotonic(), within

    def overdue(self) -> float:
        """Return the seconds since the last beat if the next one is overdue, else 0."""
        last, within = self._beat
        silence = time.monotonic() - last
        return silence if silence > within else 0.0


health = Health()


class Watchdog:
    """Restarts the process when a call takes too long: `with watchdog(seconds, complaint):`.

    Each call is a heartbeat of the main loop, which may take BETWEEN_CALLS more to the next one.
    """

    def __init__(self) -> None:
        self._seconds_left: float | None = None
        self._complaint = ""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def __call__(self, seconds: float, complaint: str) -> Iterator[None]:
        """Allow the body this many seconds; must not be nested."""
        self._complaint = complaint
        self.extend(seconds)
        try:
            yield
        finally:
            self._seconds_left = None

    def extend(self, seconds: float) -> None:
        """Allow the body this many seconds from now on: it makes progress."""
        self._seconds_left = seconds
        health.beat(within=seconds + BETWEEN_CALLS)

    def _watch(self) -> None:
        # Count ticks instead of reading a clock: a laptop that wakes up after an hour of sleep has
        # not waited for an hour.
        tick = threading.Event()
        while not tick.wait(1):
            left = self._seconds_left
            if left is not None:
                self._seconds_left = left - 1
                if left <= 1:
                    restart_process(f"{self._complaint} in time")


def restart_process(why: str) -> NoReturn:
    """Replace this process by a new one of the same command; exit after MAX_RESTARTS in a row."""
    if stopping():
        os._exit(0)  # a signal asked it to end, and all state that matters is in Kafka
    restarts = int(os.environ.get(_RESTARTS, "0"))
    if restarts >= MAX_RESTARTS:
        warn(f"{why}; giving up after {restarts} restarts in a row.")
        os._exit(1)
    warn(f"{why}; restarting.")
    sys.stdout.flush()
    os.environ[_RESTARTS] = str(restarts + 1)
    # The new program inherits the timer of a time_limit(), but not its handler: it would be killed.
    signal.setitimer(signal.ITIMER_REAL, 0)
    os.execv(sys.executable, sys.orig_argv)


def was_restarted() -> bool:
    """Return True if this process restarted itself and reset_restarts() was not called since."""
    return _RESTARTS in os.environ


def patience(seconds: float) -> float:
    """Return how long a starting script waits for a server: infinity if it restarted itself.

    Then it has reached the server before, and waits as long as it takes.
    """
    return math.inf if was_restarted() else seconds


def reset_restarts() -> None:
    """Count restarts from zero again: the program works."""
    os.environ.pop(_RESTARTS, None)


def return_freed_memory() -> None:
    """Make the allocator return freed memory to the system, if the C library is glibc.

    Call it before a script starts threads. By default each thread has a heap of its own, and that
    of the thread that loads models grows with each model. And once a large block was freed, glibc
    takes further blocks of its size from the heap, where small blocks behind them keep it from
    shrinking: after a model with a text of 7 MB the process stayed 20 MB larger.
    """
    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def return_free_pages() -> None:
    """Give the free pages within the heap back to the system, if the C library is glibc.

    Of many small blocks that were freed, glibc returns those at the end of the heap by itself.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def collect_garbage_rarely() -> None:
    """Exclude the objects that exist now from garbage collection, and collect new ones rarely.

    The objects that exist now live long: traversing them again and again would cost pauses of
    50 ms. Later ones are freed by their reference counts, and a full batch has 30,000 objects;
    LightGBM leaves two objects in a cycle for each batch.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)


@contextmanager
def only_one(lock: Path, stop: threading.Event, waiting: str) -> Iterator[None]:
    """Hold an OS lock, and first wait until no other process holds it.

    waiting : said once while another one does. SystemExit if `stop` is set meanwhile.
    """
    said = False

    def wait() -> None:
        nonlocal said
        if not said:
            say(waiting)
            said = True
        if stop.wait(0.2):
            raise SystemExit(0)

    with locked(lock, wait):
        yield


def lower_priority(pid: int, session_nice: int = _SESSION_NICE) -> None:
    """Let every other process that needs the CPU go before this one.

    To be called as soon as it runs: its start takes as much CPU as the training of a small model.
    session_nice : of its session, if that is its own; others of a terminal need not be like it.
    """
    with suppress(ProcessLookupError):  # it has ended
        session_nice = session_nice if os.getsid(pid) == pid else _SESSION_NICE
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        # On Linux, SCHED_IDLE processes are preempted at once. It sets the priority for the disk
        # too (ioprio_set(2)).
        if hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
    # Linux may divide the CPU among sessions first, and only then among the processes of a session
    # by priority (sched(7), "The autogroup feature"). The child is started in its own. When
    # memory is short, Linux ends the process with the highest score (proc(5)): this one, not a
    # predictor.
    for name, value in (("autogroup", session_nice), ("oom_score_adj", 1000)):
        with suppress(OSError):
            Path(f"/proc/{pid}/{name}").write_text(str(value))


def end_with_parent(clean_up: Callable[[], object]) -> None:
    """Start a thread that calls clean_up() and exits as soon as the parent has ended.

    The parent has given this process a pipe as its standard input, and writes nothing into it.
    """

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # returns when the other end of the pipe is closed
        clean_up()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
