"""One search on several hosts: workers take part in the trials of a training (--hyper optuna).

The training process writes a study into the database of OBSERVATIONS_URL, with a waiting trial for
each evaluation. It and the workers (python -m tools.tuning_worker) take one trial after another.

- Only the training process adds trials. There is one for each place of the search, so there are as
  many evaluations as without workers, whoever is killed.
- A trial whose process has been silent for STALE seconds is given up, and its point waits again.
- Workers save time, no more: if the database can't be used, the search goes on without it, and it
  ends without a worker too. The training process measures the best trial again if a worker measured
  it, so what a worker says can't make a model seem better than it is.
- The study is deleted at the end. Its trials are in the store of trials as all others are.
"""

import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState

from train.shared_study import (
    PLACE,
    STALE,
    TASK,
    as_measured,
    close_storage,
    delete_studies,
    evaluate_next,
    give_up_stale,
    name_prefix,
    open_storage,
    reason,
    suggest,
    trials_of,
)
from train.train_optuna import FINISHED
from utils.console import warn
from utils.datasets import dataset

if TYPE_CHECKING:
    from train.train_optuna import LGBOptimizer

POLL = 0.2  # seconds between two looks at what workers have done


def search_with_workers(optimizer: "LGBOptimizer", max_evals: int, points: list[dict]) -> None:
    """Evaluate the points and then others, together with the workers that there are.

    After an error of the database the search is where it was: it can go on without workers.
    """
    storage = None
    try:
        storage = open_storage()
        delete_studies(storage)
        search = _Search(optimizer, storage, max_evals, points)
        search.run()
        delete_studies(storage)
    except Exception as error:  # of psycopg, SQLAlchemy or Optuna
        warn(f"Tuning continues without workers: {reason(error)}")
    finally:
        if storage:
            with suppress(Exception):
                close_storage(storage)
    optimizer.measure_the_lowest()


class _Search:
    """The side of the training process."""

    def __init__(
        self, optimizer: "LGBOptimizer", storage: BaseStorage, max_evals: int, points: list[dict]
    ) -> None:
        self._optimizer, self._size = optimizer, max_evals
        self._points = dict(enumerate(points))
        self._done: set[int] = set()  # the places whose trials are in optimizer.trials
        self._study = optuna.create_study(
            study_name=f"{name_prefix()}{uuid.uuid4().hex}",
            storage=storage,
            sampler=optimizer.sampler(max_evals, points),
        )
        self._study.add_trials(optimizer.store.attempt(optimizer.own_trials, []))

    def run(self) -> None:
        """Evaluate until all is done, or time is up and the workers have ended their trials."""
        self._fill()
        self._evaluate()  # the first one, whatever the time
        while len(self._done) < self._size:
            self._collect(trials_of(self._study, *FINISHED))
            left = self._optimizer.seconds_left()
            if left <= 0 and (left < -STALE or not any(self._running())):
                return
            if left > 0:
                self._fill()
            if left > 0 and any(trials_of(self._study, TrialState.WAITING)):
                self._evaluate()
            else:
                time.sleep(POLL)

    def _running(self) -> Iterable:
        return trials_of(self._study, TrialState.RUNNING)

    def _fill(self) -> None:
        """Let each place without a trial have a waiting one, with the point of one that failed."""
        give_up_stale(self._study)
        taken = set(self._done)
        for trial in trials_of(self._study):
            place = trial.user_attrs[PLACE]
            if trial.state != TrialState.FAIL:
                taken.add(place)
            elif trial.params:
                self._points[place] = trial.params
        missing = set(range(self._size)) - taken
        for place in missing:
            self._study.enqueue_trial(self._points.get(place, {}), {PLACE: place})
        # Optuna never gives up a trial without a sign of life: that of a process, for example, that
        # was killed before its first one.
        for trial in trials_of(self._study, TrialState.WAITING) if missing else ():
            self._study._storage.record_heartbeat(trial._trial_id)

    def _evaluate(self) -> None:
        evaluate_next(self._study, self._measure)

    def _measure(self, trial: Trial) -> dict:
        if TASK not in self._study.user_attrs:  # now that this process has the first trial
            self._study.set_user_attr(TASK, self._task())
        measured = self._optimizer.run_trial(suggest(trial))
        self._done.add(trial.user_attrs[PLACE])
        self._optimizer.store.add(measured, self._optimizer.libraries())
        return measured

    def _task(self) -> dict:
        optimizer = self._optimizer
        return {
            "dataset": dataset.name,
            "rows": optimizer.shared_rows,
            "seed": optimizer.seed,
            "experiment": optimizer.experiment_id,
            "data": optimizer.data_id,
            "lightgbm": version("lightgbm"),
            "startup": len(self._points) + self._size // 5,
            "ends": min(time.time() + optimizer.seconds_left(), 2**53),
            "size": self._size,
        }

    def _collect(self, finished: Iterable) -> None:
        for trial in finished:
            if (place := trial.user_attrs[PLACE]) in self._done:
                continue
            self._done.add(place)
            self._optimizer.keep(as_measured(trial))
