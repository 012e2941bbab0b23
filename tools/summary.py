"""A summary of the topics as one table: answers, models, latency and quality.

Works from the messages alone, as any observer of the topics could. Latency is what a consumer sees:
from the timestamp of a request to the arrival of its answer, after the transaction has committed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain

import numpy as np
from rich.table import Table

from tools.quality import MEASURE, Answers, difference, quality
from utils.answers import scores_of
from utils.messages import (
    ControlMessage,
    InvalidMessage,
    Prediction,
    decode_reply,
    decode_request,
)

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
        # model_id -> (request_id, scores); the first model to answer comes first
        self._predictions: dict[int | None, list[tuple]] = defaultdict(list)

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
                self._predictions[reply.model_id].append((reply.request_id, scores_of(reply)))

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
        models = [self._known(predictions) for predictions in self._predictions.values()]
        first, later = (list(chain(*each)) for each in (models[:1], models[1:]))
        if both := first + later:
            yield f"{MEASURE} of {len(both):,} answers", quality(_answers(both))
        if first and later:
            name = f"of model {next(iter(self._predictions))} ({len(first):,})"
            yield name, quality(_answers(first))
            yield f"of later models ({len(later):,})", quality(_answers(later))
            yield f"{MEASURE}, later minus first", difference(_answers(first), _answers(later))

    def _known(self, predictions: list[tuple]) -> list[tuple]:
        """Return (outcome, scores) of the predictions with a known outcome."""
        pairs = ((self.requests[request_id], scores) for request_id, scores in predictions)
        return [pair for pair in pairs if pair[0] is not None]


def _answers(pairs: list[tuple]) -> Answers:
    return Answers(*map(np.array, zip(*pairs, strict=True)))
