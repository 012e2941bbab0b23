"""Which keys may be in a file, for millions of keys in a few megabytes.

This is a Bloom filter with one hash (Bloom, Space/time trade-offs in hash coding with allowable
errors, CACM 1970). Keys are hashes themselves, so the hash of a key is its first bits.
"""

import numpy as np

# Of five million keys that are not there, it then says of one in 14 that it may be.
_BYTES = 2**23
_SHIFT = np.uint32(6)  # 32 - log2(8 * _BYTES)


class KeyFilter:
    """The keys that may be there, by their upper halves: uint32, of any shape (n,)."""

    def __init__(self) -> None:
        self._bits = np.zeros(_BYTES, np.uint8)  # takes memory where a bit was set

    def add(self, upper_halves: np.ndarray) -> None:
        """Add keys."""
        places, bits = _place(upper_halves)
        np.bitwise_or.at(self._bits, places, bits)

    def has(self, upper_halves: np.ndarray) -> np.ndarray:
        """Return False for what is not there, bool of the same shape."""
        places, bits = _place(upper_halves)
        return (self._bits[places] & bits) != 0


def _place(upper_halves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = upper_halves >> _SHIFT
    return found >> np.uint32(3), np.left_shift(1, found & np.uint32(7)).astype(np.uint8)
