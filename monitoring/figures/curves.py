"""The curves over the last hour, the last 90 days, and a day: three rings of equal intervals.

What belongs to a request is in the interval of the request's timestamp, whenever it comes.
"""

from typing import NamedTuple

import msgspec
import numpy as np

from monitoring.figures.exact import added, bins_of, mean, quantile, to_integers
from monitoring.figures.join import Answer, Observation
from monitoring.figures.model_figures import right
from monitoring.snapshot import Point
from utils.datasets import dataset

INTERVALS = 360
SPANS = {"hour": 10, "day": 240, "all": 21_600}  # seconds of an interval
_MOST_MODELS = 20  # that an interval counts the answers of
_IS_NUMBER = dataset.target.kind == "number"


class Interval(msgspec.Struct, array_like=True):
    """What is known of the requests of one interval."""

    requests: int = 0
    answered: int = 0
    predictions: int = 0
    errors: int = 0
    outcomes: int = 0
    correct: int = 0
    loss: str = "0"
    latencies: dict[int, int] = {}  # by the bins of monitoring/figures/exact.py
    models: dict[int, int] = {}  # id: predictions

    def point(self, time: float) -> Point:
        """Return it for whoever shows it."""
        known = self.outcomes or None
        return Point(
            time=time,
            requests=self.requests,
            predictions=self.predictions,
            errors=self.errors,
            outcomes=self.outcomes,
            p50=quantile(self.latencies, 0.5),
            p99=quantile(self.latencies, 0.99),
            loss=mean(int(self.loss), self.outcomes) if known else None,
            accuracy=self.correct / self.outcomes if known and not _IS_NUMBER else None,
            unanswered=max(self.requests - self.answered, 0),
            model_id=max(self.models, key=lambda each: (self.models[each], each), default=None),
        )


class _Additions(NamedTuple):
    """What a step adds: a row for each answer or observation, all of shape (n,)."""

    times: np.ndarray
    fields: dict[str, np.ndarray | list[int]]  # of Interval: how much to add
    counters: dict[str, np.ndarray]  # of Interval: which key to count


