"""The training child: one retraining in a process of its own, started by trainer.py.

    python -m train.retrain --folder data/attempt-1 --model-id 1 --hyper hyperopt ...

The trainer gives it the lowest priority, and it has few threads, so that predictors get the CPU
that they need. It saves the model and its card in its own folder, from where the trainer publishes
them. When the trainer ends, so does the child: its standard input is closed, and it removes the
folder and exits.
"""

import shutil
import sys
import time
import traceback
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import drop_unwritable_output
from utils.model_store.patience import patiently
from utils.process import end_with_parent, return_freed_memory
from utils.script import command_line
from utils.settings import settings

if TYPE_CHECKING:
    from train.rows import TrainingData
    from utils.model_store.model import Model
    from utils.model_store.registry import Registry

ERROR = "error.txt"  # in the child's folder: why there is no model


def say_what_is_filled(filled: dict[str, int]) -> None:
    """Say which columns of how many observations are null because the data set has changed."""
    from utils.console import warn

    if filled:
        columns = ", ".join(f"{name} of {rows:,}" for name, rows in filled.items())
        warn(f"Observations from before a change of the columns have nulls: {columns}.")


def decide(registry: "Registry", champion: "Model", model: "Model", data: "TrainingData") -> None:
    """Note in the model's card whether it is to replace the champion, and why."""
    from train.held_out import Split
    from train.judge import judge, unlearned_class
    from utils.model_store.model import load_anchor

    card, split = model.card, data.split
    split.note(card, data.held_out)
    unlearned = unlearned_class(champion, data.training)
    if unlearned is not None:
        why = f"not judged: model {champion.model_id} does not know the class {unlearned!r}"
        card.decision, card.why = "promoted", why
    elif Split.of(champion.card) == split:
        # An object store that is away for a moment must not cost the work of minutes.
        anchor = patiently(lambda: load_anchor(registry, champion.card))
        if anchor and Split.of(anchor.card) != split:
            anchor = None
        verdict = judge(champion, model, data.judge, data.judge_groups, anchor)
        card.decision, card.why, card.judge, card.anchor = verdict
    else:  # it would seem better than any model that was not trained on these rows
        known = f"model {champion.model_id}, made before a change, was trained on"
        card.decision, card.why = "promoted", f"not judged: {known} rows that judge now"
    if settings.promote == "always":
        card.decision, card.why, card.anchor = "promoted", f"PROMOTE=always; {card.why}", None


def retrain(arguments: Namespace) -> None:
    """Fit a model on the data that may be used, judge it, and save it in the child's folder."""
    # This module is the first to import LightGBM: without scikit-learn, which would take 0.7 s.
    from utils.model_store.model import load_champion, save

    # isort: split
    from joblib import cpu_count  # of a container: of the cores, those that it may use

    from train.fit import fit_model
    from train.held_out import Split
    from train.reference import add_scores
    from train.rows import rows_to_share, training_data
    from train.store.place import STORE
    from train.store.snapshot import read_snapshot
    from train.trials import TRIALS
    from train.warm_start import champion_points, evaluations
    from utils.model_store.registry import Registry

    registry = Registry()
    registry.exists()  # waits for an object store that is away
    replaces = registry.champion_id()  # may be None, or a model that does not load
    champion, _ = patiently(lambda: load_champion(registry))
    snapshot = read_snapshot(STORE, settings.train_window)
    say_what_is_filled(snapshot.filled)
    split = Split.after(champion.card)
    data = training_data(settings.data_dir, snapshot, settings.train_window, split)
    digest_of_rows = data.training.digest()
    shared = rows_to_share(snapshot, settings.train_window, data.split)
    snapshot.forget_rows()
    model = fit_model(
        data.training.frame,
        data.training.outcomes,
        model_id=arguments.model_id,
        hyper=arguments.hyper,
        max_evals=evaluations(arguments.model_id, arguments.max_evals),
        timeout=arguments.timeout,
        known_points=champion_points(champion.card),
        trials_path=TRIALS,
        num_threads=max(cpu_count() - 1, 1),  # one core is left for the predictor
        spark=arguments.spark,
        shared_rows=shared if settings.observations_url.get_secret_value() else None,
    )
    card = model.card
    card.observations = snapshot.observations
    card.filled_with_null = snapshot.filled
    card.digest_of_rows = digest_of_rows
    card.offsets = snapshot.offsets
    card.missed_records, card.expired_records = snapshot.missed_records, snapshot.expired_records
    card.parent, card.replaces = champion.model_id, replaces
    add_scores(model, data.judge.frame)
    start = time.monotonic()
    decide(registry, champion, model, data)
    card.durations["judge"] = time.monotonic() - start
    save(model, Registry(arguments.folder))


def main() -> None:
    """Retrain once; on failure write the reason into error.txt and exit with 1."""
    parser = command_line(__doc__, "train.retrain")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model-id", type=int, required=True)
    parser.add_argument("--hyper", required=True)
    parser.add_argument("--max-evals", type=int, required=True)
    parser.add_argument("--timeout", type=float, required=True)
    parser.add_argument("--spark", default="")
    arguments = parser.parse_args()
    drop_unwritable_output()
    return_freed_memory()
    end_with_parent(lambda: shutil.rmtree(arguments.folder, ignore_errors=True))
    try:
        retrain(arguments)
    except (Exception, SystemExit) as error:
        from train.store.database import StoreError
        from utils.datasets.base import DatasetError
        from utils.model_store.storage import StorageAway

        reason = str(error)
        says_all = DatasetError | StoreError | StorageAway | SystemExit
        if not isinstance(error, says_all):
            traceback.print_exc()
            reason = f"{type(error).__name__}: {reason}"
        (arguments.folder / ERROR).write_text(reason)
        sys.exit(1)


if __name__ == "__main__":
    main()
