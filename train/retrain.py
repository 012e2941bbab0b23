"""The training child: one retraining in a process of its own, started by trainer.py.

    python -m train.retrain --folder data/attempt-1 --model-id 1 --hyper hyperopt ...

It has the lowest priority and few threads, so that training never takes the CPU that predicting
needs. It writes into its own folder only; the trainer publishes the result. When the trainer is
gone (its standard input ends), it removes the folder and ends.
"""

import os
import shutil
import sys
import threading
import traceback
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from utils.files import write_atomically
from utils.script import command_line
from utils.settings import settings

MODEL, CARD, ERROR = "model.p", "card.json", "error.txt"  # what the child leaves in its folder


def end_with_parent(folder: Path) -> None:
    """End this process, and remove its folder, as soon as the trainer does not exist any more."""

    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # returns when the other end of the pipe is closed
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def take_lowest_priority() -> None:
    """Leave the CPU to every other process that wants it."""
    os.nice(19)
    # Linux: others need not even wait for the end of a time slice, nor for the disk, as the
    # scheduling class decides the IO priority too (ioprio_set(2)).
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def retrain(arguments: Namespace) -> None:
    """Fit a model on the rows it may see, judge it against the champion, save it in the folder."""
    from train.fit import fit_model
    from train.judge import judge
    from train.observations import STORE, read_snapshot
    from train.rows import split
    from train.trail import TRAIL
    from train.warm_start import champion_points, evaluations
    from utils.model_store.card import encode_card
    from utils.model_store.model import dumps, load_champion
    from utils.model_store.registry import Registry

    registry = Registry()
    replaces = registry.champion_id()  # None, or one that does not load: both are repaired
    champion, _ = load_champion(registry)
    snapshot = read_snapshot(STORE)
    rows = split(settings.data_dir, snapshot, settings.train_window)
    model = fit_model(
        rows.training.frame,
        rows.training.outcomes,
        model_id=arguments.model_id,
        hyper=arguments.hyper,
        max_evals=evaluations(arguments.model_id, arguments.max_evals),
        timeout=arguments.timeout,
        known_points=champion_points(champion.card),
        trail=settings.data_dir / TRAIL,
        num_threads=max((os.cpu_count() or 1) - 1, 1),  # predicting needs one
    )
    card = model.card
    card.created = datetime.now(UTC).isoformat(timespec="seconds")
    card.observations = len(snapshot.outcomes)
    card.judge_rows_held_out = rows.held_out
    card.digest_of_rows = rows.training.digest()
    card.offsets = snapshot.offsets
    card.missed_records, card.expired_records = snapshot.missed_records, snapshot.expired_records
    card.parent, card.replaces = champion.model_id, replaces
    judgement = judge(champion, model, rows.judge, rows.groups)
    card.decision, card.why, card.judge = judgement
    if settings.promote == "always":
        card.decision, card.why = "promoted", f"PROMOTE=always; {card.why}"
    write_atomically(arguments.folder / MODEL, dumps(model))
    write_atomically(arguments.folder / CARD, encode_card(model.card))


def main() -> None:
    """Retrain once; exit 1 with the reason in the folder's error.txt when that fails."""
    parser = command_line(__doc__, "train.retrain")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model-id", type=int, required=True)
    parser.add_argument("--hyper", required=True)
    parser.add_argument("--max-evals", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    arguments = parser.parse_args()
    end_with_parent(arguments.folder)
    take_lowest_priority()
    try:
        retrain(arguments)
    except Exception as error:
        traceback.print_exc()
        (arguments.folder / ERROR).write_text(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
