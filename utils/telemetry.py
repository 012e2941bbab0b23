"""What a script counts while it works: plain numbers.

monitoring/ shows them to Prometheus if METRICS_PORT is set: the field `predictions` of `predictor`
is the metric pipeline_predictor_predictions_total. Each field is written by one thread. Names have
base units, as https://prometheus.io/docs/practices/naming/ says; times are seconds since 1970.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

LATENCY = (.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 300)  # fmt: skip
BATCH = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
# Seconds: a sender may set any timestamp, and a single one must not spoil the sum of all.
LONGEST_LATENCY = 3600.0


class Histogram:
    """How many values were at most each of some bounds; a thousand values cost microseconds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._bounds = np.array(bounds)
        # One object, replaced as a whole: a thread that reads it finds counts and sum of one
        # moment. The last count is that of larger values.
        self.state = np.zeros(len(bounds) + 1, int), 0.0

    def add(self, values: np.ndarray) -> None:
        """Count values."""
        counts, total = self.state
        places = np.searchsorted(self._bounds, values)
        more = np.bincount(places, minlength=len(counts))
        self.state = counts + more, total + float(values.sum())


def _metric(kind: str, text: str, default: Any) -> Any:
    metadata = {"kind": kind, "text": text}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


counter = partial(_metric, "counter", default=0)
gauge = partial(_metric, "gauge", default=None)  # None: not known, and not shown


def histogram(text: str, bounds: tuple[float, ...]) -> Any:
    """Return a field that is a Histogram."""
    return _metric("histogram", text, partial(Histogram, bounds))


@dataclass
class Answering:
    """What a predictor does."""

    requests: int = counter("Requests answered, invalid ones too.")
    predictions: int = counter("Predictions committed.")
    error_replies: int = counter("Error replies committed, to invalid requests with an id.")
    dead_letters: int = counter("Invalid messages put aside on dead_letter_topic.")
    retrain_requests: int = counter("Retrain requests committed.")
    transactions_committed: int = counter("Transactions committed.")
    transactions_failed: int = counter("Transactions that failed; their requests are read again.")
    batch_requests: Histogram = histogram("Predictions in one transaction.", BATCH)
    latency_seconds: Histogram = histogram(
        "From a request's timestamp in Kafka to the commit of its prediction.", LATENCY
    )
    partitions: int | None = gauge("Partitions of app_messages that this predictor answers.")
    model_id: int | None = gauge("Id of the model that answers.")
    model_created_timestamp_seconds: float | None = gauge("When this model was made.")
    model_loaded_timestamp_seconds: float | None = gauge("When this model was loaded.")
    reloads: int = counter("Models that have replaced the one that answered.")
    failed_loads: int = counter("Attempts to load a champion that can't be used.")

    def add(self, timestamps: np.ndarray, error_replies: int, dead_letters: int) -> None:
        """Count a batch that was committed now.

        timestamps : of the requests that it gave a prediction for, in milliseconds since 1970.
        """
        self.transactions_committed += 1
        self.requests += len(timestamps) + dead_letters
        self.predictions += len(timestamps)
        self.error_replies += error_replies
        self.dead_letters += dead_letters
        if len(timestamps):
            self.batch_requests.add(np.array([len(timestamps)]))
            waited = time.time() - timestamps / 1000
            self.latency_seconds.add(waited.clip(0, LONGEST_LATENCY))


@dataclass
class Training:
    """What the trainer does; counts of the store go on where they were after a restart."""

    requests: int = counter("Valid requests read.")
    outcomes: int = counter("Valid reported outcomes read.")
    dead_letters: int = counter("Invalid outcomes put aside on dead_letter_topic.")
    observations: int | None = gauge("Observations in the store: requests with an outcome.")
    waiting_requests: int | None = gauge("Stored requests that wait for an outcome.")
    waiting_outcomes: int | None = gauge("Stored outcomes that wait for a request.")
    retrain_requests: int | None = gauge("Retrain requests so far.")
    retrain_requests_covered: int | None = gauge("Retrain requests that trainings have covered.")
    missed_records: int | None = gauge("Records that Kafka deleted before they were read.")
    trainings_started: int = counter("Trainings started.")
    trainings_promoted: int = counter("Trainings whose model became the champion.")
    trainings_rejected: int = counter("Trainings whose model was rejected.")
    trainings_failed: int = counter("Trainings without a model.")
    training_running: int = _metric("gauge", "1 while a model is trained.", 0)
    training_started_timestamp_seconds: float | None = gauge("When the last training began.")
    training_ended_timestamp_seconds: float | None = gauge("When the last training ended.")
    training_duration_seconds: float | None = gauge("How long the last training took.")
    training_cpu_seconds: float = counter("CPU time of the training processes that have ended.")
    failures: int = counter("Rounds of the loop that an error of Kafka or of the disk ended.")

    def add_result(self, result: str) -> None:
        """Count a training that has ended, by its result; see Observations.end_training()."""
        self.trainings_promoted += result == "promoted"
        self.trainings_rejected += result == "rejected"
        self.trainings_failed += result == "failed"


@dataclass
class Asking:
    """What the sample app does."""

    requests_sent: int = counter("Requests that Kafka has stored.")
    requests_answered: int = counter("Replies received to these requests.")
    error_replies: int = counter("Error replies among them.")
    outcomes_reported: int = counter("Outcomes that were reported.")
    requests_unanswered: int = _metric("gauge", "Requests that no reply has answered yet.", 0)
    latency_seconds: Histogram = histogram("From sending a request to its reply.", LATENCY)


@dataclass
class Tuning:
    """What initialize.py does."""

    evaluations: int = counter("Hyperparameters evaluated.")
    best_loss: float | None = gauge("Lowest loss so far, on the rows that tuning holds out.")


class Telemetry:
    """The numbers of this process; only those of its own script change."""

    def __init__(self) -> None:
        self.predictor = Answering()
        self.trainer = Training()
        self.sample_app = Asking()
        self.initialize = Tuning()


telemetry = Telemetry()
