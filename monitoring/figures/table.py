"""A map from 64-bit keys to bytes that is larger than memory: the newest in memory, all in SQLite.

New rows are written in generations, each of which is one range of a B-tree: so rows with random
keys are appended, where one B-tree of all keys would touch a page for each row. In memory are, of
each generation, the upper halves of its keys, sorted (4 bytes a row): they tell which generation to
ask. A wrong hit costs one query, and one of 30,000 keys has one.
"""

from collections.abc import Iterable
from itertools import chain, islice

import numpy as np

from monitoring.figures.database import Database

IN_MEMORY = 100_000  # rows
GENERATION = 100_000  # rows
MOST_ROWS = 5_000_000
_MOST_PARAMETERS = 10_000


class Table:
    """Rows of one table of the database; call load() before the others, with all keys to come.

    Changes are written by save(), in the transaction of its caller; confirm() once that is
    committed. Until then they stay in memory.
    """

    def __init__(self, database: Database, name: str, in_memory: int = IN_MEMORY) -> None:
        self._database, self._name, self._in_memory = database, name, in_memory
        self.rows: dict[int, bytes] = {}  # those in memory, oldest first
        self._changed: set[int] = set()
        self._gone: set[int] = set()
        self._indexes: dict[int, np.ndarray] = {}
        self._began: dict[int, float] = {}
        self.forgotten = 0  # rows
        self._read_indexes()
        self._has_stored = bool(self._indexes)  # perhaps: rows that are not in memory

    def _read_indexes(self) -> None:
        sql = "SELECT generation, began FROM generations WHERE name = ? ORDER BY generation"
        self._began = dict(self._database.query(sql, (self._name,)))
        for generation in self._began:
            sql = f"SELECT key FROM {self._name} WHERE generation = ?"
            keys = [key for (key,) in self._database.query(sql, (generation,))]
            self._indexes[generation] = np.sort(_upper(np.array(keys, np.int64)))

    def load(self, keys: Iterable[int]) -> None:
        """Bring rows into memory."""
        wanted = {key for key in keys if key not in self.rows} - self._gone
        if not wanted or not self._indexes:
            return
        array = np.fromiter(wanted, np.int64, len(wanted))
        for generation, index in self._indexes.items():
            for key, content in self._select(generation, array[_hits(index, array)].tolist()):
                self.rows[key] = content

    def _select(self, generation: int, keys: list[int]) -> list[tuple[int, bytes]]:
        found = []
        for first in range(0, len(keys), _MOST_PARAMETERS):
            some = keys[first : first + _MOST_PARAMETERS]
            marks = ",".join("?" * len(some))
            sql = f"SELECT key, content FROM {self._name} WHERE generation = ? AND key IN ({marks})"
            found += self._database.query(sql, (generation, *some))
        return found

    def put(self, key: int, content: bytes) -> None:
        """Add or replace a row."""
        self.rows[key] = content
        self._changed.add(key)

    def pop(self, key: int) -> None:
        """Remove a row."""
        del self.rows[key]
        self._changed.discard(key)
        self._gone.add(key)

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
        generations = self._generations_of(changed, newest)
        rows = zip(generations.tolist(), changed.tolist(), strict=True)
        sql = f"REPLACE INTO {self._name} VALUES (?, ?, ?)"
        self._database.write(sql, ((each, key, self.rows[key]) for each, key in rows))
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
        for generation, index in self._indexes.items():
            found[_hits(index, keys)] = generation
        return found

    def confirm(self) -> None:
        """Take note that what save() wrote is committed; keep the newest rows only in memory."""
        newest, now, keys = self._saved
        self._began.setdefault(newest, now)
        before = self._indexes.get(newest, np.empty(0, np.uint32))
        self._indexes[newest] = np.union1d(before, _upper(keys))
        self._changed.clear()
        self._gone.clear()
        self._keep_in_memory(self._in_memory)

    def oldest(self, number: int) -> list[bytes]:
        """Return rows among which the oldest one is: the first in memory, and stored ones."""
        rows = list(islice(self.rows.values(), number))
        if self._has_stored:
            sql = f"SELECT key, content FROM {self._name} WHERE generation = ("
            sql += f"SELECT min(generation) FROM {self._name}) LIMIT {GENERATION}"
            stored = dict(self._database.query(sql))
            away = stored.keys() - self.rows.keys() - self._gone
            self._has_stored = bool(away)
            rows += [stored[key] for key in away]
        return rows

    def _keep_in_memory(self, number: int) -> None:
        self._has_stored |= len(self.rows) > number
        for key in list(self.rows)[: max(len(self.rows) - number, 0)]:
            del self.rows[key]

    def forget_old(self, since: float) -> None:
        """Delete, within the open transaction, generations that ended before this time.

        And the oldest ones while there are more than MOST_ROWS. Their rows in memory stay.
        """
        generations = sorted(self._began)
        for generation, following in zip(generations, generations[1:], strict=False):
            rows = sum(map(len, self._indexes.values()))
            if rows <= MOST_ROWS and self._began[following] >= since:
                break
            sql = f"DELETE FROM {self._name} WHERE generation = ?"
            self._database.query(sql, (generation,))
            sql = "DELETE FROM generations WHERE name = ? AND generation = ?"
            self._database.query(sql, (self._name, generation))
            self.forgotten += len(self._indexes.pop(generation))
            del self._began[generation]

    def forget_unsaved(self) -> None:
        """Forget the oldest rows in memory: the disk is full."""
        before = len(self.rows)
        self._keep_in_memory(self._in_memory)
        self.forgotten += before - len(self.rows)
        self._changed &= self.rows.keys()
        gone = np.fromiter(self._gone, np.int64, len(self._gone))
        stored = [gone[_hits(index, gone)].tolist() for index in self._indexes.values()]
        self._gone = set(chain.from_iterable(stored))


def _upper(keys: np.ndarray) -> np.ndarray:
    return (keys.view(np.uint64) >> np.uint64(32)).astype(np.uint32)


def _hits(index: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return which of the keys a sorted index of upper halves may have, bool of their shape."""
    if not len(index) or not len(keys):
        return np.zeros(len(keys), bool)
    upper = _upper(keys)
    return index[np.minimum(np.searchsorted(index, upper), len(index) - 1)] == upper
