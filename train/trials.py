"""The store of trials: every point that tuning has evaluated, in one database of Optuna's.

Both optimizers keep their trials here, so Optuna's own programs show all of them:

    optuna studies --storage sqlite:///data/trials.db
    pip install optuna-dashboard && optuna-dashboard sqlite:///data/trials.db

The newest TRIALS_KEEP trials are kept; studies that have none of them are deleted, so the store and
the time of each read are bounded.

A study holds the trials of one optimizer on one experiment, one set of data and one seed. After the
points that it is given, tuning evaluates the best points of earlier trials, of either optimizer:

- **Same experiment** (a digest): the same features in the same order, objective, way of evaluating
  (the penalty for costs among it) and search space. Other experiments are ignored.
- **Same data** (a digest of all rows and outcomes): losses can be compared, so the points are
  ranked by them. Of other data the best point of each comes after them, the newest data first.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from train.optuna_tables import (
    add,
    delete_old_studies,
    first_line,
    is_damage,
    prepare,
    query,
    read_points,
)
from utils.console import warn
from utils.files import locked
from utils.settings import settings

TRIALS = settings.data_dir / "trials.db"


class TrialStore:
    """The store as one search uses it.

    A training must not fail because the store can't be used, at whatever moment that shows. It is
    reported once; then the store is empty and keeps nothing. `path` : None for such a store.
    `attributes` : of the study, see BaseOptimizer.study_attributes().
    """

    def __init__(self, path: Path | None, attributes: dict) -> None:
        self.path, self._attributes = path, attributes
        self.study = "{hyper}-{experiment}-{data}-{seed}".format(**attributes)
        self.added: tuple[int, int] | None = None  # ids of the first and the last trial added
        self._experiment = f"%-{attributes['experiment']}-%"
        self._failed = path is None
        self.attempt(self._open, None)

    def _open(self) -> None:
        prepare(self.path)
        delete_old_studies(self.path, settings.trials_keep)

    def past_points(self) -> list[dict]:
        """Return the points of this experiment that are worth evaluating, the best first.

        Reads the studies on the same data, and the RECENT newest ones of all others.
        """
        data = self._attributes["data"]
        trials = self.attempt(lambda: list(read_points(self.path, self._experiment, data)), [])
        return best_points(trials, data)

    def last_trial(self) -> int:
        """Return the id of this experiment's last trial, 0 if it has none; later ones are larger.

        Unlike the number of trials it also grows when old trials are deleted.
        """
        newest = "SELECT coalesce(max(trial_id), 0) FROM trials JOIN studies USING (study_id)"
        where = f"{newest} WHERE study_name LIKE ?"
        return self.attempt(lambda: query(self.path, where, self._experiment)[0][0], 0)

    def add(self, trial: dict, libraries: dict[str, str]) -> None:
        """Keep a trial, as in BaseOptimizer.trials, and the versions that it depends on."""
        row = trial | {"libraries": libraries}
        added = self.attempt(lambda: add(self.path, self.study, self._attributes, row), None)
        if added is not None:
            self.added = (self.added or (added,))[0], added

    def attempt(self, call: Callable, otherwise: Any) -> Any:
        """Return call(), or `otherwise` if the store can't be used, now or before."""
        if self._failed:
            return otherwise
        try:
            return call()
        except Exception as error:  # of SQLite, Optuna, or the disk
            self._failed = True
            warn(f"Tuning continues without the store of trials: {first_line(error)}")
            if is_damage(error):
                self._begin_anew()
            return otherwise

    def _begin_anew(self) -> None:
        """Move the file aside, so that the next search begins a new one."""
        damaged = self.path.with_name(f"{self.path.name}.damaged")
        with suppress(OSError), locked(self.path.with_suffix(".lock")):
            for part in ("-wal", "-shm"):  # SQLite would take them for those of the new file
                self.path.with_name(self.path.name + part).unlink(missing_ok=True)
            self.path.replace(damaged)
            warn(f"It is kept as {damaged.name}; the next search begins a new one.")


def best_points(trials: Iterable[dict], data: str) -> list[dict]:
    """Return the points of one experiment's trials that are worth evaluating, the best first.

    Losses can be compared among trials on the same data only. So first come all points on `data`,
    from the best to the worst, then the best point on each other data, the newest data first.
    trials : as read_points() yields them, those of the newest data last.
    """

    def loss(trial: dict) -> float:
        return trial["penalized_loss"]

    by_data: dict[str, list[dict]] = {data: []}
    for trial in trials:
        if not trial.get("pruned"):
            by_data.setdefault(trial["data"], []).append(trial)
    same = sorted(by_data.pop(data), key=loss)
    others = [min(group, key=loss) for group in by_data.values()]
    return [trial["params"] for trial in (*same, *reversed(others))]
