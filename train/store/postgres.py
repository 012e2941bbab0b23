"""The trainer's store on a PostgreSQL server, with the methods of Database.

Statements are SQLite's, in words that PostgreSQL knows too. What differs is here: the placeholders,
the names of types, and `rowid`, a column of its own in the table `waiting`.

One trainer at a time: an advisory lock of the connection that it writes with. When its host or its
network is gone, the server ends the connection after 10 seconds, by TCP keepalives, and rolls back
what was open; so the next trainer begins within 15. The former one may come back. It can't write:
its connection is dead, and with another one it finds the number of the trainer (EPOCH) raised.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import psycopg
from psycopg import errors, sql

from train.store.database import OTHER_VERSION, StoreError, StoreReplaced, StoreUnreachable
from train.store.place import Server
from train.store.postgres_connection import Connection, connect, quoted

TYPES = {"BLOB": "BYTEA", "REAL": "DOUBLE PRECISION", "INTEGER": "BIGINT", " WITHOUT ROWID": ""}
OWN_SCHEMA = """
ALTER TABLE waiting ADD COLUMN IF NOT EXISTS rowid BIGINT GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX IF NOT EXISTS waiting_rowid ON waiting (rowid);
INSERT INTO counters VALUES ('epoch', 0), ('schema_version', 0) ON CONFLICT DO NOTHING;
"""
EPOCH = "SELECT value FROM counters WHERE name = 'epoch'"
NEXT_EPOCH = "UPDATE counters SET value = value + 1 WHERE name = 'epoch' RETURNING value"


class Postgres:
    """A schema of a PostgreSQL database; every method raises StoreError.

    A connection that is lost is made again by the next call, but never within a transaction.
    """

    def __init__(self, server: Server, read_only: bool = False) -> None:
        """read_only : for `BEGIN`, after which all queries read the same state."""
        self._server, self._read_only = server, read_only
        self._schema = quoted(server.schema)
        self._connection: Connection | None = None
        self._may_connect = True
        self._epoch: int | None = None  # if this process is the trainer

    def create(
        self, schema: str, version: int, upgrades: Mapping[int, Callable[["Postgres"], None]]
    ) -> None:
        """Create the tables, or upgrade those of an earlier version; see Database."""
        name = sql.quote(self._schema)
        found = f"SELECT to_regnamespace({name})::text, to_regclass('counters')::text"
        with self._transaction(f"BEGIN; {self._wait_for_writers()}; {found}") as (there, counters):
            if counters:
                self._upgrade(version, upgrades)
            elif not there:
                self.query(f"CREATE SCHEMA {self._schema}")
            self.execute_script(schema + OWN_SCHEMA)
            now = "UPDATE counters SET value = ? WHERE name = 'schema_version'"
            self.query(now, (version,))

    def query(self, statement: str, parameters: tuple = ()) -> list[tuple]:
        """Execute a statement and return its rows."""
        with self._usable() as connection:
            cursor = connection.execute(_translated(statement), parameters, binary=True)
            return cursor.fetchall() if cursor.description else []

    def find(self, statement: str, keys: Iterable[bytes]) -> Iterator[tuple]:
        """Yield the rows that belong to any of these keys; statement ends with `WHERE key IN`."""
        any_of = f"{statement.removesuffix('IN')} = ANY(?)"
        yield from self.query(any_of, (list(keys),))

    def execute_many(self, statement: str, rows: Iterable[tuple]) -> None:
        """Execute a statement once for each row, all of them in one round trip."""
        with self._usable() as connection, connection.cursor() as cursor:
            cursor.executemany(_translated(statement), rows)

    def execute_script(self, script: str) -> None:
        """Execute statements, separated by semicolons."""
        types = "|".join(rf"{name}\b" for name in TYPES)
        with self._usable() as connection:
            connection.execute(re.sub(types, lambda found: TYPES[found[0]], script))

    def write_bytes(self, table: str, column: str, row: int, values: Mapping[int, bytes]) -> None:
        """Overwrite a blob's values of these numbers, all of equal size; row : the key `first`."""
        [(content,)] = self.query(f"SELECT {column} FROM {table} WHERE first = ?", (row,))  # noqa: S608
        changed = bytearray(content)
        for number, value in values.items():
            changed[number * len(value) : (number + 1) * len(value)] = value
        change = f"UPDATE {table} SET {column} = ? WHERE first = ?"  # noqa: S608
        self.query(change, (bytes(changed), row))

    def has_table(self, name: str) -> bool:
        """Return True if there is a table of this name."""
        return self.query("SELECT to_regclass(?)", (name,)) != [(None,)]

    def shrink(self) -> None:
        """Do nothing: the server's autovacuum does that."""

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the body does, or roll it back if the body raises.

        Writers wait for each other, as in SQLite. StoreReplaced if this process has been the
        trainer and another one is.
        """
        begin = f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._wait_for_writers()}; {EPOCH}"
        with self._transaction(begin) as (epoch,):
            if self._epoch not in (None, epoch):
                raise self._taken()
            yield

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[Any]:
        with self._usable() as connection:
            self._may_connect = False
            try:
                cursor = connection.execute(begin)  # no parameters: several statements at once
                while cursor.nextset():
                    pass
                yield cursor.fetchone()
                connection.execute("COMMIT")
            except BaseException:
                with suppress(psycopg.Error):
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._may_connect = True

    def try_lock(self) -> bool:
        """Take the trainer's lock unless another connection has it; close() gives it back."""
        return self.query("SELECT pg_try_advisory_lock(?)", (self._key("trainer"),))[0][0]

    def begin_epoch(self) -> None:
        """Shut out whoever was the trainer before; to be called with the lock."""
        with self.transaction():  # in which there is one connection
            if not self.try_lock():
                raise StoreUnreachable(f"{self._server}: the connection with the lock was lost")
            [(epoch,)] = self.query(NEXT_EPOCH)
        self._epoch = epoch

    def close(self) -> None:
        """Close the connection, which gives the trainer's lock back."""
        if self._connection:
            self._connection.close()
        self._connection = None

    def drop(self) -> None:
        """Delete the schema with all that is in it."""
        self.query(f"DROP SCHEMA IF EXISTS {self._schema} CASCADE")

    def _upgrade(self, version: int, upgrades: Mapping) -> None:
        [(found,)] = self.query("SELECT value FROM counters WHERE name = 'schema_version'")
        if found != version and found not in upgrades:
            raise StoreError(f"{self._server}: {OTHER_VERSION}")
        if found != version:
            upgrades[found](self)

    @contextmanager
    def _usable(self) -> Iterator[Connection]:
        """Connect if there is no connection; translate errors, and drop a connection after one."""
        try:
            if self._connection is None or self._connection.closed:
                self._connect()
            yield self._connection
        except psycopg.Error as error:
            raise self._store_error(error) from error

    def _connect(self) -> None:
        if not self._may_connect:
            raise psycopg.OperationalError("the connection was lost")
        self._connection = connect(self._server, self._read_only)
        self._may_connect = not self._read_only
        if self._epoch is not None:
            self._lock_again()

    def _lock_again(self) -> None:
        is_locked = self.try_lock()
        if self.query(EPOCH) != [(self._epoch,)]:
            raise self._taken()
        if not is_locked:  # by the lost connection, until the server finds that it is lost
            self.close()
            raise StoreUnreachable(f"{self._server}: another connection has the trainer's lock")

    def _wait_for_writers(self) -> str:
        return f"SELECT pg_advisory_xact_lock({self._key('writer')})"

    def _key(self, purpose: str) -> int:
        text = f"{self._server.schema} {purpose}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), signed=True)

    def _taken(self) -> StoreReplaced:
        self.close()
        return StoreReplaced(f"{self._server}: another trainer took over while this one was away")

    def _store_error(self, error: psycopg.Error) -> StoreError:
        text = f"{self._server}: {str(error).strip().splitlines()[0]}"
        lost = self._connection is None or self._connection.closed
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or lost:
            self.close()
            return StoreUnreachable(text)
        gone = isinstance(error, errors.UndefinedTable | errors.InvalidSchemaName)
        return (StoreReplaced if gone and not self._read_only else StoreError)(text)


@lru_cache
def _translated(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")
