"""How often the figures are made: once a second, and less often where that would cost too much."""

import time

LOOK_EVERY = 1.0  # seconds
LOOK_AT_LEAST_EVERY = 4.0  # with a poll, less than what the page takes for stale (app.js)
LARGEST_SHARE = 1 / 20  # of a core: the rest is for reading, or the monitor falls behind


class Pace:
    """Says when to make the figures again; for use in one thread."""

    def __init__(self) -> None:
        self._next_look = self._began = self._cpu_before = 0.0
        self._cost = 0.0  # of the last look

    def is_due(self) -> bool:
        """Return whether it is time; what the caller does from then on until rest() is a look."""
        self._began, self._cpu_before = time.monotonic(), time.thread_time()
        return self._began >= self._next_look

    def rest(self) -> None:
        """Note the end of a look: the more CPU time two looks took, the later is the next one."""
        cost, before = time.thread_time() - self._cpu_before, self._cost
        self._cost = cost
        pause = min(cost, before) / LARGEST_SHARE  # one costly look, such as the first, is no rule
        self._next_look = self._began + min(max(pause, LOOK_EVERY), LOOK_AT_LEAST_EVERY)
