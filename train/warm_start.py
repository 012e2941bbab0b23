"""What a retraining begins with: the champion's hyperparameters, and how far it looks beyond."""

from contextlib import suppress
from pathlib import Path

from utils import model_store

WIDER_EVERY = 10  # every so many-th model is searched for more widely ...
WIDER = 10  # ... with so many times the evaluations, so that a good start does not become a cage


def champion_points(models: Path) -> list[dict]:
    """Return the hyperparameters of the champion, in a list that is empty if there is none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [model_store.read_card(models, model_store.champion_id(models))["parameters"]]
    return []


def evaluations(model_id: int, max_evals: int) -> int:
    """Return how many evaluations this retraining gets where most of them get `max_evals`."""
    return max_evals * WIDER if model_id % WIDER_EVERY == 0 else max_evals
