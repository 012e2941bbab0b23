"""Optuna's tables in SQLite, read and written in SQL: its own way costs 0.6 s of CPU a training.

Optuna makes the tables. Each function here is one transaction.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from train.space import SPACE
from train.store.database import StoreError, batched
from utils.files import locked

TABLES = "v3.2.0.a"  # the version of Optuna's tables that this module reads and writes
BUSY_TIMEOUT = 60  # seconds that SQLite waits while another process writes
RECENT = 20  # studies on other data, the newest ones, whose best points are tried again
# Of a trial, as its user attributes; its value is the penalized loss, which tuning minimizes.
KEPT = ("loss", "noise", "rounds", "decisions", "seconds", "pruned", "libraries")

_COMPLETE = """
SELECT value, param_name, param_value FROM trials
JOIN trial_values USING (trial_id) JOIN trial_params USING (trial_id)
WHERE study_id = ? AND state = 'COMPLETE' ORDER BY trial_id, param_id
"""


class OtherTables(Exception):
    """The tables are those of another version of Optuna."""


def is_damage(error: BaseException | None) -> bool:
    """Return True if the file itself can't be used: damaged, or of another version of Optuna."""
    while error and type(error) not in (sqlite3.DatabaseError, OtherTables):  # others: subclasses
        error = error.__cause__
    return error is not None


def prepare(path: Path) -> None:
    """Create Optuna's tables if there are none; StoreError if the file can't be used.

    Under a lock, as the copy of one process would replace the tables of another.
    """
    try:
        with locked(path.with_suffix(".lock")), _connected(path) as database:
            database.execute("PRAGMA journal_mode = WAL")  # one sync a commit instead of three
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            if not names:
                _create_tables(database)
            elif "alembic_version" not in names:
                raise OtherTables("it is not a complete database of Optuna's")
        if query(path, "SELECT version_num FROM alembic_version") != [(TABLES,)]:
            raise OtherTables(f"its tables are not of version {TABLES}")
    except Exception as error:  # of SQLite, SQLAlchemy, Alembic, Optuna, or the disk
        raise StoreError(f"{path} can't be used: {first_line(error)}") from error


def _create_tables(database: sqlite3.Connection) -> None:
    """Let Optuna create its tables in memory, and copy them into the file in one transaction.

    In the file Optuna would commit several times; a process killed in between would leave a part.
    """
    from optuna.storages import RDBStorage  # it takes long to import

    with closing(RDBStorage("sqlite://").engine.raw_connection()) as memory:
        memory.driver_connection.backup(database)


