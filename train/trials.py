"""The store of trials: every point that tuning has evaluated, in one database of Optuna's.

Both optimizers keep their trials here, so Optuna's own programs show all of them:

    optuna studies --storage sqlite:///data/trials.db
    pip install optuna-dashboard && optuna-dashboard sqlite:///data/trials.db

The newest TRIALS_KEEP trials are kept; studies that have none of them are deleted, so the store and
the time of each read are bounded. What is read often is read in SQL: Optuna reads all studies.

A study holds the trials of one optimizer on one experiment, one set of data and one seed. Tuning
starts with the best points of earlier compatible trials, of either optimizer:

- **Same experiment** (a digest): the same features in the same order, the same categorical ones,
  objective, metric, way of evaluating and search space. Other experiments are ignored.
- **Same data** (a digest of all rows and outcomes): losses can be compared. When the data has
  changed they can't, so the best points of earlier data are evaluated again.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from train.database import StoreError
from train.space import SPACE, Range
from utils.console import warn
from utils.files import locked
from utils.settings import settings

TRIALS = settings.data_dir / "trials.db"
BUSY_TIMEOUT = 60  # seconds that SQLite waits while another process writes
RECENT = 20  # studies on other data, the newest ones, whose best points are tried again
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
MEASURED = ("rounds", "decisions", "seconds", "pruned")  # of a trial, kept as its user attributes

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(path: Path) -> RDBStorage:
    """Return the database in this file, created if it does not exist; StoreError if it can't be."""
    options = {"connect_args": {"timeout": BUSY_TIMEOUT}}
    try:
        with locked(path.with_suffix(".lock")):  # creating the tables in two processes fails
            with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as database:
                database.execute("PRAGMA journal_mode = WAL")  # one sync a commit instead of three
            return RDBStorage(f"sqlite:///{path}", engine_kwargs=options)
    except Exception as error:  # of SQLite, SQLAlchemy, Alembic, Optuna, or the disk
        raise StoreError(f"{path} can't be used: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's text: SQLAlchemy's have many."""
    return (str(error) or type(error).__name__).splitlines()[0]


def open_study(storage: BaseStorage, attributes: dict) -> Study:
    """Return the study of an optimizer, experiment, data and seed, created if it does not exist."""
    name = "{hyper}-{experiment}-{data}-{seed}".format(**attributes)
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    known = study.user_attrs
    for attribute, value in attributes.items():
        if attribute not in known:
            study.set_user_attr(attribute, value)
    return study


class TrialStore:
    """The store as one search uses it.

    A training must not fail because the store can't be used, at whatever moment that shows. It is
    reported once; then the store is empty and keeps nothing. `path` : None for such a store.
    """

    def __init__(self, path: Path | None, attributes: dict) -> None:
        self._path, self._attributes = path, attributes
        self._failed = path is None
        self._try(self._open, None)

    def _open(self) -> None:
        self._storage = open_storage(self._path)
        delete_old_studies(self._path, settings.trials_keep)
        self._study = open_study(self._storage, self._attributes)

    def own_trials(self) -> list[FrozenTrial]:
        """Return the trials of earlier searches of this optimizer on this data with this seed."""
        return self._try(lambda: self._study.get_trials(states=FINISHED), [])

    def past_points(self) -> list[dict]:
        """Return the points of this experiment that are worth evaluating, the best first."""
        return self._try(lambda: past_points(self._storage, self._path, self._attributes), [])

    def last_trial(self) -> int:
        """Return the id of this experiment's last trial, 0 if there is none."""
        return self._try(lambda: last_trial(self._path, self._attributes["experiment"]), 0)

    def add(self, trial: FrozenTrial) -> None:
        """Keep a trial."""
        self._try(lambda: self._study.add_trial(trial), None)

    def _try(self, call: Callable, otherwise: Any) -> Any:
        if self._failed:
            return otherwise
        try:
            return call()
        except Exception as error:  # of SQLite, SQLAlchemy, Optuna, or the disk
            self._failed = True
            warn(f"Tuning continues without the store of trials: {first_line(error)}")
            if is_damage(error):
                self._begin_anew()
            return otherwise

    def _begin_anew(self) -> None:
        """Move the file aside, so that the next search begins a new one."""
        damaged = self._path.with_name(f"{self._path.name}.damaged")
        with suppress(OSError), locked(self._path.with_suffix(".lock")):
            for part in ("-wal", "-shm"):  # SQLite would take them for those of the new file
                self._path.with_name(self._path.name + part).unlink(missing_ok=True)
            self._path.replace(damaged)
            warn(f"It is kept as {damaged.name}; the next search begins a new one.")


def is_damage(error: BaseException | None) -> bool:
    """Return True if the file itself can't be used: damaged, or of another version of Optuna."""
    # sqlite3 raises subclasses for all else; Optuna a RuntimeError for another version's tables.
    while error and type(error) not in (sqlite3.DatabaseError, RuntimeError):
        error = error.__cause__
    return error is not None


def as_frozen(trial: dict, libraries: dict[str, str]) -> FrozenTrial:
    """Return a trial, as in BaseOptimizer.trials, as Optuna keeps it."""
    finished = optuna.trial.create_trial(
        state=TrialState.PRUNED if trial["pruned"] else TrialState.COMPLETE,
        value=trial["loss"],
        params=trial["params"],
        distributions=distributions(),
        user_attrs={name: trial[name] for name in MEASURED} | {"libraries": libraries},
        intermediate_values={trial["rounds"]: trial["loss"]} if trial["pruned"] else None,
    )
    finished.datetime_start -= timedelta(seconds=trial["seconds"])
    return finished


def distributions() -> dict[str, BaseDistribution]:
    """Return the search space in Optuna's terms."""
    return {name: _distribution(bounds) for name, bounds in SPACE.items()}


def _distribution(bounds: Range) -> BaseDistribution:
    if bounds.integer:
        return IntDistribution(int(bounds.low), int(bounds.high), log=bounds.log)
    return FloatDistribution(bounds.low, bounds.high, log=bounds.log)


def read_trials(storage: BaseStorage) -> Iterator[dict]:
    """Yield all finished trials, each with the attributes of its study; oldest studies first."""
    for study in storage.get_all_studies():
        # A process that was killed while it created a study left it without attributes or trials.
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=FINISHED):
            yield study.user_attrs | as_dict(trial)


