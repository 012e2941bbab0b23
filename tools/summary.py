"""What happened on the topics: answers, models, quality and latency, as one table.

Works from the messages alone, as any observer of the topics could, and knows no other part of the
pipeline. Latency is what a consumer sees: from the request's timestamp to the arrival of its
answer, once the answer's transaction has been committed.
"""

from collections import Counter, defaultdict
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


class Summary:
    """Collects records of app_messages and retrain_topic and reports on them."""

    def __init__(self) -> None:
        self.requests: dict[str, float | None] = {}  # request_id -> true outcome
        self.answers: Counter[str] = Counter()
        self.retrain_requests = 0
        self.trainings: Counter[str] = Counter()
        self._sent: dict[str, float] = {}
        self._latencies: list[float] = []
        self._arrivals: list[float] = []
        self._predictions: dict[int, list[tuple[str, float]]] = defaultdict(list)

    def add_app_message(self, value: bytes, timestamp: float, now: float) -> None:
        """Take in a request or a reply; timestamp and now in seconds since the epoch."""
        reply = decode_reply(value)
        if reply is None:
            self._add_request(value, timestamp)
        elif reply.request_id in self.requests:
            self.answers[reply.request_id] += 1
            self._latencies.append(now - self._sent[reply.request_id])
            self._arrivals.append(now)
            if isinstance(reply, Prediction):
                self._predictions[reply.model_id].append((reply.request_id, reply.probability))

    def _add_request(self, value: bytes, timestamp: float) -> None:
        with suppress(InvalidMessage):
            if request := decode_request(value):
                self.requests[request.request_id] = request.outcome
                self._sent[request.request_id] = timestamp

    def add_outcome(self, reported: tuple[str, float] | None) -> None:
        """Take in (request_id, outcome) of a request that did not bring its outcome along."""
        if reported and reported[0] in self.requests:
            self.requests[reported[0]] = reported[1]

    def add_control_message(self, message: ControlMessage) -> None:
        """Take in a message of retrain_topic."""
        self.retrain_requests += message.retrain
        self.trainings["completed"] += message.training_completed
        self.trainings["rejected"] += bool(message.training_rejected)
        self.trainings["failed"] += bool(message.training_failed)

    @property
    def unanswered(self) -> int:
        """Requests without an answer so far."""
        return sum(1 for request_id in self.requests if not self.answers[request_id])

    @property
    def reloads(self) -> int:
        """How often another model took over, as far as the answers show it."""
        return max(len(self._predictions) - 1, 0)

    def table(self) -> Table:
        """Return the figures as a table for a terminal."""
        table = Table("Summary", "", show_header=False, title="Summary")
        table.add_row("requests", f"{len(self.requests):,}")
        table.add_row("predictions", f"{sum(map(len, self._predictions.values())):,}")
        table.add_row("requests without an answer", f"{self.unanswered}")
        table.add_row("answers too many", f"{sum(self.answers.values()) - len(+self.answers)}")
        trainings = ", ".join(f"{n} {kind}" for kind, n in self.trainings.items() if n)
        table.add_row("retrain requests", f"{self.retrain_requests}")
        table.add_row("trainings", trainings or "0")
        table.add_row("reloads seen in the answers", f"{self.reloads}")
        if len(self._arrivals) > 1:
            p50, p99 = np.percentile(self._latencies, (50, 99)) * 1000
            table.add_row("latency p50 / p99", f"{p50:.0f} ms / {p99:.0f} ms")
            gap = np.diff(np.sort(self._arrivals)).max() * 1000
            table.add_row("longest gap between answers", f"{gap:.0f} ms")
        for model_id, pairs in sorted(self._predictions.items()):
            known = [(self.requests[r], p) for r, p in pairs if self.requests[r] is not None]
            text = _quality(np.array(known)) if known else "no outcome is known"
            table.add_row(f"model {model_id}", f"{len(pairs)} answers, {text}")
        return table


def _quality(pairs: np.ndarray) -> str:
    """Say how good predictions were; pairs of shape (n, 2): true outcome, probability."""
    outcomes, probabilities = pairs[:, 0], np.clip(pairs[:, 1], 1e-15, 1 - 1e-15)
    accuracy = np.mean((probabilities > 0.5) == outcomes)
    of_truth = np.where(outcomes == 1, probabilities, 1 - probabilities)
    logloss = -np.mean(np.log(of_truth))
    return f"accuracy {accuracy:.3f}, logloss {logloss:.3f}"
