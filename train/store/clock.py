"""A clock for the age of what is in the store, which a wrong system clock does not mislead."""

import time

DAY = 86_400  # seconds


class StoreClock:
    """Seconds for which trainers have run on this store, each stop counting as one day at most.

    While a trainer runs, the monotonic clock of the system counts, which nobody sets. For the time
    between two runs there is only the system's clock. It may be wrong, so a difference counts from
    0 to DAY: one that is a year ahead, for a moment or for ever, makes no record older than it is
    by more than a day each time the trainer starts, and one that goes back stops no record's
    ageing. Outcomes that wait in Kafka while the trainer stands still for months are still joined.
    """

    def __init__(self, seconds: float, at: float) -> None:
        """Go on from `seconds`, which this clock showed when the system's clock showed `at`."""
        self._begin = seconds + min(max(time.time() - at, 0), DAY)
        self._monotonic = time.monotonic()

    def now(self) -> float:
        """Return the time on this clock, in seconds."""
        return self._begin + time.monotonic() - self._monotonic
