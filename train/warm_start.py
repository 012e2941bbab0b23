"""Which points tuning begins with: the champion's hyperparameters and other good points."""

from collections.abc import Iterable, Iterator
from itertools import islice

from train.space import START, as_point
from utils.model_store.card import Card
from utils.settings import settings

WIDER_EVERY = 10  # every tenth model is searched for more widely ...
WIDER = 10  # ... with ten times the evaluations, so that tuning does not stay in a local optimum


def champion_points(champion: Card) -> list[dict]:
    """Return the champion's hyperparameters, or START if they are outside today's space.

    START comes first when the champion was tuned for another MODEL_COST, as it is a good point for
    today's: one evaluation never leaves the first point.
    """
    point = as_point(champion.parameters) or START
    return [point] if champion.model_cost == settings.model_cost else [START, point]


def evaluations(model_id: int, max_evals: int) -> int:
    """Return the number of evaluations of a retraining; it is `max_evals` for most of them."""
    return max_evals * WIDER if model_id % WIDER_EVERY == 0 else max_evals


def distinct_points(points: Iterable[dict], limit: int) -> list[dict]:
    """Return the first `limit` different points of the space; reads no more points than needed."""
    return list(islice(_distinct(map(as_point, points)), limit))


def _distinct(points: Iterable[dict | None]) -> Iterator[dict]:
    seen: list[dict] = []
    for point in points:
        if point and point not in seen:
            seen.append(point)
            yield point


def known_points_to_try(max_evals: int) -> int:
    """Return how many of `max_evals` evaluations are for points that were good before."""
    return min(max(max_evals // 2, 1), 5)
