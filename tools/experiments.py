"""Shows what tuning has tried: all searches, and the best trial of each experiment.

    python -m tools.experiments list     # one line per study, the newest last
    python -m tools.experiments best     # the best trial of each experiment, as JSON

A study holds the trials of one optimizer on the same data, with the same seed; losses can be
compared within one study only. The best trial of an experiment is that of its newest study.
Optuna's own programs show more: see train/trials.py.
"""

import json
from pathlib import Path

from train.optuna_tables import first_line
from train.store.database import StoreError
from train.train_optuna import open_storage, read_trials
from train.trials import TRIALS
from utils.console import print_table
from utils.script import command_line, run


def read_studies(path: Path) -> list[list[dict]]:
    """Return the trials of each study in this store, the study with the newest trial last."""
    studies: dict[tuple, list[dict]] = {}
    for trial in _read_trials(path) if path.exists() else ():
        key = tuple(trial[name] for name in ("hyper", "experiment", "data", "seed"))
        studies.setdefault(key, []).append(trial)
    return sorted(studies.values(), key=lambda trials: trials[-1]["time"])


def _read_trials(path: Path) -> list[dict]:
    try:
        return list(read_trials(open_storage(path)))
    except StoreError:
        raise
    except Exception as error:  # of SQLite, SQLAlchemy or Optuna
        raise StoreError(f"{path} can't be read: {first_line(error)}") from error


def best_of(trials: list[dict]) -> dict:
    """Return the trial with the lowest loss; a pruned one only if all are pruned."""
    return min(trials, key=lambda trial: (trial["pruned"], trial["loss"]))


def show_list(studies: list[list[dict]]) -> None:
    """Print one line for each study."""
    columns = "until (UTC)", "hyper", "experiment", "data", "rows", "trials", "pruned", "best"
    print_table(columns, map(_row, studies), box=None, pad_edge=False)  # fits into 80 columns


def _row(trials: list[dict]) -> tuple[str, ...]:
    newest = trials[-1]
    return (
        newest["time"][:16].replace("T", " "),
        *(newest[name][:8] for name in ("hyper", "experiment", "data")),
        f"{newest['rows']:,}",
        str(len(trials)),
        str(sum(trial["pruned"] for trial in trials)),
        f"{best_of(trials)['loss']:.4f}",
    )


def show_best(studies: list[list[dict]]) -> None:
    """Print the best trial of each experiment's newest study, as one list of JSON objects.

    Without the description of its search, which has a hundred lines.
    """
    newest = {(trials[0]["hyper"], trials[0]["experiment"]): trials for trials in studies}
    best = [best_of(trials) for trials in newest.values()]
    for trial in best:
        trial.pop("description", None)
    print(json.dumps(best, indent=2))


def main() -> None:
    """Show the store of trials below DATA_DIR."""
    parser = command_line(__doc__, "tools.experiments")
    parser.add_argument("what", choices=["list", "best"])
    what = parser.parse_args().what
    studies = read_studies(TRIALS)
    if not studies:
        raise SystemExit(f"{TRIALS} holds no trial yet: python initialize.py makes the first ones")
    (show_list if what == "list" else show_best)(studies)


if __name__ == "__main__":
    run(main)
