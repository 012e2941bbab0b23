"""From rows to a model: fit the preprocessor, tune and fit LightGBM, measure the result."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from train import optimizer_class
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.model_store.card import Card
from utils.model_store.model import Model

if TYPE_CHECKING:
    import pandas as pd


def fit_model(
    frame: "pd.DataFrame",
    outcomes: np.ndarray,
    *,
    model_id: int,
    hyper: str,
    max_evals: int,
    timeout: float | None = None,
    known_points: Iterable[dict] = (),
    trail: Path | None = None,
    num_threads: int = 0,
    seed: int = 1,
    progress: bool = False,
) -> Model:
    """Return a model of these rows, with what is known about its making in its card.

    frame has the data set's columns, outcomes 0.0 or 1.0 for each row; num_threads 0 means all
    cores; known_points and timeout (seconds) bound the search, see BaseOptimizer.optimize; trail is
    the folder that remembers every trial. ValueError for what the optimizer can't use.
    """
    tools = FeatureTools(
        dataset.NUMERIC_COLUMNS, dataset.CATEGORICAL_COLUMNS, dataset.CROSSED_COLUMNS
    ).fit(frame)
    optimizer = optimizer_class(hyper)(
        tools.transform(frame),
        outcomes,
        list(tools.get_feature_names_out()),
        tools.categorical_indices_,
        num_threads=num_threads,
        seed=seed,
        trail=trail,
    )
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
        tuning_logloss=optimizer.best_loss,
    )
    return Model(tools.encoder_, booster, card)


def evaluate(model: Model, frame: "pd.DataFrame", outcomes: np.ndarray) -> dict[str, float]:
    """Return logloss, AUC and accuracy of a model on these rows."""
    return score(outcomes, model.predict(frame))


def score(outcomes: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return logloss, AUC, accuracy, calibration error; arrays of shape (n,), outcomes 0 or 1."""
    return {
        "logloss": float(log_loss(outcomes, probabilities, labels=[0, 1])),
        "auc": float(roc_auc_score(outcomes, probabilities)),
        "accuracy": float(accuracy_score(outcomes, probabilities > 0.5)),
        "calibration_error": calibration_error(outcomes, probabilities),
    }


def calibration_error(outcomes: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return how far probabilities are from the rates that came true, on average.

    The expected calibration error: rows in bins of equal width by their probability, each bin's
    |mean probability - rate of outcomes| weighted by its rows (Naeini et al., AAAI 2015).
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(bin_of, weights=probabilities - outcomes, minlength=bins)
    return float(np.abs(gaps).sum() / len(outcomes))
