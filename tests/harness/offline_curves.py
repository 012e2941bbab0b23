"""Computes the monitor's curves from a list of all answers, in the simplest way."""

import math
from collections import Counter
from typing import NamedTuple

from monitoring.figures.curves import SPANS


class Answered(NamedTuple):
    """A reply, and what is known of it; times in ms."""

    time: int  # of the request
    was_valid: bool  # the request
    is_prediction: bool
    model_id: int | None = None
    probability: float = 0.5
    outcome: int | None = None


def points_of(seconds: int, requests: list[int], answers: list[Answered]) -> list[dict]:
    """Return the points of a span with such intervals; requests : their times."""
    numbers = {time // (seconds * 1000) for time in [*requests, *(each.time for each in answers)]}
    found = []
    for number in sorted(numbers):
        own = [each for each in answers if each.time // (seconds * 1000) == number]
        asked = sum(time // (seconds * 1000) == number for time in requests)
        valid = sum(each.was_valid for each in own)
        point = {"time": number * seconds, "requests": asked, "unanswered": max(asked - valid, 0)}
        found.append(point | _predictions([each for each in own if each.is_prediction], len(own)))
    return found


def _predictions(predictions: list[Answered], answers: int) -> dict:
    known = [each for each in predictions if each.outcome is not None]
    losses = [
        -math.log(each.probability if each.outcome else 1 - each.probability) for each in known
    ]
    right = sum((each.probability > 0.5) == each.outcome for each in known)
    models = Counter(each.model_id for each in predictions)
    return {
        "predictions": len(predictions),
        "errors": answers - len(predictions),
        "outcomes": len(known),
        "loss": math.fsum(losses) / len(known) if known else None,
        "accuracy": right / len(known) if known else None,
        "model_id": max(models, key=lambda each: (models[each], each), default=None),
    }


def never_of(answers: list[Answered], delay: float, now: float) -> float | None:
    """Return the share of predictions older than `delay` seconds that have no outcome.

    Of those in the intervals that ended before that, of the shortest span that has some.
    """
    for seconds in SPANS.values():
        until = (now - delay) // seconds
        old = [e for e in answers if e.is_prediction and e.time // (seconds * 1000) < until]
        if old:
            return sum(each.outcome is None for each in old) / len(old)
    return None
