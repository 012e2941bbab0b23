"""From rows to a model: fit the preprocessor, tune and fit LightGBM, measure the result."""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from train import optimizer_class
from train.category_order import OrderByOutcome
from train.cost import decisions_per_row, microseconds_per_row
from train.encoded_rows import EncodedRows
from train.reference import add_scores, reference_of
from train.row_hash import has_few_values, hash_frame
from train.split import number_of_folds, split_rows
from utils.datasets import dataset
from utils.feature_encoder import FeatureEncoder, fit_encoder
from utils.files import ROOT
from utils.model_store.card import Card
from utils.model_store.model import Model
from utils.settings import settings

if TYPE_CHECKING:
    import pandas as pd

    from train.optimizer import BaseOptimizer


def code_digest() -> str:
    """Return a SHA-256 of the source files that make a model, with their names."""
    digest = hashlib.sha256()
    for path in sorted(
        each for room in ("train", "utils") for each in ROOT.glob(f"{room}/**/*.py")
    ):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def fit_features(
    frame: "pd.DataFrame", outcomes: np.ndarray, seed: int = 1
) -> tuple[FeatureEncoder, tuple[np.ndarray, np.ndarray]]:
    """Return the preprocessor of these rows, and which of them to fit on and to measure on.

    Outcomes of the latter only decide whether an order of categories is used. ValueError as for
    fit_model().
    """
    strata = dataset.target.strata(outcomes)
    hashes = np.arange(len(frame), dtype=np.uint64) if has_few_values(frame) else hash_frame(frame)
    folds = number_of_folds(strata, max(len(dataset.target.labels), 1))
    split = split_rows(hashes, strata, folds, seed)
    held_out = np.zeros(len(outcomes), dtype=bool)
    held_out[split[1]] = True
    encoder = fit_encoder(
        frame,
        dataset.numeric,
        dataset.categorical,
        dataset.crossed,
        max_categories=settings.max_categories,
        order=OrderByOutcome(outcomes, held_out),
    )
    return encoder, split


def make_optimizer(
    frame: "pd.DataFrame", outcomes: np.ndarray, hyper: str, seed: int = 1, **tuning: Any
) -> tuple[FeatureEncoder, "BaseOptimizer"]:
    """Return the preprocessor of these rows, and what tunes and fits a model of them.

    tuning : of BaseOptimizer. ValueError as for fit_model().
    """
    encoder, split = fit_features(frame, outcomes, seed)
    center, spread = dataset.target.scale(outcomes)
    optimizer = optimizer_class(hyper)(
        EncodedRows(encoder, frame),
        outcomes if (center, spread) == (0.0, 1.0) else (outcomes - center) / spread,
        split,
        encoder.names_out,
        seed=seed,
        **tuning,
    )
    return encoder, optimizer


def fit_model(
    frame: "pd.DataFrame",
    outcomes: np.ndarray,
    *,
    model_id: int,
    hyper: str,
    max_evals: int,
    timeout: float | None = None,
    known_points: Iterable[dict] = (),
    seed: int = 1,
    progress: bool = False,
    **tuning: Any,
) -> Model:
    """Return a model of these rows; its card says how it was made.

    frame has the data set's columns; outcomes, of shape (n,), are those of utils/datasets/
    target.py. The other arguments are those of optimizer_class(hyper) and its optimize().
    ValueError if there are fewer than two rows of each of two classes, or of a number.
    """
    encoder, optimizer = make_optimizer(frame, outcomes, hyper, seed, **tuning)
    booster = optimizer.optimize(
        max_evals, timeout=timeout, known_points=known_points, progress=progress
    )
    card = Card(
        model_id=model_id,
        rows=len(outcomes),
        hyper=hyper,
        evaluations=len(optimizer.trials),
        experiment=optimizer.experiment_id,
        seed=seed,
        parameters=optimizer.best,
        tuning_loss=optimizer.best_loss,
        dataset=dataset.name,
        target=dataset.target.kind,
        classes=list(dataset.target.labels),
        model_cost=settings.model_cost,
        trees=booster.num_trees(),
        decisions_per_row=decisions_per_row(booster),
        learning_curve=optimizer.best_trial()["curve"],
        study=optimizer.store.study,
        trials=optimizer.store.added,
        durations=optimizer.durations,
        code_digest=code_digest(),
        reference=reference_of(frame),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    model = Model(encoder, booster, card, *dataset.target.scale(outcomes))
    card.us_per_row = microseconds_per_row(model, frame)
    add_scores(model, frame)  # until the caller has rows that it was not trained on
    return model
