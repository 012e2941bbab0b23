"""Messages a second, over the last ten seconds."""

from collections import Counter

import numpy as np

SECONDS = 10


class Rates:
    """Counts requests, replies and outcomes by the second of their timestamps."""

    def __init__(self) -> None:
        self._counts: tuple[Counter, ...] = (Counter(), Counter(), Counter())

    def add(self, *kinds: np.ndarray, now: float) -> None:
        """Add times, in ms, of requests, replies and outcomes; one in the future counts as now."""
        last = int(now)
        for counter, times in zip(self._counts, kinds, strict=True):
            seconds = np.minimum(times // 1000, last)
            newest = seconds[seconds >= last - SECONDS] - (last - SECONDS)
            for place, number in enumerate(np.bincount(newest).tolist(), last - SECONDS):
                counter[place] += number
            for second in [each for each in counter if each < last - SECONDS]:
                del counter[second]

    def per_second(self, now: float) -> tuple[float, ...]:
        """Return requests, replies and outcomes a second, in the last ten whole seconds."""
        last = int(now)
        whole = range(last - SECONDS, last)
        return tuple(sum(counter[each] for each in whole) / SECONDS for counter in self._counts)
