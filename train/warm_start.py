"""What a retraining begins with: the champion's hyperparameters, and how far it looks beyond."""

from train.space import START, as_point
from utils.model_store.card import Card

WIDER_EVERY = 10  # every tenth model is searched for more widely ...
WIDER = 10  # ... with ten times the evaluations, so that tuning does not stay in a local optimum


def champion_points(champion: Card) -> list[dict]:
    """Return the champion's hyperparameters; START where they are not in today's space."""
    return [as_point(champion.parameters) or START]


def evaluations(model_id: int, max_evals: int) -> int:
    """Return how many evaluations this retraining gets where most of them get `max_evals`."""
    return max_evals * WIDER if model_id % WIDER_EVERY == 0 else max_evals
