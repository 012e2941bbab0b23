"""Prepares everything: unpacks the data, then tunes, fits and saves the first model.

    python initialize.py                   # 10 evaluations, a few seconds
    python initialize.py --max-evals 50    # a longer search for better hyperparameters
    python initialize.py --again           # another first model replaces the champion

Needs no Kafka. Run again, it keeps undamaged files; --again makes another first model, to which
running predictors change within a second. The next training uses all observations again.
"""

from argparse import Namespace
from contextlib import suppress

from monitoring.metrics.serve import serve_metrics
from train.arguments import parse_arguments
from train.fit import fit_model
from train.held_out import Split
from train.reference import add_scores
from train.rows import original_rows
from train.space import START
from train.store.observations import unused_model_id
from train.trials import TRIALS
from utils.console import print_table, say, warn
from utils.datasets import dataset
from utils.datasets.base import DatasetError
from utils.files import ROOT, make_private
from utils.model_store.model import Model, load, load_champion, save
from utils.model_store.registry import ModelError, Registry
from utils.model_store.signing import refuse_untrusted
from utils.script import run
from utils.settings import settings

registry = Registry()


def keep_champion() -> bool:
    """Return True if there is a model that a predictor can start with, and keep it."""
    if registry.exists():
        refuse_untrusted(registry, [registry.champion_id()])
    try:
        champion, warnings = load_champion(registry)
    except ModelError as error:
        if registry.ids():
            warn(f"Not usable: {error}.")
        return False
    for warning in warnings:
        warn(warning)
    registry.promote(champion.model_id)  # champion.json may be missing, or name a damaged model
    say(f"Keeping model {champion.model_id}, the champion. Another one: initialize.py --again")
    return True


def make_first_model(tuning: Namespace) -> Model:
    """Tune, fit and save a model of the original data, and make it the champion."""
    replaced = registry.champion_id()
    original = original_rows(settings.data_dir)
    dataset.test(settings.data_dir)  # a mistake in it is to be found before the tuning
    # One row in ten is never trained on: the trainer compares models on these rows.
    split = Split.of_first_model(original.frame)
    for_judge = original.held_out(split)
    rows = original[~for_judge]
    limits = f"at most {tuning.max_evals} evaluations in {tuning.timeout:g} s."
    say(f"Tuning LightGBM with {tuning.hyper} on {len(rows):,} rows: {limits}")
    model = fit_model(
        rows.frame,
        rows.outcomes,
        model_id=unused_model_id(registry.newest_id()),  # 0, unless there are models
        hyper=tuning.hyper,
        max_evals=tuning.max_evals,
        timeout=tuning.timeout,
        spark=tuning.spark,
        known_points=[START],  # good hyperparameters: tuning tries them first
        trials_path=TRIALS,
        progress=True,
    )
    model.card.digest_of_rows = rows.digest()
    add_scores(model, original[for_judge].frame)
    split.note(model.card, len(original) - len(rows))
    # First the model, then champion.json: who starts in between finds no champion or a whole one.
    with registry.locked():  # against a trainer that promotes its model at the same moment
        save(model, registry)
        registry.promote(model.model_id)  # in an object store, the last one wins
    card = model.card
    cost = f"{card.trees} trees, {card.us_per_row:.1f} us a prediction"
    say(f"Saved model {card.model_id}, the champion, in {registry.storage}: {cost}.", "green")
    with suppress(ModelError):
        load(registry, replaced)
        say(f"It replaces model {replaced}. To go back: python -m tools.models promote {replaced}")
    return model


def show_quality(model: Model) -> None:
    """Print how good the model is on rows it has never seen, beside what needs no model."""
    rows = dataset.read_test(settings.data_dir)
    frame, outcomes = dataset.checked(rows, "read_test()")
    mean, best = dataset.target.constant(outcomes), dataset.true_scores(rows)
    scores = {f"model {model.model_id}": model.predict(frame), "mean outcome": mean}
    if best is not None:
        scores["the best possible"] = best
    figures = {name: dataset.target.figures(outcomes, each) for name, each in scores.items()}
    rows = [(name, *map(dataset.target.shown, each.values())) for name, each in figures.items()]
    print_table((f"on {dataset.test_rows}", *figures["mean outcome"]), rows)


def main() -> None:
    """Prepare the folders data/ and models/."""
    arguments = parse_arguments(__doc__, 10, timeout=45, again="replace the champion")
    serve_metrics("initialize")  # if METRICS_PORT is set
    make_private(settings.data_dir, ROOT)  # it will hold personal data
    try:
        registry.storage.prepare()
        say(dataset.prepare(settings.data_dir))
        if arguments.again or not keep_champion():
            show_quality(make_first_model(arguments))
    except (DatasetError, ModelError, OSError) as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    run(main)
