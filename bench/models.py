"""The models that bench/performance.py measures with: those that users get, and what they cost.

Each of them is a folder with models/, whose champion answers, and data/.
"""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.growth import REPEATS, measure
from bench.stream import generations, new_rows
from tests.harness.pipeline import Pipeline
from train.cost import decisions_per_row
from utils.console import say
from utils.datasets import dataset
from utils.datasets.adult import read_test_requests
from utils.model_store.model import load_champion
from utils.model_store.registry import Registry

INITIAL = "initialize.py's model"
LOADS = 5
OBSERVED = shutil.ignore_patterns("observations.*", "trials.*", "attempt-*")


def make_models(initialized: Pipeline, trainings: Sequence[int], kept: Path) -> dict[str, Path]:
    """Return {name: folder} of the model of initialize.py and of champions that follow it.

    trainings : after how many trainings of one stream (bench/stream.py) a champion is taken. kept :
    the models are put there; if it has all of them already, none is made.
    """
    folders = {0: kept / "initial"} | {n: kept / f"after-{n}" for n in trainings}
    if not all(folder.is_dir() for folder in folders.values()):
        say("Making the models: the trainings of a stream.")
        keep_champion(initialized, folders[0])
        stream = copy_of(initialized, "trained")
        for number in generations(stream, new_rows(max(trainings)), "trainings"):
            if number in trainings:
                keep_champion(stream, folders[number])
    names = {n: f"champion after {n} trainings" if n else INITIAL for n in folders}
    return {names[n]: folder for n, folder in folders.items()}


def keep_champion(pipeline: Pipeline, folder: Path) -> None:
    """Copy the champion, which the trainer will prune, and the original data."""
    (folder / "models").mkdir(parents=True)
    copy_champion(Registry(pipeline.folder / "models"), Registry(folder / "models"))
    shutil.copytree(pipeline.folder / "data", folder / "data", ignore=OBSERVED)


def copy_champion(source: Registry, target: Registry) -> None:
    """Publish the champion in another folder: the trainer prunes the models of its own."""
    card = source.card(source.champion_id())
    target.publish(card, source.content(card))
    target.promote(card.model_id)


def copy_of(initialized: Pipeline, name: str) -> Pipeline:
    """Return a pipeline with copies of the data and of the models, and with topics of its own."""
    folder = initialized.folder / name
    for each in ("data", "models"):
        shutil.copytree(initialized.folder / each, folder / each)
    return Pipeline(initialized.host, f"{name}-", folder)


def models_table(models: dict[str, Path], unseen: slice) -> Table:
    """Return what each model costs, and its quality on the rows that no training has seen.

    Decisions are the nodes of its trees that a row passes (train/cost.py). If the time follows
    them, ns a decision are the same for all models.
    """
    data = next(iter(models.values())) / "data"
    rows, (frame, outcomes) = read_test_requests(data), dataset.test(data)
    table = Table(
        "models", "model id", "trees", "decisions a row", "us of CPU a row", "ns a decision",
        "load, ms", "bytes", f"logloss, {len(rows[unseen]):,} rows unseen",
    )  # fmt: skip
    for name, folder in models.items():
        registry = Registry(folder / "models")
        model, warnings = load_champion(registry)
        assert not warnings, warnings
        logloss = dataset.target.figures(outcomes[unseen], model.predict(frame[unseen]))["logloss"]
        decisions = decisions_per_row(model.booster)
        microseconds = measure(model, rows, REPEATS)["predict"]
        table.add_row(
            name,
            str(model.model_id),
            str(model.booster.num_trees()),
            f"{decisions:,.0f}",
            f"{microseconds:.1f}",
            f"{microseconds / decisions * 1e3:.1f}",
            f"{milliseconds_to_load(registry):.0f}",
            f"{model.card.file_bytes:,}",
            f"{logloss:.4f}",
        )
    return table


def milliseconds_to_load(registry: Registry) -> float:
    """Return the median time that loading and checking the champion takes."""
    found = []
    for _ in range(LOADS):
        began = time.perf_counter()
        load_champion(registry)
        found.append(time.perf_counter() - began)
    return float(np.median(found)) * 1e3
