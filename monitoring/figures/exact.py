"""Sums and quantiles that do not depend on the order of their terms."""

from collections.abc import Iterable, Mapping

import numpy as np

_UNIT = 2.0**60
_GROWTH = 1.02  # from one bin to the next: a quantile is exact to 1 %
_LAST_BIN = 1_700  # 1.02 ** 1700 ms are 13,000 years


def total_of(losses: np.ndarray) -> int:
    """Return the sum of losses, each in units of 2**-60: an integer.

    Integers can be added, and taken away again, exactly.
    """
    units = np.trunc(losses * _UNIT)
    if (
        len(units) < 2**20 and units.max(initial=0) < 2**72
    ):  # so the sums of halves fit into 64 bits
        high = np.floor(units / 2**32)
        return (_sum(high) << 32) + _sum(units - high * 2**32)
    return sum(map(int, units.tolist()))


def _sum(integers: np.ndarray) -> int:
    return int(integers.astype(np.int64).sum())


def mean(total: int, number: int) -> float:
    """Return the mean of `number` losses whose integers add up to `total`."""
    return total / (number << 60)


def bins_of(durations: np.ndarray) -> np.ndarray:
    """Return the bins of durations in ms: 0 below 1 ms, then one for each 2 %."""
    logs = np.log(np.maximum(durations, 1)) / np.log(_GROWTH)
    return np.where(durations < 1, 0, np.minimum(logs.astype(np.int64) + 1, _LAST_BIN))


def quantile(counts: Mapping[int, int], share: float) -> float | None:
    """Return the duration in seconds that this share of some durations does not exceed.

    counts : of durations in each bin; None if there are none.
    """
    left = share * sum(counts.values())
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            return _GROWTH ** (place - 0.5) / 1000 if place else 0.0
    return None


def added(all_counts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """Return the sums of counts by bin."""
    total: dict[int, int] = {}
    for counts in all_counts:
        for place, number in counts.items():
            total[place] = total.get(place, 0) + number
    return total
