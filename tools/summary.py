"""A summary of the topics as one table: answers, models, latency and quality.

Works from the messages alone, as any observer of the topics could. Latency is what a consumer sees:
from the timestamp of a request to the arrival of its answer, after the transaction has committed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from rich.table import Table

from utils.messages import (
    ControlMessage,
    InvalidMessage,
    Prediction,
    decode_reply,
    decode_request,
)
from utils.metrics import log_losses

Z = 1.96  # standard errors in each direction: 95 % of a normal distribution
Row = tuple[str, str]


class Summary:
    """Collects the messages of app_messages, outcomes_topic and retrain_topic."""

    def __init__(self) -> None:
        self.requests: dict[str, float | None] = {}  # request_id -> true outcome, if known
        self.answers: Counter[str] = Counter()
        self.retrain_requests = 0
        self.trainings: Counter[str] = Counter()
        self._sent: dict[str, float] = {}
        self._latencies: list[float] = []
        self._arrivals: list[float] = []
        # model_id -> (request_id, probability); the first model to answer comes first
        self._predictions: dict[int | None, list[tuple[str, float]]] = defaultdict(list)

    def add_app_message(self, value: bytes, timestamp: float, now: float) -> None:
        """Add a request or a reply; timestamp and now in seconds since the epoch."""
        reply = decode_reply(value)
        if reply is None:
            self._add_request(value, timestamp)
        elif reply.request_id in self.requests:
            self.answers[reply.request_id] += 1
            self._latencies.append(now - self._sent[reply.request_id])
            self._arrivals.append(now)
            if isinstance(reply, Prediction):
                known = reply.probability is not None
                probability = reply.probability if known else reply.prediction
                self._predictions[reply.model_id].append((reply.request_id, probability))

    def _add_request(self, value: bytes, timestamp: float) -> None:
        with suppress(InvalidMessage):
            if request := decode_request(value):
                self.requests[request.request_id] = request.outcome
                self._sent[request.request_id] = timestamp

    def add_outcome(self, reported: tuple[str, float] | None) -> None:
        """Add a reported outcome as (request_id, outcome); None, an invalid one, is ignored."""
        if reported and reported[0] in self.requests:
            self.requests[reported[0]] = reported[1]

    def add_control_message(self, message: ControlMessage) -> None:
        """Add a message of retrain_topic."""
        self.retrain_requests += message.retrain
        self.trainings["completed"] += message.training_completed
        self.trainings["rejected"] += bool(message.training_rejected)
        self.trainings["failed"] += bool(message.training_failed)

    @property
    def unanswered(self) -> int:
        """The number of requests without an answer."""
        return sum(1 for request_id in self.requests if not self.answers[request_id])

    def table(self) -> Table:
        """Return the figures as a table for a terminal."""
        table = Table("Summary", "", show_header=False, title="Summary")
        for row in (*self._counts(), *self._times(), *self._qualities()):
            table.add_row(*row)
        return table

    def _counts(self) -> Iterator[Row]:
        yield "requests", f"{len(self.requests):,}"
        yield "predictions", f"{sum(map(len, self._predictions.values())):,}"
        yield "requests without an answer", f"{self.unanswered:,}"
        yield "duplicate answers", f"{sum(self.answers.values()) - len(+self.answers):,}"
        yield "retrain requests", f"{self.retrain_requests:,}"
        trainings = ", ".join(f"{n} {kind}" for kind, n in self.trainings.items() if n)
        yield "trainings", trainings or "0"
        yield "models that answered", f"{len(self._predictions):,}"

    def _times(self) -> Iterator[Row]:
        if len(self._arrivals) > 1:
            p50, p99 = np.percentile(self._latencies, (50, 99)) * 1000
            yield "latency p50 / p99", f"{p50:.0f} ms / {p99:.0f} ms"
            gap = np.diff(np.sort(self._arrivals)).max() * 1000
            yield "longest gap between answers", f"{gap:.0f} ms"

    def _qualities(self) -> Iterator[Row]:
        # Dozens of answers say little about one model, so all later ones are compared as one.
        first, *later = map(self._compared, self._predictions.values() or [[]])
        later = np.concatenate([_NOTHING, *later])
        if number := len(first) + len(later):
            yield f"accuracy of {number:,} answers", _quality(np.concatenate([first, later]))
        if len(first) and len(later):
            yield f"of model {next(iter(self._predictions))} ({len(first):,})", _quality(first)
            yield f"of later models ({len(later):,})", _quality(later)
            low, high = difference_interval(*_hits(first), *_hits(later))
            noise = "within noise" if low <= 0 <= high else "beyond noise"
            yield "later models minus first", f"(95 %: {low:+.3f} to {high:+.3f}), {noise}"

    def _compared(self, predictions: list[tuple[str, float]]) -> np.ndarray:
        """Return (outcome, probability) of the predictions with a known outcome: shape (n, 2)."""
        pairs = ((self.requests[request_id], p) for request_id, p in predictions)
        return np.array([pair for pair in pairs if pair[0] is not None]).reshape(-1, 2)


_NOTHING = np.empty((0, 2))


def _hits(pairs: np.ndarray) -> tuple[int, int]:
    """Return how many predictions are right, and how many there are."""
    return int(((pairs[:, 1] > 0.5) == pairs[:, 0]).sum()), len(pairs)


def _quality(pairs: np.ndarray) -> str:
    right, number = _hits(pairs)
    low, high = accuracy_interval(right, number)
    logloss = log_losses(*pairs.T).mean()
    return f"{right / number:.3f} (95 %: {low:.3f} to {high:.3f}), logloss {logloss:.3f}"


def accuracy_interval(right: int, number: int) -> tuple[float, float]:
    """Return the 95 % interval of an accuracy, right / number (Wilson, 1927)."""
    center = (right + Z**2 / 2) / (number + Z**2)
    half = Z / (number + Z**2) * (right * (number - right) / number + Z**2 / 4) ** 0.5
    return center - half, center + half


def difference_interval(
    right: int, number: int, later_right: int, later_number: int
) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two accuracies, the later minus the first.

    The hybrid score interval: Newcombe, 1998, Statistics in Medicine 17, 873-890, method 10.
    """
    first, later = right / number, later_right / later_number
    low, high = accuracy_interval(right, number)
    later_low, later_high = accuracy_interval(later_right, later_number)
    down = ((later - later_low) ** 2 + (high - first) ** 2) ** 0.5
    up = ((later_high - later) ** 2 + (first - low) ** 2) ** 0.5
    return later - first - down, later - first + up
