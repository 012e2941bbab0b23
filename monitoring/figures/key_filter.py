"""Which keys may be in a file, for millions of keys in a few megabytes.

This is a Bloom filter with two hashes (Bloom, Space/time trade-offs in hash coding with allowable
errors, CACM 1970). Keys are hashes themselves, so the hashes of a key are parts of it: the first
and the last bits of its upper half.
"""

import numpy as np

# Of five million keys that are not there, it then says of one in 180 that it may be.
_BYTES = 2**24
_SHIFT, _MASK = np.uint32(5), np.uint32(2**27 - 1)  # 8 * _BYTES are 2**27


class KeyFilter:
    """The keys that may be there, by their upper halves: uint32 of shape (n,)."""

    def __init__(self) -> None:
        self._bits = np.zeros(_BYTES, np.uint8)  # takes memory where a bit was set

    def add(self, upper_halves: np.ndarray) -> None:
        """Add keys."""
        for place, bit in _places(upper_halves):
            np.bitwise_or.at(self._bits, place, bit)

    def has(self, upper_halves: np.ndarray) -> np.ndarray:
        """Return False for what is not there, bool of the same shape."""
        found = np.ones(len(upper_halves), bool)
        for place, bit in _places(upper_halves):
            found &= (self._bits[place] & bit) != 0
        return found


def _places(upper_halves: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (part >> np.uint32(3), np.left_shift(1, part & np.uint32(7)).astype(np.uint8))
        for part in (upper_halves >> _SHIFT, upper_halves & _MASK)
    ]
