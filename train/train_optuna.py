"""Tune LightGBM with Optuna: a database holds every trial, and each search goes on from there.

`optuna.db` below the data folder is Optuna's own SQLite storage, so Optuna's own programs show it:

    optuna studies --storage sqlite:///data/trail/optuna.db
    pip install optuna-dashboard && optuna-dashboard sqlite:///data/trail/optuna.db

A study is one experiment on the same data with the same seed: a search that finds its study goes on
in it and believes its losses. Of other studies of the same experiment (other data, so the losses do
not compare) the best points are evaluated again. What an experiment is: train/trail.py.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from train.optimizer import BaseOptimizer, distinct_points, known_points_to_try
from train.space import SPACE
from train.trail import best_points

FILE = "optuna.db"
BUSY_TIMEOUT = 60  # seconds that SQLite waits while another process writes
RECENT = 20  # studies of the same experiment that are looked at for good points

optuna.logging.set_verbosity(optuna.logging.WARNING)


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Optuna, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "optuna"

    def search(self, max_evals: int, known_points: Iterable[dict]) -> None:
        """Evaluate the known points and the best past ones, then what Optuna's TPE suggests."""
        storage = open_storage(self.trail) if self.trail else optuna.storages.InMemoryStorage()
        past = list(read_trials(storage, self.experiment_id, RECENT))
        points = distinct_points(
            [*known_points, *best_points(past, self.data_id)], known_points_to_try(max_evals)
        )
        study = self._study(storage)
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=len(points) + max_evals // 5,
            # With the same seed, a search that goes on must not draw the first one's points again.
            seed=self.seed + len(study.trials),
        )
        self.past_trials = [_as_dict(t) for t in study.get_trials(states=[TrialState.COMPLETE])]
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        study.optimize(self._loss, n_trials=max_evals, callbacks=[self._stop_in_time])

    def _study(self, storage: optuna.storages.BaseStorage) -> optuna.Study:
        """Return the study of this experiment, data and seed, new or begun in the past."""
        study = optuna.create_study(
            storage=storage,
            study_name=f"{self.experiment_id}-{self.data_id}-{self.seed}",
            load_if_exists=True,
        )
        for name, value in {**self.origin(), "description": self.experiment}.items():
            if name not in study.user_attrs:
                study.set_user_attr(name, value)
        return study

    def _stop_in_time(self, study: optuna.Study, _: FrozenTrial) -> None:
        if self.seconds_left() <= 0:
            study.stop()

    def _loss(self, suggested: optuna.Trial) -> float:
        """Evaluate the point that Optuna suggests, keep what is known of it, return the loss."""
        trial = self.run_trial({name: _suggest(suggested, name) for name in SPACE})
        for name in ("losses", "rounds", "seconds", "pruned"):
            suggested.set_user_attr(name, trial[name])
        suggested.set_user_attr("libraries", self.origin()["libraries"])
        if trial["pruned"]:
            suggested.report(trial["loss"], trial["rounds"])
            raise optuna.TrialPruned
        return trial["loss"]


def _suggest(trial: optuna.Trial, name: str) -> float:
    bounds = SPACE[name]
    if bounds.integer:
        return trial.suggest_int(name, int(bounds.low), int(bounds.high), log=bounds.log)
    return trial.suggest_float(name, bounds.low, bounds.high, log=bounds.log)


def open_storage(folder: Path) -> optuna.storages.RDBStorage:
    """Return the database in this folder, made when it is not there."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options = {"connect_args": {"timeout": BUSY_TIMEOUT}}
    with _locked(folder):  # two processes that made the tables at once would fail
        with closing(sqlite3.connect(folder / FILE, timeout=BUSY_TIMEOUT)) as database:
            database.execute("PRAGMA journal_mode=WAL")  # one sync a commit instead of three
        return optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}", engine_kwargs=options)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_trials(
    storage: optuna.storages.BaseStorage, experiment: str = "", studies: int | None = None
) -> Iterator[dict]:
    """Yield the finished trials of an experiment as the trail has them, oldest first.

    `studies` : only so many of the newest studies; all experiments where `experiment` is "".
    """
    # A study that was killed when it began may lack these, and has no trial.
    found = [s for s in storage.get_all_studies() if {"experiment", "data"} <= s.user_attrs.keys()]
    found = [s for s in found if experiment in ("", s.user_attrs["experiment"])]
    for study in found[-studies:] if studies else found:
        for trial in storage.get_all_trials(study._study_id):
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                yield {**study.user_attrs, **_as_dict(trial)}


def _as_dict(trial: FrozenTrial) -> dict:
    time = trial.datetime_complete.astimezone(UTC).isoformat(timespec="seconds")
    return {"time": time, "params": trial.params, "loss": trial.value, **trial.user_attrs}
