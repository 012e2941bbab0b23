"""The monitor's file: what it knows, beside the positions up to which it has read the topics.

All of it is written in one transaction, so that a monitor that was killed goes on where its file
ends and reads the rest again. The content is numbers and msgspec's formats, never a pickle: much of
it comes from messages.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE = "monitor.db"  # in DATA_DIR
VERSION = 3
_SCHEMA = """
CREATE TABLE parts (name TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID;
CREATE TABLE intervals (span TEXT, place INTEGER, content BLOB, PRIMARY KEY (span, place))
    WITHOUT ROWID;
CREATE TABLE generations (name TEXT, generation INTEGER, began REAL, PRIMARY KEY (name, generation))
    WITHOUT ROWID;
"""


class Damaged(Exception):
    """The file can't be used; the text says why."""


class Database:
    """A SQLite file in WAL mode; path ":memory:" for none.

    Damaged, now or when reading or writing, if the file is not one of this version or its content
    is wrong. sqlite3.OperationalError if it can't be read or written now, for example because the
    disk is full: nothing is wrong with the file then.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        # Damaged text is seen by whoever expects something else, not as an error of the disk's.
        self._connection.text_factory = lambda text: str(text, "utf-8", "replace")
        self.query("PRAGMA journal_mode = WAL")
        # A power cut may take the last seconds: they are read from the topics again.
        self.query("PRAGMA synchronous = NORMAL")
        [(version,)] = self.query("PRAGMA user_version")
        if not version and not self.query("SELECT * FROM sqlite_master"):
            self._connection.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT"
            )
        elif version != VERSION:
            raise Damaged("it was made by another version of this program")

    def query(self, sql: str, parameters: tuple = ()) -> list[tuple]:
        """Execute a statement and return its rows."""
        with _damage():
            return self._connection.execute(sql, parameters).fetchall()

    def write(self, sql: str, rows: Iterable[tuple]) -> None:
        """Execute a statement once for each row of parameters."""
        with _damage():
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[Callable]:
        """Commit what the body writes, or roll it back if the body raises."""
        self.query("BEGIN IMMEDIATE")
        try:
            yield self.write
            self.query("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error, Damaged):
                self.query("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


@contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, sqlite3.ProgrammingError):
        raise
    except sqlite3.DatabaseError as error:
        raise Damaged(str(error)) from None


def remove(path: Path) -> None:
    """Delete a file of SQLite's, with its log; OSError if that is not possible."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
