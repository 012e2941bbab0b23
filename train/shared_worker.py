"""A worker's side of a search on several hosts: read the same rows, evaluate trials."""

import random
import time
from contextlib import suppress
from importlib.metadata import version

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from train.fit import make_optimizer
from train.rows import shared_rows
from train.shared_study import (
    TASK,
    SharedStorage,
    evaluate_next,
    study_names,
    suggest,
    trials_of,
)
from train.train_optuna import FINISHED, LGBOptimizer
from utils.console import say
from utils.datasets import dataset
from utils.settings import settings

POLL = 0.5  # seconds between two looks for a trial that waits


class NotTheSame(Exception):
    """This process would measure something else than the training process does."""


def open_search(storage: SharedStorage, seen: set[str]) -> optuna.Study | None:
    """Return the newest search of this pipeline that workers may take part in, None if none is.

    seen : the names of those that this worker is done with.
    """
    for name in reversed(study_names(storage)):
        if name not in seen:
            study = optuna.load_study(study_name=name, storage=storage)
            task = study.user_attrs.get(TASK)
            if task and task["ends"] > time.time():
                return study
    return None


def take_part(study: optuna.Study, num_threads: int) -> int:
    """Evaluate trials until the search ends; return how many there were.

    KeyError when the training process has deleted the study. NotTheSame if this host has other rows
    or other code; StoreError, DatasetError if it has none.
    """
    task, done = study.user_attrs[TASK], 0
    optimizer = rebuilt(task, num_threads)
    study.sampler = optuna.samplers.TPESampler(
        n_startup_trials=task["startup"],
        seed=random.SystemRandom().randrange(2**31),  # not the points of another worker
    )
    ends = time.monotonic() + task["ends"] - time.time()

    def measure(trial: Trial) -> dict:
        values = [each.value for each in trials_of(study, *FINISHED)]
        limits = {"to_beat": min(values), "deadline": ends} if values else {"deadline": ends}
        return optimizer.holdout.evaluate(suggest(trial), **limits)[0]

    while time.monotonic() < ends:
        if any(trials_of(study, TrialState.WAITING)):
            with suppress(UpdateFinishedTrialError):  # given up, as this process was frozen
                evaluate_next(study, measure)
                done += 1
        elif len(list(trials_of(study, *FINISHED))) == task["size"]:
            break
        else:
            time.sleep(POLL)
    return done


def rebuilt(task: dict, num_threads: int) -> LGBOptimizer:
    """Return the optimizer that the training process has; NotTheSame if that is impossible."""
    same("DATASET", dataset.name, task["dataset"])
    same("the version of LightGBM", version("lightgbm"), task["lightgbm"])
    rows = shared_rows(settings.data_dir, **task["rows"])
    say(f"Taking part in a search of {task['size']} trials, on {len(rows):,} rows.")
    seed = task["seed"]
    optimizer = make_optimizer(rows.frame, rows.outcomes, "optuna", seed, num_threads=num_threads)[
        1
    ]
    what = "what is measured, by features, space and MODEL_COST (as a digest),"
    same(what, optimizer.experiment_id, task["experiment"])
    same("the digest of the encoded rows", optimizer.data_id, task["data"])
    return optimizer


def same(what: str, here: object, there: object) -> None:
    """Raise NotTheSame with one sentence if these two are not equal."""
    if here != there:
        raise NotTheSame(f"{what} is {here} here, {there} in the training")
