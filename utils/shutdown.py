"""Ctrl-C and SIGTERM: the first one asks the script to finish its work, a second one ends it."""

import os
import signal
import threading

_stop = threading.Event()


def stop_on_signals() -> threading.Event:
    """Return an event that SIGINT and SIGTERM set; either one a second time exits at once.

    The clients have no wakeup(), so loops poll for at most half a second and look at the event.
    """

    def handle(number: int, _frame: object) -> None:
        if _stop.is_set():
            os._exit(128 + number)
        _stop.set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
    return _stop


def stopping() -> bool:
    """True when a signal has asked this script to stop."""
    return _stop.is_set()
