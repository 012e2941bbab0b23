"""Hyperopt's trials on a Spark cluster (--hyper hyperopt --spark URL), by Hyperopt's SparkTrials.

Each trial is a task of one thread. The rows are sent once to each executor, as a broadcast. The
known points are evaluated here, and the best trial is measured here again: an executor saves time,
no more. If Spark can't be used, or loses trials, the search goes on without it.
"""

import logging
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import lightgbm as lgb
import numpy as np

from train.evaluation import Holdout
from train.optuna_tables import first_line
from utils.console import warn
from utils.files import ROOT
from utils.settings import settings

if TYPE_CHECKING:
    from train.train_hyperopt import LGBOptimizer

ANSWER = 5  # seconds that a cluster's master may take to accept a connection
_holdouts: dict[str, Holdout] = {}  # in a Python worker of an executor: the last one, by its data


def search_on_spark(optimizer: "LGBOptimizer", max_evals: int, points: list[dict]) -> None:
    """Evaluate the points here, then others on Spark; there may be fewer than `max_evals`."""
    for point in points:
        optimizer.evaluate_point(point)
    try:
        with _session(optimizer.spark) as session:
            _search(optimizer, max_evals - len(optimizer.trials), session)
    except Exception as error:  # of Spark, Py4J or the network
        warn(f"Tuning continues without Spark: --spark {optimizer.spark}: {first_line(error)}")
    optimizer.measure_the_lowest()


@contextmanager
def _session(url: str) -> Iterator:
    """Start a session on this master, and stop it at the end."""
    if url.startswith("spark://"):  # Spark would try for a minute, and print a page
        _check_masters(url)
    from pyspark.sql import SparkSession

    # The executors run this project's code, by the same Python and with the same settings.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    given = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "passive"}
    given |= {"DATASET": settings.dataset, "MODEL_COST": settings.model_cost}
    builder = SparkSession.builder.master(url).appName("tuning")
    builder = builder.config("spark.ui.enabled", "false").config("spark.log.level", "ERROR")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    if url.startswith("local"):
        builder = builder.config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1")
    for name, value in given.items():
        builder = builder.config(f"spark.executorEnv.{name}", value)
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def _check_masters(url: str) -> None:
    """Raise OSError if no master of spark://host:port,host:port answers."""
    error: OSError = OSError("expected spark://host:port")
    for address in url.removeprefix("spark://").split(","):
        host, _, port = address.rpartition(":")
        try:
            if port.isdecimal():
                return socket.create_connection((host, int(port)), ANSWER).close()
        except OSError as refused:
            error = refused
    raise error


def _search(optimizer: "LGBOptimizer", evaluations: int, session: Any) -> None:
    from hyperopt import SparkTrials, fmin, tpe

    left = optimizer.seconds_left()
    if evaluations < 1 or left <= 0:
        return
    logging.getLogger("hyperopt-spark").setLevel(logging.CRITICAL)  # what is lost is done again
    trials = SparkTrials(session.sparkContext.defaultParallelism, spark_session=session)
    collect = _Collector(optimizer)
    limits = optimizer.lowest_trial()["penalized_loss"], time.time() + left
    rows = session.sparkContext.broadcast(optimizer.rows_to_send)
    fmin(
        partial(_evaluate, rows, optimizer.data_id, limits),
        optimizer.hyperparameter_space(),
        algo=partial(tpe.suggest, n_startup_jobs=max(evaluations // 5, 1)),
        max_evals=evaluations,
        timeout=None if math.isinf(left) else max(int(left), 1),
        trials=trials,
        rstate=np.random.default_rng([optimizer.seed, optimizer.store.last_trial()]),
        early_stop_fn=collect,
        return_argmin=False,
        verbose=False,
    )
    collect(trials)


class _Collector:
    """Appends trials that have ended to those of the search; Hyperopt calls it now and then."""

    def __init__(self, optimizer: "LGBOptimizer") -> None:
        self._optimizer, self._known = optimizer, set()

    def __call__(self, trials: Any, *_: Any) -> tuple[bool, list]:
        """Return that the search goes on."""
        for each in list(trials.trials):
            if each["result"]["status"] == "ok" and each["tid"] not in self._known:
                self._known.add(each["tid"])
                self._optimizer.keep(each["result"]["trial"] | {"noise": None})
        return False, []


def _evaluate(rows: Any, data: str, limits: tuple[float, float], point: dict) -> dict:
    """Evaluate a point in an executor; limits : the loss to beat, and when time is up (Unix)."""
    from train.train_hyperopt import plain

    to_beat, ends = limits
    holdout = _holdout(rows, data)
    deadline = time.monotonic() + ends - time.time()
    trial, _ = holdout.evaluate(plain(point), to_beat=to_beat, deadline=deadline)
    return {"status": "ok", "loss": trial["penalized_loss"], "trial": trial}


def _holdout(rows: Any, data: str) -> Holdout:
    if data not in _holdouts:
        X, y, split, names, fixed = rows.value
        _holdouts.clear()
        dataset = lgb.Dataset(X, y, feature_name=names, params=fixed).construct()
        _holdouts[data] = Holdout(dataset, split, fixed)
    return _holdouts[data]