def last_trial(path: Path, experiment: str) -> int:
    """Return the id of an experiment's last trial, 0 if it has none; later trials have larger ids.

    Unlike the number of trials it also grows when old trials are deleted.
    """
    newest = "SELECT max(trial_id) FROM trials JOIN studies USING (study_id)"
    [(trial_id,)] = _query(path, f"{newest} WHERE study_name LIKE ?", f"%-{experiment}-%")
    return trial_id or 0


def past_points(storage: BaseStorage, path: Path, attributes: dict) -> list[dict]:
    """Return the points of an experiment's trials that are worth evaluating, the best first.

    Reads the studies on the same data, and the RECENT newest ones of all others.
    """
    found = "SELECT study_id, study_name FROM studies WHERE study_name LIKE ? ORDER BY study_id"
    rows = _query(path, found, f"%-{attributes['experiment']}-%")
    studies = [(study_id, name.split("-")[2]) for study_id, name in rows]
    same = [study for study in studies if study[1] == attributes["data"]]
    others = [study for study in studies if study[1] != attributes["data"]]
    trials = (
        {"data": data} | as_dict(trial)
        for study_id, data in (*others[-RECENT:], *same)
        for trial in storage.get_all_trials(study_id, deepcopy=False, states=FINISHED)
    )
    return best_points(trials, attributes["data"])


def delete_old_studies(path: Path, keep: int) -> None:
    """Delete the studies without any of the `keep` newest trials; the file shrinks.

    In SQL, as Optuna would read each trial of a study that it deletes.
    """
    beyond = "SELECT trial_id FROM trials ORDER BY trial_id DESC LIMIT 1 OFFSET ?"
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as database:
        if (newest_old := database.execute(beyond, (keep,)).fetchone()) is None:
            return
        with database:  # one transaction
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


def _query(path: Path, sql: str, *parameters: str) -> list[tuple]:
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT)) as database:
        return database.execute(sql, parameters).fetchall()


def best_points(trials: Iterable[dict], data: str) -> list[dict]:
    """Return the points of one experiment's trials that are worth evaluating, the best first.

    Losses can be compared among trials on the same data only. So first come all points on `data`,
    from the best to the worst, then the best point on each other data, the newest data first.
    """
    by_data: dict[str, list[dict]] = {data: []}
    for trial in trials:
        if not trial.get("pruned"):
            by_data.setdefault(trial["data"], []).append(trial)
    same = sorted(by_data.pop(data), key=lambda trial: trial["loss"])
    others = [min(group, key=lambda trial: trial["loss"]) for group in by_data.values()]
    return [trial["params"] for trial in (*same, *reversed(others))]


def as_dict(trial: FrozenTrial) -> dict:
    """Return a finished trial as in BaseOptimizer.trials, with the libraries and the time (UTC)."""
    time = trial.datetime_complete.astimezone(UTC).isoformat(timespec="seconds")
    return {"time": time, "params": trial.params, "loss": trial.value, **trial.user_attrs}
