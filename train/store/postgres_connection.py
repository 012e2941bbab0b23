"""Connections to a PostgreSQL server that end when the server, or the network, is gone."""

import logging
import time
from collections.abc import Generator
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from train.store.database import StoreError
from train.store.place import Server

logging.getLogger("psycopg").addHandler(logging.NullHandler())  # all that matters is raised

CONNECT_TIMEOUT = 5  # seconds
STATEMENT_TIMEOUT = 30  # seconds, by the server's clock; it may wait for another process
ANSWER_TIMEOUT = 35  # seconds without an answer to one statement: the server is frozen
# Both ends find within 4 + 3 * 2 seconds that the other one is gone. By default it takes two hours.
KEEPALIVES = {"keepalives_idle": 4, "keepalives_interval": 2, "keepalives_count": 3}
UNACKNOWLEDGED = 10_000  # ms; for what was sent and not received, keepalives do not count
SESSION = f"""
SET statement_timeout = '{STATEMENT_TIMEOUT}s';
SET idle_in_transaction_session_timeout = '{STATEMENT_TIMEOUT}s';
SET tcp_user_timeout = {UNACKNOWLEDGED};
SET client_min_messages = warning;
""" + "".join(f"SET tcp_{name} = {value};" for name, value in KEEPALIVES.items())
SNAPSHOT = """
SET default_transaction_isolation = 'repeatable read'; SET default_transaction_read_only = on;
"""


class Connection(psycopg.Connection):
    """A connection whose calls end when the server does not answer, with OperationalError."""

    def wait(self, gen: Generator, *args: Any, **options: Any) -> Any:
        """Run one call of psycopg, which calls this."""
        return super().wait(_limited(gen), *args, **options)


def _limited(gen: Generator) -> Generator:
    """Yield what psycopg waits for; it goes on several times a second, ready or not."""
    deadline = time.monotonic() + ANSWER_TIMEOUT
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError(f"no answer within {ANSWER_TIMEOUT} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value


def connect(server: Server, read_only: bool) -> Connection:
    """Return a connection on which names mean those of the schema; psycopg.Error, StoreError.

    read_only : for `BEGIN`, after which all queries read the same state. What the URL says goes
    before the settings here.
    """
    defaults = {"connect_timeout": CONNECT_TIMEOUT, "tcp_user_timeout": UNACKNOWLEDGED}
    defaults["client_encoding"] = "utf8"  # text of a database without an encoding would be bytes
    try:
        given = conninfo_to_dict(server.url.get_secret_value())
    except psycopg.Error:  # its text may have a part of the password
        raise StoreError(f"{server}: it is no valid URL of a database") from None
    connection = Connection.connect(**(defaults | KEEPALIVES | given), autocommit=True)
    session = f"SET search_path TO {quoted(server.schema)}; {SESSION}"
    connection.execute(session + (SNAPSHOT if read_only else ""))
    return connection


def quoted(name: str) -> str:
    """Return a name as it is written in a statement."""
    return sql.Identifier(name).as_string()
