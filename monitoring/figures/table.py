"""A map from 64-bit keys to bytes that is larger than memory: the newest in memory, all in SQLite.

Rows are written in the order in which they came, CHUNK of them as one blob (chunks.py): what came
together is needed together, and mostly removed together. A row that changes is replaced in its
chunk. Chunks belong to generations, the oldest of which are deleted.
"""

import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice

import numpy as np

from monitoring.figures.chunks import FIRST_CHUNK, Chunks, Rows
from monitoring.figures.database import Damaged, Database
from monitoring.figures.key_index import KeyIndex

IN_MEMORY = 100_000  # rows
CHUNK = 64  # rows
GENERATION = 100_000  # rows, and
GENERATION_SECONDS = 86_400.0  # at most
MOST_ROWS = 5_000_000
MOST_BYTES = 1_000_000_000  # of the chunks


class Table:
    """Rows of one table of the database; call load() before the others, with all keys to come.

    Changes are written by save(), in the transaction of its caller; confirm() once that is
    committed. Until then they stay in memory. Reading may raise Damaged, or
    sqlite3.OperationalError, which changes nothing.

    is_row : tells whether bytes that the file has are a row. is_open : tells whether a row is
    needed for a join that has not come.
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
        self._stored: Rows = {}  # rows as they are in the file, oldest first
        self._changed: Rows = {}  # rows that are not, or not like this, in the file
        self.put = self._changed.__setitem__  # add or replace a row: key, content
        self.put_all = self._changed.update  # the same with pairs of them
        self._gone: set[int] = set()  # of the rows in the file
        # See _oldest_stored(); None: look again.
        self._oldest: list[tuple[float, int]] | None = None
        self._index, self._chunks = KeyIndex(), Chunks(database, name)
        sql = "SELECT generation, began FROM generations WHERE name = ? ORDER BY generation"
        self._began: dict[int, float] = dict(self._database.query(sql, (name,)))
        for generation in self._began:
            self._add_to_index(self._chunks.of(generation))

    def load(self, keys: Sequence[int] | np.ndarray) -> None:
        """Bring rows into memory."""
        found = set(self._index.likely(np.asarray(keys, np.int64)).tolist()) - self._gone
        # Not `found - self._stored.keys()`, which would look at all of these keys.
        wanted = [key for key in found if key not in self._stored and key not in self._changed]
        for chunk, own in self._index.find(np.array(wanted, np.int64)).items():
            rows = self._chunks.read(chunk)
            self._stored |= {key: self._checked(key, rows[key]) for key in own if key in rows}

    def get(self, key: int) -> bytes | None:
        """Return a row, None if there is none."""
        return self._changed.get(key) or self._stored.get(key)

    def pop(self, key: int) -> None:
        """Remove a row."""
        self._changed.pop(key, None)
        if self._stored.pop(key, None) is not None:
            self._gone.add(key)

    @property
    def rows(self) -> Rows:
        """The rows in memory, oldest first."""
        return self._stored | self._changed

    @property
    def unsaved(self) -> int:
        """How many changes are in memory only."""
        return len(self._changed) + len(self._gone)

    def save(self, now: float) -> None:
        """Write the changes within the open transaction."""
        placed, cut = self._save_old()
        new = [key for key in self._changed if key not in placed]
        self._saved = now, cut, self._save_new(iter(new), now)

    def _save_old(self) -> tuple[set[int], dict[int, list[int]]]:
        """Write changes of rows that the file has.

        Return the keys of these rows, and the chunks that have fewer rows now, with their keys.
        """
        keys = np.fromiter(chain(self._changed, self._gone), np.int64, self.unsaved)
        placed, cut = set(), {}
        for chunk, own in self._index.find(keys).items():
            rows = self._chunks.read(chunk)
            if not (own := [key for key in own if key in rows]):
                continue
            before = len(rows)
            for key in own:
                if key in self._changed:
                    rows[key] = self._changed[key]
                else:
                    rows.pop(key, None)  # the index may have named it twice
            placed.update(own)
            self._chunks.write(chunk, rows)
            if len(rows) < before:
                cut[chunk] = [*rows]
        return placed, cut

    def _save_new(self, keys: Iterator[int], now: float) -> list[tuple[int, list[int]]]:
        """Write rows that the file does not have; return which chunks have them."""
        added = []
        chunk, rows = self._last_chunk(now)
        while own := list(islice(keys, CHUNK - len(rows))):
            rows |= {key: self._changed[key] for key in own}
            self._chunks.write(chunk, rows)
            added.append((chunk, own))
            chunk, rows = chunk + 1, {}
        generation = chunk // FIRST_CHUNK
        if added and generation not in self._began:
            sql = "REPLACE INTO generations VALUES (?,?,?)"
            self._database.query(sql, (self._name, generation, now))
        return added

    def _last_chunk(self, now: float) -> tuple[int, Rows]:
        """Return the chunk that has room for new rows, and the rows in it."""
        newest = max(self._began, default=1)
        if (last := self._chunks.last(newest)) is None:
            return newest * FIRST_CHUNK, {}
        is_full = (last + 1) % FIRST_CHUNK >= GENERATION // CHUNK
        # One that loses its rows would never be full, and what stays in it never deleted.
        if is_full or now > self._began[newest] + GENERATION_SECONDS:
            return (newest + 1) * FIRST_CHUNK, {}
        rows = self._chunks.read(last)
        return (last, rows) if len(rows) < CHUNK else (last + 1, {})

    def confirm(self) -> None:
        """Take note that what save() wrote is committed; keep the newest rows only in memory."""
        now, cut, added = self._saved
        self._index.remove(cut)
        self._add_to_index(chain(cut.items(), added))
        if added:
            self._began.setdefault(added[0][0] // FIRST_CHUNK, now)
        self._stored |= self._changed
        self._changed.clear()
        self._gone.clear()
        self._oldest = None
        _keep(self._stored, self._in_memory)

    def _add_to_index(self, added: Iterable[tuple[int, Collection[int]]]) -> None:
        """Add the keys in some chunks."""
        numbers, lengths, keys = [], [], []
        for chunk, own in added:
            numbers.append(chunk)
            lengths.append(len(own))
            keys += own
        chunks = np.repeat(np.array(numbers, np.int64), lengths)
        self._index.add(np.array(keys, np.int64), chunks)

    def _checked(self, key: int, row: bytes) -> bytes:
        if not self._is_row(row):
            raise Damaged(f"the row {key} of {self._name} is none")
        return row

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
            with suppress(
                sqlite3.OperationalError, Damaged
            ):  # load() says it of a row that is needed
                self._oldest = self._first_stored(time_of)
        return islice((time for time, k in self._oldest or () if not self._is_old(k)), 1)

    def _first_stored(self, time_of: Callable[[bytes], float]) -> list[tuple[float, int]]:
        for generation in self._began:
            rows = [row for _, chunk in self._chunks.of(generation) for row in chunk.items()]
            if not all(self._is_old(key) for key, _ in rows):
                return sorted((time_of(self._checked(*row)), row[0]) for row in rows)
        return []

    def _is_old(self, key: int) -> bool:
        """Return whether memory has another row of this key than the file."""
        return key in self._gone or key in self._changed

    def old_generations(self, since: float) -> list[int]:
        """Return the generations that ended before this time, or are empty.

        And the oldest ones while the others have more than MOST_ROWS or MOST_BYTES.
        """
        generations = sorted(self._began)
        sizes = {g: (self._index.size_of(g), self._chunks.bytes_of(g)) for g in generations}
        old = [each for each in generations[:-1] if not sizes[each][0]]
        for generation, following in zip(generations, generations[1:], strict=False):
            rows, size = map(sum, zip(*sizes.values(), strict=True))
            if rows <= MOST_ROWS and size <= MOST_BYTES and self._began[following] >= since:
                break
            old.append(generation)
            del sizes[generation]
        return sorted({*old})

    def delete(self, generations: list[int]) -> int:
        """Delete generations, within the open transaction; return how many rows were open."""
        found = 0
        for generation in generations:
            with suppress(Damaged):  # what can't be read is not counted
                for _, rows in self._chunks.of(generation):
                    found += sum(map(self._is_open, rows.values()))
            self._chunks.delete(generation)
            sql = "DELETE FROM generations WHERE name = ? AND generation = ?"
            self._database.query(sql, (self._name, generation))
        return found

    def forget(self, generations: list[int]) -> None:
        """Take note that their deletion is committed; their rows in memory stay."""
        self._oldest = None
        self._index.forget(generations)
        for generation in generations:
            del self._began[generation]

    def forget_unsaved(self) -> int:
        """Forget the oldest rows in memory: the disk is full. Return how many were open."""
        lost = _keep(self._changed, self._in_memory)
        self._stored = {key: row for key, row in self._stored.items() if key in self._changed}
        return sum(map(self._is_open, lost))


def _keep(rows: Rows, number: int) -> list[bytes]:
    """Delete the oldest rows but for `number`, and return them."""
    return [rows.pop(key) for key in list(rows)[: max(len(rows) - number, 0)]]
