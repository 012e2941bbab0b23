"""Tells the user of a script that records were put aside, without a line for each of them."""

import time
from collections import Counter
from collections.abc import Iterable

from utils.console import warn

MAX_REASONS = 1_000  # different ones that are counted; a client could make each one different


class DeadLetterNotice:
    """Says how many records were put aside, and the commonest reason.

    The first one is reported at once, the others together, `interval` seconds after the last line.
    """

    def __init__(self, interval: float = 60) -> None:
        self._interval = interval
        self._next = time.monotonic()
        self._number = 0  # since the last line
        self._reasons: Counter[str] = Counter()

    def add(self, reasons: Iterable[str]) -> None:
        """Add the reasons of new dead letters; call it regularly, also without any."""
        for reason in reasons:
            self._number += 1
            # What follows is the sender's value.
            kind = reason.partition(", got ")[0]
            if kind in self._reasons or len(self._reasons) < MAX_REASONS:
                self._reasons[kind] += 1
        if self._number and time.monotonic() >= self._next:
            self._say()

    def _say(self) -> None:
        [(reason, times)] = self._reasons.most_common(1)
        what = "an invalid message" if self._number == 1 else f"{self._number:,} invalid messages"
        share = "" if times == self._number else f", {times:,} of them because of"
        see = "see python -m tools.dead_letters list"
        warn(f"Put aside {what}{share}: {reason[:200]}; {see}")
        self._number = 0
        self._reasons.clear()
        self._next = time.monotonic() + self._interval
