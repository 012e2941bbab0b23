"""What has been tried: all optimisations ever made, and the best trial of each experiment.

    python -m tools.experiments list     # one line an optimisation, the newest last
    python -m tools.experiments best     # the best trial of each experiment, as JSON lines

An optimisation is what was tried on the same data. Losses compare within one, not between two; an
experiment's best trial is that of its newest optimisation. See train/trail.py and, for more about
what `--hyper optuna` did, Optuna's own programs (train/train_optuna.py).
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from train.trail import TRAIL, Trail
from utils.settings import settings


def read_all(folder: Path) -> list[dict]:
    """Return all trials that Hyperopt and Optuna have left in this folder, oldest first."""
    trials = [{"hyper": "hyperopt", **trial} for trial in Trail(folder).read()]
    if (folder / "optuna.db").exists():
        from train.train_optuna import open_storage, read_trials

        trials += [{"hyper": "optuna", **trial} for trial in read_trials(open_storage(folder))]
    return sorted(trials, key=lambda trial: trial["time"])


def optimisations(trials: list[dict]) -> list[list[dict]]:
    """Return the trials in groups of the same optimizer, experiment and data, oldest first."""
    groups: dict[tuple, list[dict]] = {}
    for trial in trials:
        key = trial["hyper"], trial["experiment"], trial["data"]
        groups.setdefault(key, []).append(trial)
    return list(groups.values())


def best_of(trials: list[dict]) -> dict:
    """Return the trial with the lowest loss; a pruned one only where there is no other."""
    return min(trials, key=lambda trial: (trial["pruned"], trial["loss"]))


def show_list(trials: list[dict]) -> None:
    """Print one line for each optimisation."""
    columns = "until (UTC)", "hyper", "experiment", "data", "rows", "trials", "pruned", "best"
    table = Table(*columns, box=None, pad_edge=False)  # fits into 80 columns
    for group in optimisations(trials):
        newest = group[-1]
        table.add_row(
            newest["time"][:16].replace("T", " "),
            *(newest[name][:8] for name in ("hyper", "experiment", "data")),
            f"{newest['rows']:,}",
            str(len(group)),
            str(sum(trial["pruned"] for trial in group)),
            f"{best_of(group)['loss']:.4f}",
        )
    Console().print(table)


def show_best(trials: list[dict]) -> None:
    """Print the best trial of each experiment's newest optimisation, one JSON object a line."""
    newest = {(group[0]["hyper"], group[0]["experiment"]): group for group in optimisations(trials)}
    for group in newest.values():
        print(json.dumps(best_of(group)))


def main() -> None:
    """Show the trail below DATA_DIR."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["list", "best"])
    what = parser.parse_args().what
    folder = settings.data_dir / TRAIL
    trials = read_all(folder)
    if not trials:
        raise SystemExit(f"{folder} holds no trial yet: python initialize.py makes the first ones")
    (show_list if what == "list" else show_best)(trials)


if __name__ == "__main__":
    main()
