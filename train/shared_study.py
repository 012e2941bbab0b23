"""Optuna's storage in PostgreSQL, and the studies in it that several hosts search together.

There is one study for each search that is going on; train/shared_search.py says how it is used. Its
attribute TASK, a JSON object, says what is measured, and on which rows.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import FrozenTrial, Trial, TrialState

from train.optuna_tables import first_line
from train.space import SPACE
from train.store import postgres_connection
from train.store.place import Server
from train.store.postgres_connection import Connection
from utils.settings import settings

TASK = "task"  # of a study: what to measure; it is there once workers may take part
PLACE = "place"  # of a trial: its number in the search, from 0
MEASURED = "measured"  # of a finished trial: what was found, besides its value
HEARTBEAT, STALE = 5, 20  # seconds between signs of life; without one a trial is given up
_SCHEMA = "tuning"
_LOCK = 0x74756E65  # of the processes that make the tables; any number that nobody else uses


class SharedStorage(RDBStorage):
    """Optuna's storage; a sign of life that can't be written is left out."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Note that a trial is being evaluated."""
        with suppress(Exception):  # the thread would end, and the trial be given up
            super().record_heartbeat(trial_id)


def connect() -> Connection:
    """Return a connection whose tables are Optuna's; psycopg.Error or StoreError if there is none.

    SQLAlchemy does not make it: its errors and logs would hold the URL.
    """
    connection = postgres_connection.connect(Server(settings.observations_url, _SCHEMA), False)
    connection.autocommit = False
    return connection


def open_storage() -> SharedStorage:
    """Return the storage, with its tables; an error of psycopg, SQLAlchemy or Optuna."""
    engine = {"creator": connect, "pool_pre_ping": True}
    with connect() as lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats
        lock.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))  # two would fail
        with connect() as other:
            other.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        return SharedStorage(
            "postgresql+psycopg://", engine, heartbeat_interval=HEARTBEAT, grace_period=STALE
        )


def close_storage(storage: SharedStorage) -> None:
    """Close its connections."""
    storage.remove_session()
    storage.engine.dispose()


def name_prefix() -> str:
    """Return what the names of this pipeline's studies begin with."""
    return f"search of {settings.topic_prefix!r} "


def study_names(storage: SharedStorage) -> list[str]:
    """Return the names of this pipeline's studies, the newest last."""
    names = optuna.get_all_study_names(storage)
    return [name for name in names if name.startswith(name_prefix())]


def delete_studies(storage: SharedStorage) -> None:
    """Delete this pipeline's studies: their searches have ended, or were killed."""
    for name in study_names(storage):
        with suppress(KeyError):
            optuna.delete_study(study_name=name, storage=storage)


def suggest(trial: Trial) -> dict:
    """Return the trial's point of the space."""
    return {
        name: (trial.suggest_int if bounds.integer else trial.suggest_float)(
            name, bounds.low, bounds.high, log=bounds.log
        )
        for name, bounds in SPACE.items()
    }


def as_measured(trial: FrozenTrial) -> dict:
    """Return a finished trial as in BaseOptimizer.trials; its noise and curve are not known."""
    pruned = trial.state == TrialState.PRUNED
    found = {"penalized_loss": trial.value, "pruned": pruned, "noise": None, "curve": []}
    return {"params": trial.params} | trial.user_attrs[MEASURED] | found


def trials_of(study: optuna.Study, *states: TrialState) -> Iterator[FrozenTrial]:
    """Yield the trials of the search in these states; those it learns from have no place."""
    for trial in study.get_trials(deepcopy=False, states=states or None):
        if PLACE in trial.user_attrs:
            yield trial


def give_up_stale(study: optuna.Study) -> None:
    """Let the running trials fail whose process has been silent for STALE seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def evaluate_next(study: optuna.Study, measure: Callable[[Trial], dict]) -> None:
    """Take a waiting trial of the search, and tell what measure(trial) returns, if there is one.

    If this process is asked to end, or fails, another one can take the trial at once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna wants its own loop, which would hide errors
        trial = study.ask()
    try:
        if PLACE not in trial.user_attrs:  # another process has taken the last one
            return study.tell(trial, state=TrialState.FAIL)
        with get_heartbeat_thread(trial._trial_id, study._storage):
            measured = measure(trial)
        kept = {name: measured[name] for name in ("loss", "rounds", "decisions", "seconds")}
        trial.set_user_attr(MEASURED, kept)
        if not measured["pruned"]:
            return study.tell(trial, measured["penalized_loss"])
        trial.report(measured["penalized_loss"], measured["rounds"])  # its value
        study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        with suppress(Exception):
            study.tell(trial, state=TrialState.FAIL)
        raise


def reason(error: BaseException) -> str:
    """Return the server, and what an error of psycopg, SQLAlchemy or Optuna comes from."""
    seen = []  # causes may be each other's
    while error and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    saying = [each for each in seen if each.args]  # SQLAlchemy has one whose text is "()"
    server = f"{Server(settings.observations_url, _SCHEMA)}: "
    return server + first_line((saying or seen)[-1]).removeprefix(server)