def first_line(error: Exception) -> str:
    """Return the first line of an error's text: SQLAlchemy's have many."""
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, BUSY_TIMEOUT, isolation_level=None)) as database:
        yield database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Lock out other writers, from before the first read; commit, or roll back on an exception."""
    with database:
        database.execute("BEGIN IMMEDIATE")
        yield


def query(path: Path, sql: str, *parameters: Any) -> list[tuple]:
    """Execute a statement and return its rows."""
    with _connected(path) as database:
        return database.execute(sql, parameters).fetchall()


def add(path: Path, study: str, attributes: dict, trial: dict) -> int:
    """Store a trial, and its study if it is the first one, in one transaction; return its id."""
    end = datetime.now()
    begin = end - timedelta(seconds=trial["seconds"])
    times = {"datetime_start": str(begin), "datetime_complete": str(end)}
    state = "PRUNED" if trial["pruned"] else "COMPLETE"
    with _connected(path) as database, _transaction(database):
        study_id, number = _study(database, study, attributes)
        row = {"study_id": study_id, "number": number, "state": state} | times
        of = {"trial_id": _insert(database, "trials", **row)}
        value = {"objective": 0, "value": trial["penalized_loss"], "value_type": "FINITE"}
        _insert(database, "trial_values", **of, **value)
        for name, value in trial["params"].items():
            param = {"param_name": name, "param_value": value}
            _insert(database, "trial_params", **of, **param, distribution_json=distribution(name))
        for name in KEPT:
            kept = {"key": name, "value_json": json.dumps(trial[name])}
            _insert(database, "trial_user_attributes", **of, **kept)
    return of["trial_id"]


def _study(database: sqlite3.Connection, name: str, attributes: dict) -> tuple[int, int]:
    """Return the id of a study, created if it does not exist, and the number of its trials."""
    found = "SELECT study_id, (SELECT count(*) FROM trials WHERE trials.study_id = known.study_id)"
    query = f"{found} FROM studies AS known WHERE study_name = ?"
    if known := database.execute(query, (name,)).fetchone():
        return known
    study_id = _insert(database, "studies", study_name=name)
    _insert(database, "study_directions", study_id=study_id, objective=0, direction="MINIMIZE")
    for key, value in attributes.items():
        kept = {"key": key, "value_json": json.dumps(value)}
        _insert(database, "study_user_attributes", study_id=study_id, **kept)
    return study_id, 0


def _insert(database: sqlite3.Connection, table: str, **columns: Any) -> int:
    """Insert a row and return its id."""
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608
    return database.execute(sql, tuple(columns.values())).lastrowid


def distribution(name: str) -> str:
    """Return a range of the search space as Optuna writes it."""
    bounds = SPACE[name]
    kind, number = ("IntDistribution", int) if bounds.integer else ("FloatDistribution", float)
    limits = {"low": number(bounds.low), "high": number(bounds.high), "log": bounds.log}
    step = 1 if bounds.integer else None
    return json.dumps({"name": kind, "attributes": {**limits, "step": step}})


def read_points(path: Path, experiment: str, data: str) -> Iterator[dict]:
    """Yield data, penalized_loss and params of an experiment's trials that were not pruned.

    experiment : what the names of its studies are like; data : as in TrialStore.past_points().
    """
    found = "SELECT study_id, study_name FROM studies WHERE study_name LIKE ? ORDER BY study_id"
    studies = [(study_id, name.split("-")[2]) for study_id, name in query(path, found, experiment)]
    others = [study for study in studies if study[1] != data][-RECENT:]
    same = [study for study in studies if study[1] == data]
    for study_id, of in others + same:
        rows = query(path, _COMPLETE, study_id)
        for trial in batched(rows, len(SPACE)):
            point = {name: int(v) if SPACE[name].integer else v for _, name, v in trial}
            yield {"data": of, "penalized_loss": trial[0][0], "params": point}


def delete_old_studies(path: Path, keep: int) -> None:
    """Delete the studies without any of the `keep` newest trials; the file shrinks.

    In SQL, as Optuna would read each trial of a study that it deletes.
    """
    beyond = "SELECT trial_id FROM trials ORDER BY trial_id DESC LIMIT 1 OFFSET ?"
    with _connected(path) as database:
        with _transaction(database):
            if (newest_old := database.execute(beyond, (keep,)).fetchone()) is None:
                return
            old = "SELECT study_id FROM trials GROUP BY study_id HAVING max(trial_id) <= ?"
            database.execute(f"CREATE TEMP TABLE old AS {old}", newest_old)
            trials = "SELECT trial_id FROM trials WHERE study_id IN old"
            for table in _tables_with(database, "trial_id"):
                if table != "trials":  # the others are found by it
                    database.execute(f"DELETE FROM {table} WHERE trial_id IN ({trials})")  # noqa: S608
            for table in _tables_with(database, "study_id"):
                database.execute(f"DELETE FROM {table} WHERE study_id IN old")  # noqa: S608
        [(free, pages)] = database.execute(
            "SELECT freelist_count, page_count FROM pragma_freelist_count, pragma_page_count"
        )
        if free > pages / 2:
            database.execute("VACUUM")


def _tables_with(database: sqlite3.Connection, column: str) -> list[str]:
    tables = "SELECT m.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c"
    found = database.execute(f"{tables} WHERE m.type = 'table' AND c.name = ?", (column,))
    return [name for (name,) in found]
