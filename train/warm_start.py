"""What a retraining begins with: the champion's hyperparameters, and how far it looks beyond."""

from contextlib import suppress
from pathlib import Path

from train.space import START, as_point
from utils import model_store

WIDER_EVERY = 10  # every so many-th model is searched for more widely ...
WIDER = 10  # ... with so many times the evaluations, so that a good start does not become a cage


def champion_points(models: Path) -> list[dict]:
    """Return the champion's hyperparameters; START where there is none in today's space."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        card = model_store.read_card(models, model_store.champion_id(models))
        if point := as_point(card["parameters"]):
            return [point]
    return [START]


def evaluations(model_id: int, max_evals: int) -> int:
    """Return how many evaluations this retraining gets where most of them get `max_evals`."""
    return max_evals * WIDER if model_id % WIDER_EVERY == 0 else max_evals