class Ring:
    """The intervals of one span, by their numbers since 1970."""

    def __init__(self, seconds: int) -> None:
        self.seconds, self.intervals = seconds, {}
        self.changed: set[int] = set()
        self.gone: set[int] = set()
        self._points: dict[int, Point] = {}  # those that have not changed since they were asked for

    def add(self, additions: _Additions, now: float) -> None:
        """Add rows to their intervals, but for those too old or far in the future."""
        numbers, inverse = np.unique(additions.times // (self.seconds * 1000), return_inverse=True)
        newest = int(now // self.seconds)
        for place, number in enumerate(numbers.tolist()):
            if newest - INTERVALS < number <= newest + INTERVALS:
                chosen = np.flatnonzero(inverse == place)
                interval = self.intervals.setdefault(number, Interval())
                self.changed.add(number)
                self.gone.discard(number)
                self._points.pop(number, None)
                _add(interval, additions, chosen)

    def forget(self, now: float) -> None:
        """Forget the intervals that have become too old."""
        oldest = int(now // self.seconds) - INTERVALS
        for number in [each for each in self.intervals if each <= oldest]:
            del self.intervals[number]
            self.changed.discard(number)
            self.gone.add(number)
            self._points.pop(number, None)

    def points(self, now: float) -> list[Point]:
        """Return the intervals until now as points, oldest first."""
        for number, interval in self.shown(now).items():
            if number not in self._points:
                self._points[number] = interval.point(number * self.seconds)
        return [self._points[number] for number in self.shown(now)]

    def shown(self, now: float) -> dict[int, Interval]:
        """Return the intervals until now, oldest first."""
        self.forget(now)
        newest = int(now // self.seconds)
        return {each: self.intervals[each] for each in sorted(self.intervals) if each <= newest}


def _add(interval: Interval, additions: _Additions, chosen: np.ndarray) -> None:
    for name, amounts in additions.fields.items():
        if name == "loss":
            total = int(interval.loss) + sum(amounts[each] for each in chosen.tolist())
            interval.loss = str(total)
        else:
            setattr(interval, name, getattr(interval, name) + int(amounts[chosen].sum()))
    for name, keys in additions.counters.items():
        counts = getattr(interval, name)
        for key, number in zip(
            *map(np.ndarray.tolist, np.unique(keys[chosen], return_counts=True)), strict=True
        ):
            if key in counts or name != "models" or len(counts) < _MOST_MODELS:
                counts[key] = counts.get(key, 0) + number


class Curves:
    """The three rings."""

    def __init__(self) -> None:
        self.rings = {span: Ring(seconds) for span, seconds in SPANS.items()}

    def add(
        self,
        requests: list[int],
        answers: list[Answer],
        seen: list[Observation],
        losses: np.ndarray,
        now: float,
    ) -> None:
        """Add what one step has brought; requests : their times in ms."""
        additions = [_of_requests(requests), *_of_answers(answers), _of_observations(seen, losses)]
        for ring in self.rings.values():
            for each in additions:
                if len(each.times):
                    ring.add(each, now)

    def points(self, span: str, now: float) -> list[Point]:
        """Return the points of a span until now, oldest first."""
        return self.rings[span].points(now)

    def latencies(self, now: float, least: int = 1_000) -> dict[int, int]:
        """Return counts of latencies by bin, of the newest intervals that hold `least` together."""
        for ring in self.rings.values():
            chosen: list[dict[int, int]] = []
            number = 0
            for interval in reversed(ring.shown(now).values()):
                chosen.append(interval.latencies)
                number += sum(interval.latencies.values())
                if number >= least:
                    break
            if any(chosen):
                return added(chosen)
        return {}

    def never(self, delay: float, now: float) -> float | None:
        """Return the share of predictions older than `delay` seconds that have no outcome."""
        for ring in self.rings.values():
            until = (now - delay) // ring.seconds
            old = [each for number, each in ring.shown(now).items() if number < until]
            if predictions := sum(each.predictions for each in old):
                return 1 - sum(each.outcomes for each in old) / predictions
        return None


def _of_requests(times: list[int]) -> _Additions:
    return _Additions(np.array(times, np.int64), {"requests": np.ones(len(times), np.int64)}, {})


def _of_answers(answers: list[Answer]) -> list[_Additions]:
    def column(name: str, chosen: list[Answer], dtype: type = np.int64) -> np.ndarray:
        return np.array([getattr(each, name) for each in chosen], dtype)

    predictions = [each for each in answers if each.is_prediction]
    errors = [each for each in answers if not each.is_prediction]
    found = []
    for chosen, field in ((predictions, "predictions"), (errors, "errors")):
        fields = {field: np.ones(len(chosen), np.int64), "answered": column("was_valid", chosen)}
        counters = {"latencies": bins_of(column("latency", chosen, float))}
        if field == "predictions":
            counters["models"] = column("model_id", chosen)
        found.append(_Additions(column("time", chosen), fields, counters))
    return found


def _of_observations(seen: list[Observation], losses: np.ndarray) -> _Additions:
    times = np.array([each.time for each in seen], np.int64)
    if not seen:
        return _Additions(times, {}, {})
    before = np.array([each.before for each in seen])
    is_new = np.isnan(before)
    pairs = zip(to_integers(losses[0]), to_integers(losses[1]), strict=True)
    fields = {"outcomes": is_new.astype(np.int64), "loss": [new - old for new, old in pairs]}
    scores = dataset.target.as_scores(np.array([each.scores for each in seen]))
    if not _IS_NUMBER:
        now_right = right(np.array([each.outcome for each in seen]), scores)
        was_right = right(before, scores) & ~is_new
        fields["correct"] = now_right.astype(np.int64) - was_right
    return _Additions(times, fields, {})
