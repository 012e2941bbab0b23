"""A map from 64-bit keys to bytes that is larger than memory: the newest in memory, all in SQLite.

New rows are written in generations, each of which is one range of a B-tree: so rows with random
keys are appended, where one B-tree of all keys would touch a page for each row. In memory are, of
each generation, the upper halves of its keys, sorted (4 bytes a row): they tell which generation to
ask. A wrong hit costs one query, and at most one of 800 keys has one.
"""

import math
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import chain, islice

import numpy as np

from monitoring.figures.database import Damaged, Database
from monitoring.figures.key_filter import KeyFilter

IN_MEMORY = 100_000  # rows
GENERATION = 100_000  # rows
MOST_ROWS = 5_000_000
MOST_BYTES = 1_000_000_000  # of the rows' content
_SOME_ROWS = 1_000  # tell how large those of a generation are
_MOST_PARAMETERS = 10_000
START = 32  # bytes


class Table:
    """Rows of one table of the database; call load() before the others, with all keys to come.

    Changes are written by save(), in the transaction of its caller; confirm() once that is
    committed. Until then they stay in memory. Reading may raise Damaged, or
    sqlite3.OperationalError, which changes nothing.

    is_row : tells whether bytes that the file has are a row. is_open : tells whether a row is
    needed for a join that has not come; it is given the row's first bytes, START of them.
    """

    def __init__(
        self,
        database: Database,
        name: str,
        is_row: Callable[[bytes], bool],
        is_open: Callable[[bytes], bool],
        in_memory: int = IN_MEMORY,
    ) -> None:
        self._database, self._name = database, name
        self._is_row, self._is_open, self._in_memory = is_row, is_open, in_memory
        self._stored: dict[int, bytes] = {}  # rows as they are in the file, oldest first
        self._changed: dict[int, bytes] = {}  # rows that are not, or not like this, in the file
        self.put = self._changed.__setitem__  # add or replace a row: key, content
        self._gone: set[int] = set()  # of the rows in the file
        self._indexes: dict[int, np.ndarray] = {}
        self._began: dict[int, float] = {}
        # See _oldest_stored(); None: look again.
        self._oldest: list[tuple[float, int]] | None = None
        self._filter = KeyFilter()
        self._read_indexes()

    def _read_indexes(self) -> None:
        sql = "SELECT generation, began FROM generations WHERE name = ? ORDER BY generation"
        self._began = dict(self._database.query(sql, (self._name,)))
        for generation in self._began:
            sql = f"SELECT key FROM {self._name} WHERE generation = ?"
            keys = [key for (key,) in self._database.query(sql, (generation,))]
            self._indexes[generation] = np.sort(_upper(np.array(keys, np.int64)))
            self._filter.add(self._indexes[generation])

    def load(self, keys: Sequence[int] | np.ndarray) -> None:
        """Bring rows into memory."""
        if not self._indexes or not len(keys):
            return
        keys = np.asarray(keys, np.int64)
        found = set(keys[self._filter.has(_upper(keys))].tolist()) - self._gone
        # Not `found - self._stored.keys()`, which would look at all of these keys.
        wanted = [key for key in found if key not in self._stored and key not in self._changed]
        array = np.fromiter(wanted, np.int64, len(wanted))
        for generation, index in self._indexes.items():
            self._stored.update(self._select(generation, array[_hits(index, array)].tolist()))

    def _select(self, generation: int, keys: list[int]) -> list[tuple[int, bytes]]:
        found = []
        for first in range(0, len(keys), _MOST_PARAMETERS):
            some = keys[first : first + _MOST_PARAMETERS]
            marks = ",".join("?" * len(some))
            sql = f"SELECT key, content FROM {self._name} WHERE generation = ? AND key IN ({marks})"
            found += self._checked(self._database.query(sql, (generation, *some)))
        return found

    def get(self, key: int) -> bytes | None:
        """Return a row, None if there is none."""
        return self._changed.get(key) or self._stored.get(key)

    def _checked(self, rows: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        for key, content in rows:
            if type(content) is not bytes or not self._is_row(content):
                raise Damaged(f"the row {key} of {self._name} is none")
        return rows

    def pop(self, key: int) -> None:
        """Remove a row."""
        self._changed.pop(key, None)
        if self._stored.pop(key, None) is not None:
            self._gone.add(key)

    @property
    def rows(self) -> dict[int, bytes]:
        """The rows in memory, oldest first."""
        return self._stored | self._changed

    @property
    def unsaved(self) -> int:
        """How many changes are in memory only."""
        return len(self._changed) + len(self._gone)

    def save(self, now: float) -> None:
        """Write the changes within the open transaction."""
        newest = max(self._began, default=0)
        if newest not in self._began or len(self._indexes[newest]) >= GENERATION:
            newest += 1
        self._delete_gone()
        changed = np.fromiter(self._changed, np.int64, len(self._changed))
        changed.sort()
        generations, keys = self._generations_of(changed, newest), changed.tolist()
        rows = zip(generations.tolist(), keys, map(self._changed.get, keys), strict=True)
        self._database.replace(self._name, rows)
        if newest not in self._began:
            self._database.query(
                "REPLACE INTO generations VALUES (?,?,?)", (self._name, newest, now)
            )
        self._saved = newest, now, changed[generations == newest]

    def _delete_gone(self) -> None:
        gone = np.fromiter(self._gone, np.int64, len(self._gone))
        for generation, index in self._indexes.items():
            keys = gone[_hits(index, gone)].tolist()
            sql = f"DELETE FROM {self._name} WHERE generation = ? AND key = ?"
            self._database.write(sql, ((generation, key) for key in keys))

    def _generations_of(self, keys: np.ndarray, newest: int) -> np.ndarray:
        found = np.full(len(keys), newest)
        old = np.flatnonzero(self._filter.has(_upper(keys)))
        for generation, index in self._indexes.items():
            found[old[_hits(index, keys[old])]] = generation
        return found

    def confirm(self) -> None:
        """Take note that what save() wrote is committed; keep the newest rows only in memory."""
        newest, now, keys = self._saved
        self._began.setdefault(newest, now)
        before = self._indexes.get(newest, np.empty(0, np.uint32))
        self._indexes[newest] = np.union1d(before, _upper(keys))
        self._filter.add(_upper(keys))
        self._stored |= self._changed
        self._changed.clear()
        self._gone.clear()
        self._oldest = None
        _keep(self._stored, self._in_memory)

    def oldest(self, number: int, time_of: Callable[[bytes], float]) -> float:
        """Return the time of the oldest row, infinity if there is none.

        It is the first in memory, among `number` of them, or one of those stored first.
        """
        in_memory = chain(
            (row for key, row in self._stored.items() if key not in self._changed),
            self._changed.values(),
        )
        times = map(time_of, islice(in_memory, number))
        return min(chain(times, self._oldest_stored(time_of)), default=math.inf)

    def _oldest_stored(self, time_of: Callable[[bytes], float]) -> Iterable[float]:
        """Yield the time of the oldest row that is stored and still counts, if there is one.

        Only save() and forget() change what is stored, and each look takes 0.1 s when many wait.
        """
        if self._oldest is None or (self._oldest and all(self._is_old(k) for _, k in self._oldest)):
            with suppress(sqlite3.OperationalError, Damaged):  # the next load() or save() says it
                self._oldest = self._first_stored(time_of)
        return islice((time for time, k in self._oldest or () if not self._is_old(k)), 1)

    def _first_stored(self, time_of: Callable[[bytes], float]) -> list[tuple[float, int]]:
        for generation in self._indexes:
            sql = f"SELECT key, content FROM {self._name} WHERE generation = ?"
            rows = self._checked(self._database.query(sql, (generation,)))
            if not all(self._is_old(key) for key, _ in rows):
                return sorted((time_of(content), key) for key, content in rows)
        return []

    def _is_old(self, key: int) -> bool:
        """Return whether memory has another row of this key than the file."""
        return key in self._gone or key in self._changed

    def old_generations(self, since: float) -> list[int]:
        """Return the generations that ended before this time.

        And the oldest ones while the others have more than MOST_ROWS or MOST_BYTES.
        """
        old, generations = [], sorted(self._began)
        rows = {each: len(self._indexes[each]) for each in generations}
        sizes = {each: rows[each] * self._row_size(each) for each in generations}
        for generation, following in zip(generations, generations[1:], strict=False):
            is_small = sum(rows.values()) <= MOST_ROWS and sum(sizes.values()) <= MOST_BYTES
            if is_small and self._began[following] >= since:
                break
            old.append(generation)
            del rows[generation], sizes[generation]
        return old

    def _row_size(self, generation: int) -> float:
        sql = f"SELECT content FROM {self._name} WHERE generation = ? LIMIT {_SOME_ROWS}"
        [(size,)] = self._database.query(f"SELECT avg(length(content)) FROM ({sql})", (generation,))
        return size or 0.0

    def delete(self, generations: list[int]) -> int:
        """Delete generations, within the open transaction; return how many rows were open."""
        found = 0
        for generation in generations:
            sql = f"SELECT substr(content, 1, {START}) FROM {self._name} WHERE generation = ?"
            rows = self._database.query(f"{sql} AND typeof(content) = 'blob'", (generation,))
            found += sum(self._is_open(row) for (row,) in rows)
            sql = f"DELETE FROM {self._name} WHERE generation = ?"
            self._database.query(sql, (generation,))
            sql = "DELETE FROM generations WHERE name = ? AND generation = ?"
            self._database.query(sql, (self._name, generation))
        return found

    def forget(self, generations: list[int]) -> None:
        """Take note that their deletion is committed; their rows in memory stay."""
        self._oldest = None
        for generation in generations:
            del self._indexes[generation], self._began[generation]
        if generations:
            self._filter = KeyFilter()
            for index in self._indexes.values():
                self._filter.add(index)

    def forget_unsaved(self) -> int:
        """Forget the oldest rows in memory: the disk is full. Return how many were open."""
        lost = _keep(self._changed, self._in_memory)
        self._stored = {key: row for key, row in self._stored.items() if key in self._changed}
        return sum(self._is_open(row[:START]) for row in lost)


def _keep(rows: dict[int, bytes], number: int) -> list[bytes]:
    """Delete the oldest rows but for `number`, and return them."""
    return [rows.pop(key) for key in list(rows)[: max(len(rows) - number, 0)]]


def _upper(keys: np.ndarray) -> np.ndarray:
    return (keys.view(np.uint64) >> np.uint64(32)).astype(np.uint32)


def _hits(index: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return which of the keys a sorted index of upper halves may have, bool of their shape."""
    if not len(index) or not len(keys):
        return np.zeros(len(keys), bool)
    upper = _upper(keys)
    return index[np.minimum(np.searchsorted(index, upper), len(index) - 1)] == upper
