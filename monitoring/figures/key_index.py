"""Which chunk of a table (chunks.py) may hold a key, for millions of 64-bit keys.

A key takes 6 bytes: in memory are, of each generation, the upper halves of its keys, sorted, and
the chunk of each. A key that shares its upper half with another one has two candidates; of five
million keys, one in 800 does.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable

import numpy as np

from monitoring.figures.chunks import FIRST_CHUNK
from monitoring.figures.key_filter import KeyFilter

_MOST_IN_FILTER = 20_000_000
_NOTHING = np.empty(0, np.uint32), np.empty(0, np.uint16)


class KeyIndex:
    """Keys are arrays of int64, of shape (n,); they are hashes, so their upper halves are too."""

    def __init__(self) -> None:
        # By generation: upper halves, and the chunks within the generation.
        self._generations: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._filter = KeyFilter()
        self._in_filter = 0  # keys, with those that were removed since it was made

    def add(self, keys: np.ndarray, chunks: np.ndarray) -> None:
        """Add keys, with the chunk of each."""
        generations = chunks // FIRST_CHUNK
        for generation in np.unique(generations).tolist():
            own = generations == generation
            self._add(generation, keys[own], chunks[own])

    def _add(self, generation: int, keys: np.ndarray, chunks: np.ndarray) -> None:
        uppers, old = _upper(keys), self._generations.get(generation, _NOTHING)
        order = np.argsort(uppers)
        places = np.searchsorted(old[0], uppers[order])
        self._generations[generation] = (
            np.insert(old[0], places, uppers[order]),
            np.insert(old[1], places, (chunks % FIRST_CHUNK).astype(np.uint16)[order]),
        )
        self._filter.add(uppers)
        self._in_filter += len(uppers)

    def likely(self, keys: np.ndarray) -> np.ndarray:
        """Return the keys that some chunk may hold, in a fraction of the time that find() takes."""
        return keys[self._filter.has(_upper(keys))] if self._generations else keys[:0]

    def find(self, keys: np.ndarray) -> dict[int, list[int]]:
        """Return the chunks that may hold some of these keys, and which."""
        found = defaultdict(list)
        keys = self.likely(keys)
        wanted = _upper(keys)
        for generation, (uppers, chunks) in self._generations.items():
            first = np.searchsorted(uppers, wanted)
            number = np.searchsorted(uppers, wanted, "right") - first  # of candidates
            if not number.any():
                continue
            own = np.repeat(keys, number)
            nth = np.arange(len(own)) - np.repeat(np.cumsum(number) - number, number)
            candidates = chunks[np.repeat(first, number) + nth].tolist()
            for chunk, key in zip(candidates, own.tolist(), strict=True):
                found[generation * FIRST_CHUNK + chunk].append(key)
        return found

    def remove(self, chunks: Iterable[int]) -> None:
        """Remove all keys of some chunks."""
        of_generation = defaultdict(list)
        for chunk in chunks:
            of_generation[chunk // FIRST_CHUNK].append(chunk % FIRST_CHUNK)
        for generation, removed in of_generation.items():
            uppers, numbers = self._generations[generation]
            stay = ~np.isin(numbers, removed)
            self._generations[generation] = uppers[stay], numbers[stay]
        if self._in_filter > _MOST_IN_FILTER:
            self._make_filter()

    def forget(self, generations: Collection[int]) -> None:
        """Remove generations."""
        for each in generations:
            self._generations.pop(each, None)
        if generations:
            self._make_filter()

    def _make_filter(self) -> None:
        self._filter, self._in_filter = KeyFilter(), 0
        for uppers, _ in self._generations.values():
            self._filter.add(uppers)
            self._in_filter += len(uppers)

    def size_of(self, generation: int) -> int:
        """Return how many keys a generation has."""
        return len(self._generations.get(generation, _NOTHING)[0])


def _upper(keys: np.ndarray) -> np.ndarray:
    return (keys.view(np.uint64) >> np.uint64(32)).astype(np.uint32)
