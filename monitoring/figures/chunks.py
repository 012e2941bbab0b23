"""Rows of one table in the database, in chunks: one blob for some dozen rows.

That takes a tenth of the time of one row of SQLite's for each. Chunks are numbered, and belong to
generations: chunk `c` to generation `c // FIRST_CHUNK`.
"""

from collections.abc import Iterator
from typing import Annotated

import msgspec

from monitoring.figures.database import Damaged, Database

FIRST_CHUNK = 2**16  # times a generation: the number of its first chunk

Rows = dict[int, bytes]  # by key
_Key = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[_Key, bytes]).decode


class Chunks:
    """The chunks of the table `name`, which is created if there is none.

    Damaged, or sqlite3.OperationalError, as Database.
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database, self._name = database, name
        columns = "(chunk INTEGER PRIMARY KEY, content BLOB)"
        database.query(f"CREATE TABLE IF NOT EXISTS {name} {columns}")

    def read(self, chunk: int) -> Rows:
        """Return the rows of a chunk, none if there is no such chunk."""
        sql = f"SELECT content FROM {self._name} WHERE chunk = ?"
        for (content,) in self._database.query(sql, (chunk,)):
            return self._decoded(chunk, content)
        return {}

    def write(self, chunk: int, rows: Rows) -> None:
        """Replace a chunk; without rows, delete it."""
        if rows:
            sql = f"REPLACE INTO {self._name} VALUES (?, ?)"
            self._database.query(sql, (chunk, _encode(rows)))
        else:
            self._database.query(f"DELETE FROM {self._name} WHERE chunk = ?", (chunk,))

    def last(self, generation: int) -> int | None:
        """Return the last chunk of a generation, None if it has none; there is no newer one."""
        sql = f"SELECT max(chunk) FROM {self._name} WHERE chunk >= ?"
        [(chunk,)] = self._database.query(sql, (generation * FIRST_CHUNK,))
        return chunk

    def of(self, generation: int) -> Iterator[tuple[int, Rows]]:
        """Yield the chunks of a generation."""
        sql = f"SELECT chunk, content FROM {self._name} WHERE chunk BETWEEN ? AND ?"
        for chunk, content in self._database.query(sql, _range(generation)):
            yield chunk, self._decoded(chunk, content)

    def bytes_of(self, generation: int) -> int:
        """Return how large a generation is."""
        sql = f"SELECT sum(length(content)) FROM {self._name} WHERE chunk BETWEEN ? AND ?"
        [(size,)] = self._database.query(sql, _range(generation))
        return size or 0

    def delete(self, generation: int) -> None:
        """Delete a generation."""
        sql = f"DELETE FROM {self._name} WHERE chunk BETWEEN ? AND ?"
        self._database.query(sql, _range(generation))

    def _decoded(self, chunk: int, content: bytes) -> Rows:
        try:
            return _decode(content)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise Damaged(f"the chunk {chunk} of {self._name}: {error}") from None


def _range(generation: int) -> tuple[int, int]:
    first = generation * FIRST_CHUNK
    return first, first + FIRST_CHUNK - 1
