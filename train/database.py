"""SQLite, with its errors as one sentence that names the file."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOVE_AWAY = "move it away: the trainer then makes a new one, and reads again what Kafka still has"


class StoreError(OSError):
    """SQLite can't read or write a file; the text names the file and says why.

    An OSError, so that it is handled as every other failure of the disk is.
    """


class Database:
    """A SQLite file, in WAL mode: readers never wait for the writer, nor it for them.

    Commits are synced: a transaction that was committed survives a power cut. Every method raises
    StoreError.
    """

    def __init__(
        self, path: Path, schema: str = "", version: int = 0, read_only: bool = False
    ) -> None:
        """Open the file, or create it with this schema.

        version : of the schema; a file with another one raises StoreError.
        """
        self._path = path
        with self._errors():
            mode = "ro" if read_only else "rwc"
            uri = f"{path.resolve().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        if not read_only:
            self.query("PRAGMA journal_mode = WAL")
            self.query("PRAGMA synchronous = FULL")
            self._create(schema, version)

    def _create(self, schema: str, version: int) -> None:
        both = "SELECT count(*), (SELECT user_version FROM pragma_user_version) FROM sqlite_master"
        [(tables, found)] = self.query(both)
        if tables and found != version:
            problem = "it was made by another version of this program: delete it with make clean"
            raise StoreError(f"{self._path}: {problem}")
        with self._errors():
            begin, end = "BEGIN IMMEDIATE;", f"PRAGMA user_version = {version}; COMMIT;"
            self._connection.executescript(begin + schema + end)

    def query(self, sql: str, parameters: tuple = ()) -> list[tuple]:
        """Execute a statement and return its rows."""
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def execute_many(self, sql: str, rows: Iterable[tuple]) -> None:
        """Execute a statement once for each row of parameters."""
        with self._errors():
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, or roll it back if the body raises."""
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Only damage of the file's content has this class itself, and no subclass.
            advice = f"; {MOVE_AWAY}" if type(error) is sqlite3.DatabaseError else ""
            raise StoreError(f"{self._path}: {error}{advice}") from error
