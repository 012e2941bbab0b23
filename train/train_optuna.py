"""Tune LightGBM with Optuna's TPE.

A search on the same data as an earlier one, with the same seed, continues its study: Optuna learns
from the losses that are there. The winner is one of the search's own trials, as only they are
compared row by row; so good points of earlier searches are evaluated again.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from train.optimizer import BaseOptimizer
from train.optuna_tables import BUSY_TIMEOUT, distribution, prepare
from train.space import SPACE

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)

optuna.logging.set_verbosity(optuna.logging.WARNING)


class LGBOptimizer(BaseOptimizer):
    """Find good hyperparameters with Optuna, and fit LightGBM with them; see BaseOptimizer."""

    hyper = "optuna"

    def search(self, max_evals: int, points: list[dict]) -> None:
        """Evaluate the points, then those that Optuna suggests; keep each trial in the study."""
        if self.shared_rows and max_evals > 1:
            from train.shared_search import search_with_workers

            search_with_workers(self, max_evals, points)  # as far as the database can be used
            tried = [trial["params"] for trial in self.trials]
            points = [point for point in points if point not in tried]
            if len(self.trials) >= max_evals:
                return
        # In memory: a store that fails in the middle of a search must not end it.
        study = optuna.create_study(sampler=self.sampler(max_evals, points))
        study.add_trials(self.store.attempt(self.own_trials, []))
        for point in points:
            study.enqueue_trial(point)
        while len(self.trials) < max_evals and (not self.trials or self.seconds_left() > 0):
            self._evaluate_next(study)

    def sampler(self, max_evals: int, points: list[dict]) -> optuna.samplers.TPESampler:
        """Return what suggests points in a search that begins with these."""
        return optuna.samplers.TPESampler(
            n_startup_trials=len(points) + max_evals // 5,
            # The same seed must not draw the points of earlier searches again, or of this one.
            seed=self.seed + self.store.last_trial() + len(self.trials),
        )

    def _evaluate_next(self, study: optuna.Study) -> None:
        suggested = study.ask(distributions())
        trial = self.run_trial(suggested.params)
        if trial["pruned"]:  # its value is the last one reported
            suggested.report(trial["penalized_loss"], trial["rounds"])
            study.tell(suggested, state=TrialState.PRUNED)
        else:
            study.tell(suggested, trial["penalized_loss"])
        self.store.add(trial, self.libraries())

    def own_trials(self) -> list[FrozenTrial]:
        """Return the trials of earlier searches of this optimizer on this data with this seed."""
        with suppress(KeyError):  # there is no such study
            storage = open_storage(self.store.path)
            study = optuna.load_study(study_name=self.store.study, storage=storage)
            return study.get_trials(states=FINISHED)
        return []


def open_storage(path: Path) -> RDBStorage:
    """Return the store of trials as Optuna's; StoreError if it can't be used."""
    prepare(path)
    options = {"connect_args": {"timeout": BUSY_TIMEOUT}}
    return RDBStorage(f"sqlite:///{path}", engine_kwargs=options)


def read_trials(storage: BaseStorage) -> Iterator[dict]:
    """Yield all finished trials, each with the attributes of its study; oldest studies first."""
    for study in storage.get_all_studies():
        # A process that was killed while it created a study left it without attributes or trials.
        for trial in storage.get_all_trials(study._study_id, deepcopy=False, states=FINISHED):
            yield study.user_attrs | as_dict(trial)


def distributions() -> dict[str, BaseDistribution]:
    """Return the search space in Optuna's terms."""
    return {name: json_to_distribution(distribution(name)) for name in SPACE}


def as_dict(trial: FrozenTrial) -> dict:
    """Return a finished trial as in BaseOptimizer.trials, with the libraries and the time (UTC).

    Trials from before losses were penalized lack `loss`, `noise` and `decisions`: the loss was the
    trial's value.
    """
    time = trial.datetime_complete.astimezone(UTC).isoformat(timespec="seconds")
    losses = {"loss": trial.value, "penalized_loss": trial.value}
    return {"time": time, "params": trial.params, **losses, **trial.user_attrs}
