"""The store of trials: every point that tuning has evaluated, in one database of Optuna's.

Both optimizers keep their trials here, so Optuna's own programs show all of them:

    optuna studies --storage sqlite:///data/trials.db
    pip install optuna-dashboard && optuna-dashboard sqlite:///data/trials.db

A study holds the trials of one optimizer on one experiment, one set of data and one seed. Tuning
starts with the best points of earlier compatible trials, of either optimizer:

- **Same experiment** (a digest): the same features in the same order, the same categorical ones,
  objective, metric, way of evaluating and search space. Other experiments are ignored.
- **Same data** (a digest of all rows and outcomes): losses can be compared. When the data has
  changed they can't, so the best points of earlier data are evaluated again.
"""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
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
MEASURED = ("losses", "rounds", "seconds", "pruned")  # of a trial, kept as its user attributes

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
        self._attributes = attributes
        self._failed = path is None
        self._try(lambda: self._open(path), None)

    def _open(self, path: Path) -> None:
        self._storage = open_storage(path)
        self._study = open_study(self._storage, self._attributes)

    def own_trials(self) -> list[FrozenTrial]:
        """Return the trials of earlier searches of this optimizer on this data with this seed."""
        return self._try(lambda: self._study.get_trials(states=FINISHED), [])

    def past_points(self) -> list[dict]:
        """Return the points of this experiment that are worth evaluating, the best first."""
        return self._try(lambda: past_points(self._storage, self._attributes), [])

    def number_of_trials(self) -> int:
        """Return how many trials of this experiment there are."""
        return self._try(lambda: number_of_trials(self._storage, self._attributes), 0)

    def add(self, trial: FrozenTrial) -> None:
        """Keep a trial."""
        self._try(lambda: self._study.add_trial(trial), None)

    def _try(self, call: Callable, otherwise: Any) -> Any:
        if self._failed:
            return otherwise
        try:
            return call()
        except Exception as error:  # of SQLite, SQLAlchemy, Optuna, or the disk
            warn(f"Tuning continues without the store of trials: {first_line(error)}")
            self._failed = True
            return otherwise


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
    for study in _studies(storage):
        yield from _trials(storage, study)


def number_of_trials(storage: BaseStorage, attributes: dict) -> int:
    """Return how many trials an experiment has in all of its studies."""
    studies = _studies_of(storage, attributes["experiment"])
    return sum(storage.get_n_trials(study._study_id) for study in studies)


def past_points(storage: BaseStorage, attributes: dict) -> list[dict]:
    """Return the points of an experiment's trials that are worth evaluating, the best first."""
    studies, data = _studies_of(storage, attributes["experiment"]), attributes["data"]
    same = [study for study in studies if study.user_attrs["data"] == data]
    others = [study for study in studies if study.user_attrs["data"] != data]
    trials = (t for study in (*others[-RECENT:], *same) for t in _trials(storage, study))
    return best_points(trials, data)


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


def _studies(storage: BaseStorage) -> list:
    # A process that was killed while it created a study left it without attributes or trials.
    needed = {"experiment", "data"}
    return [study for study in storage.get_all_studies() if needed <= study.user_attrs.keys()]


def _studies_of(storage: BaseStorage, experiment: str) -> list:
    return [study for study in _studies(storage) if study.user_attrs["experiment"] == experiment]


def _trials(storage: BaseStorage, study) -> Iterator[dict]:
    for trial in storage.get_all_trials(study._study_id, states=FINISHED):
        yield study.user_attrs | as_dict(trial)


def as_dict(trial: FrozenTrial) -> dict:
    """Return a finished trial as in BaseOptimizer.trials, with the libraries and the time (UTC)."""
    time = trial.datetime_complete.astimezone(UTC).isoformat(timespec="seconds")
    return {"time": time, "params": trial.params, "loss": trial.value, **trial.user_attrs}
