"""Messages a second, over the last ten seconds."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

SECONDS = 10


class Rates:
    """Counts requests, replies and outcomes by the second of their timestamps."""

    def __init__(self) -> None:
        self._counts: tuple[Counter, ...] = (Counter(), Counter(), Counter())

    def add(self, *kinds: Iterable[Any], now: float) -> None:
        """Add requests, replies and outcomes; a time in the future counts as now."""
        last = int(now)
        for counter, found in zip(self._counts, kinds, strict=True):
            counter.update(min(each.time // 1000, last) for each in found)
            for second in [each for each in counter if each < last - SECONDS]:
                del counter[second]

    def per_second(self, now: float) -> tuple[float, ...]:
        """Return requests, replies and outcomes a second, in the last ten whole seconds."""
        last = int(now)
        whole = range(last - SECONDS, last)
        return tuple(sum(counter[each] for each in whole) / SECONDS for counter in self._counts)
