"""The training child: one retraining in a process of its own, started by trainer.py.

    python -m train.retrain --store data/observations.db --folder models/.attempt-1 --model-id 1 ...

It has the lowest priority and few threads, so that training never takes the CPU that predicting
needs. It writes into its own folder only; the trainer publishes the result. When the trainer is
gone (its standard input ends), it removes the folder and ends.
"""

import argparse
import os
import shutil
import sys
import threading
import traceback
from datetime import UTC, datetime
from pathlib import Path

from train.trail import TRAIL

ERROR_FILE = "error.txt"


def end_with_parent(folder: Path) -> None:
    """End this process, and remove its folder, as soon as the trainer does not exist any more."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # returns when the other end of the pipe is closed
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def take_lowest_priority() -> None:
    """Leave the CPU to whoever wants it."""
    os.nice(19)
    # Linux: others need not even wait for the end of a time slice, nor for the disk, as the
    # scheduling class decides the IO priority too (ioprio_set(2)).
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def retrain(arguments: argparse.Namespace) -> None:
    """Fit a model on the rows it may see, judge it against the champion, save it in the folder."""
    from train.fit import fit_model
    from train.judge import judge
    from train.rows import split
    from train.warm_start import champion_points, evaluations
    from utils import model_store
    from utils.observations import read_snapshot

    snapshot = read_snapshot(arguments.store)
    rows = split(arguments.data, snapshot, arguments.window)
    model = fit_model(
        rows.training.frame,
        rows.training.outcomes,
        model_id=arguments.model_id,
        hyper=arguments.hyper,
        max_evals=evaluations(arguments.model_id, arguments.max_evals),
        timeout=arguments.timeout,
        known_points=champion_points(arguments.models),
        trail=arguments.data / TRAIL,
        num_threads=arguments.threads,
    )
    replaces = model_store.champion_id(
        arguments.models
    )  # None, or one that does not load: repaired
    champion, _ = model_store.load_champion(arguments.models)
    model.card |= {
        "replaces": replaces,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parent": champion.model_id,
        "observations": len(snapshot.outcomes),
        "held_out": rows.held_out,
        "digest_of_rows": rows.training.digest(),
        **snapshot.origin,
        **judge(champion, model, rows.judge, rows.groups),
    }
    if arguments.promote == "always":
        model.card |= {"decision": "promoted", "why": f"PROMOTE=always; {model.card['why']}"}
    model_store.save(model, arguments.folder)


def main() -> None:
    """Retrain once; exit 1 with the reason in the folder's error.txt when that fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model-id", type=int, required=True)
    parser.add_argument("--hyper", required=True)
    parser.add_argument("--max-evals", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--promote", required=True)
    arguments = parser.parse_args()
    end_with_parent(arguments.folder)
    take_lowest_priority()
    try:
        retrain(arguments)
    except Exception as error:
        traceback.print_exc()
        (arguments.folder / ERROR_FILE).write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
