"""The curves over the last hour, the last 90 days, and a day: three rings of equal intervals.

What belongs to a request is in the interval of the request's timestamp, whenever it comes.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import numpy as np

from monitoring.figures.exact import added, bins_of, mean, quantile, total_of
from monitoring.figures.joined import Answers, Observations
from monitoring.figures.model_figures import places_of, right
from monitoring.snapshot import Point
from utils.datasets import dataset

INTERVALS = 360
SPANS = {"hour": 10, "day": 240, "all": 21_600}  # seconds of an interval
_MOST_MODELS = 20  # that an interval counts the answers of
_FEW = 2**14  # integers that are counted without sorting them
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
    fields: dict[str, np.ndarray]  # of Interval: how much to add
    counters: dict[str, np.ndarray]  # of Interval: which key to count
    losses: np.ndarray | None = None  # of shape (2, n): to add, and to take away


class Ring:
    """The intervals of one span, by their numbers since 1970."""

    def __init__(self, seconds: int) -> None:
        self.seconds, self.intervals = seconds, {}
        self.changed: set[int] = set()
        self.gone: set[int] = set()
        self._points: dict[int, Point] = {}  # those that have not changed since they were asked for

    def add(self, additions: _Additions, now: float) -> None:
        """Add rows to their intervals, but for those too old or far in the future."""
        newest = int(now // self.seconds)
        for number, chosen in places_of(additions.times // (self.seconds * 1000)):
            if newest - INTERVALS < number <= newest + INTERVALS:
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


def _add(interval: Interval, additions: _Additions, chosen: np.ndarray | slice) -> None:
    for name, amounts in additions.fields.items():
        setattr(interval, name, getattr(interval, name) + int(amounts[chosen].sum()))
    if additions.losses is not None:
        new, old = additions.losses[:, chosen]
        interval.loss = str(int(interval.loss) + total_of(new) - total_of(old))
    for name, keys in additions.counters.items():
        counts = getattr(interval, name)
        for key, number in _counted(keys[chosen]):
            if key in counts or name != "models" or len(counts) < _MOST_MODELS:
                counts[key] = counts.get(key, 0) + number


def _counted(keys: np.ndarray) -> Iterable[tuple[int, int]]:
    if keys.min(initial=0) >= 0 and keys.max(initial=0) < _FEW:
        numbers = np.bincount(keys)
        different = np.flatnonzero(numbers)
        numbers = numbers[different]
    else:
        different, numbers = np.unique(keys, return_counts=True)
    return zip(different.tolist(), numbers.tolist(), strict=True)


class Curves:
    """The three rings."""

    def __init__(self) -> None:
        self.rings = {span: Ring(seconds) for span, seconds in SPANS.items()}

    def add(
        self,
        requests: np.ndarray,
        answers: Answers,
        seen: Observations,
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


def _of_requests(times: np.ndarray) -> _Additions:
    return _Additions(times, {"requests": np.ones(len(times), np.int64)}, {})


def _of_answers(answers: Answers) -> list[_Additions]:
    found = []
    predictions = answers.are_predictions
    for chosen, field in ((predictions, "predictions"), (~predictions, "errors")):
        rows = answers.rows[chosen]
        fields = {field: np.ones(len(rows), np.int64), "answered": answers.were_valid[chosen]}
        counters = {"latencies": bins_of(answers.latencies[chosen])}
        if field == "predictions":
            counters["models"] = rows["model_id"]
        found.append(_Additions(rows["time"], fields, counters))
    return found


def _of_observations(seen: Observations, losses: np.ndarray) -> _Additions:
    is_new = np.isnan(seen.before)
    fields = {"outcomes": is_new}
    if not _IS_NUMBER and len(is_new):
        scores = seen.scores
        now_right = right(seen.outcomes, scores)
        was_right = right(seen.before, scores) & ~is_new
        fields["correct"] = now_right.astype(np.int64) - was_right
    return _Additions(seen.rows["time"], fields, {}, losses)
