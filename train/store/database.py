"""SQLite, with its errors as one sentence that names the file."""

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

MOVE_AWAY = "move it away: the trainer then makes a new one, and reads again what Kafka still has"
OTHER_VERSION = (
    "it was made by another version of this program: install that one, or delete it with make clean"
)
LOCK_TIMEOUT = 60  # seconds; another process may be upgrading the file
CACHE = 32_000  # kB of pages in memory: random keys would otherwise be read and written again
MOST_PARAMETERS = 1_000  # of a statement; SQLite allows 32,766
SHRINK_PAGES = 2_000  # pages that one call of shrink() gives back: it takes some milliseconds


def batched(values: Iterable, size: int) -> Iterator[tuple]:
    """Yield the values in tuples of this size; the last one may be shorter."""
    rest = iter(values)
    while batch := tuple(islice(rest, size)):
        yield batch


class StoreError(OSError):
    """SQLite can't read or write a file; the text names the file and says why.

    An OSError, so that it is handled as every other failure of the disk is.
    """


class StoreReplaced(StoreError):
    """The store that was opened is no longer the one that counts; begin again in a new process.

    The file was deleted, moved or replaced after it was opened, so nobody else would see changes;
    or another trainer took over.
    """


class StoreUnreachable(StoreError, ConnectionError):
    """The server can't be reached, or does not answer; try again."""


class Database:
    """A SQLite file, in WAL mode: readers never wait for the writer, nor it for them.

    Commits are synced: a transaction that was committed survives a power cut. Every method raises
    StoreError.
    """

    def __init__(
        self,
        path: Path,
        schema: str = "",
        version: int = 0,
        upgrades: Mapping[int, Callable[["Database"], None]] = {},
        read_only: bool = False,
    ) -> None:
        """Open the file, or create it with this schema.

        version : of the schema; a file with another one raises StoreError, unless `upgrades` has a
        function for it, which turns the file into one of this version within a transaction.
        """
        self._path = path
        self._files: tuple = ()  # once it is open for writing
        with self._errors():
            mode = "ro" if read_only else "rwc"
            uri = f"{path.resolve().as_uri()}?mode={mode}"
            self._connection = sqlite3.connect(uri, LOCK_TIMEOUT, uri=True, isolation_level=None)
        if not read_only:
            if not self.query("PRAGMA page_count")[0][0]:
                self.query("PRAGMA auto_vacuum = INCREMENTAL")  # possible in an empty file only
            self.query("PRAGMA journal_mode = WAL")
            self.query("PRAGMA synchronous = FULL")
            self.query(f"PRAGMA cache_size = -{CACHE}")
            self._create(schema, version, upgrades)
            self._files = self._files_now()

    def _create(self, schema: str, version: int, upgrades: Mapping) -> None:
        both = "SELECT count(*), (SELECT user_version FROM pragma_user_version) FROM sqlite_master"
        with self.transaction():
            [(tables, found)] = self.query(both)
            if tables and found != version:
                if found not in upgrades:
                    raise StoreError(f"{self._path}: {OTHER_VERSION}")
                upgrades[found](self)
            self.execute_script(f"{schema}; PRAGMA user_version = {version}")
        if self.query("PRAGMA auto_vacuum")[0][0] == 0:  # a file of an earlier version
            self.query("PRAGMA auto_vacuum = INCREMENTAL")
            with suppress(StoreError):  # it needs as much space again; until there is, no shrinking
                self.query("VACUUM")

    def query(self, sql: str, parameters: tuple = ()) -> list[tuple]:
        """Execute a statement and return its rows."""
        with self._errors():
            return self._connection.execute(sql, parameters).fetchall()

    def iterate(self, sql: str, parameters: tuple = ()) -> Iterator[tuple]:
        """Execute a statement and yield its rows, one at a time."""
        with self._errors():
            yield from self._connection.execute(sql, parameters)

    def find(self, sql: str, keys: Iterable[bytes]) -> Iterator[tuple]:
        """Yield the rows that belong to any of these keys; sql ends with `WHERE key IN`.

        The caller may change `keys` meanwhile.
        """
        for some in batched(list(keys), MOST_PARAMETERS):
            yield from self.query(f"{sql} ({','.join('?' * len(some))})", some)

    def execute_many(self, sql: str, rows: Iterable[tuple]) -> None:
        """Execute a statement once for each row of parameters."""
        with self._errors():
            self._connection.executemany(sql, rows)

    def execute_script(self, sql: str) -> None:
        """Execute statements, separated by semicolons, within the transaction that is open."""
        statement = ""
        for part in sql.split(";"):  # executescript() would commit
            statement += part + ";"
            if sqlite3.complete_statement(statement):
                self.query(statement)
                statement = ""

    def write_bytes(self, table: str, column: str, row: int, values: Mapping[int, bytes]) -> None:
        """Overwrite a blob's values of these numbers, all of equal size; row : its rowid."""
        with self._errors(), self._connection.blobopen(table, column, row) as blob:
            for number, value in values.items():
                blob.seek(number * len(value))
                blob.write(value)

    def has_table(self, name: str) -> bool:
        """Return True if there is a table of this name."""
        return bool(self.query("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)))

    def shrink(self) -> None:
        """Give pages back to the file system if an eighth of the file's pages are unused."""
        [(unused,)], [(pages,)] = (
            self.query("PRAGMA freelist_count"),
            self.query("PRAGMA page_count"),
        )
        if unused > pages // 8:
            with self._errors():  # execute() would give back one page: each page is a step
                self._connection.executescript(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, or roll it back if the body raises.

        StoreReplaced if this file is no longer the one of its name.
        """
        self._check_place()
        with self._errors(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _files_now(self) -> tuple[tuple[int, int] | None, ...]:
        """Return which files the path and its write-ahead log are: None for one that is missing."""
        return tuple(_identity(f"{self._path}{suffix}") for suffix in ("", "-wal"))

    def _check_place(self) -> None:
        if not self._files or (now := self._files_now())[0] == self._files[0]:
            return
        if now[1] == self._files[1]:  # SQLite would apply the log of this file to the other one
            for suffix in ("-wal", "-shm"):
                Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        raise StoreReplaced(f"{self._path} was deleted or replaced while it was in use")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Only damage of the file's content has this class itself, and no subclass.
            advice = f"; {MOVE_AWAY}" if type(error) is sqlite3.DatabaseError else ""
            raise StoreError(f"{self._path}: {error}{advice}") from error


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
