"""What the monitor knows (monitoring/snapshot.py) as metrics of Prometheus.

Labels may come from messages and files that anybody can write: they are printable, short, and at
most MAX_LABELS of a metric.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from monitoring.snapshot import Drift, Flow, Following, ModelState, Snapshot, Training
from utils.console import printable
from utils.kafka_client.topics import APP_MESSAGES, PREDICTOR_GROUP

PREFIX = "pipeline_monitor"
MAX_LABELS = 100  # values of a label; of more, the first ones
MAX_LENGTH = 100  # characters of one
Labelled = Iterable[tuple[str, float | None]]

_COUNTED = {
    "requests": "Valid requests.",
    "predictions": "Replies with a prediction.",
    "error_replies": "Error replies.",
    "dead_letters": "Records of dead_letter_topic.",
    "outcomes": "Outcomes, reported or in a request.",
    "observations": "Requests with a prediction and an outcome.",
    "retrain_requests": "Retrain requests.",
    "unexpected_replies": "Replies to no request, or after its first reply.",
}
_NOW = {
    "requests_per_second": "Requests a second, over the last 10 seconds.",
    "replies_per_second": "Replies a second, over the last 10 seconds.",
    "outcomes_per_second": "Outcomes a second, over the last 10 seconds.",
    "unanswered": "Requests that no reply has answered yet.",
}


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the metrics of a snapshot; what it does not know is left out."""
    yield from _flow(snapshot.flow)
    latency, delay = snapshot.latency, snapshot.outcome_delay
    text = "From a request's timestamp to its reply's, over the newest replies."
    yield _labelled("latency_seconds", text, "quantile", _quantiles(latency))
    text = "From a request to its outcome, over the newest outcomes."
    yield _labelled("outcome_delay_seconds", text, "quantile", _quantiles(delay))
    yield from _gauge("outcomes_never_ratio", "Share of outcomes that never came.", delay.never)
    yield from _gauge("champion_model_id", "Id of the champion.", snapshot.champion)
    yield from _gauge("snapshot_timestamp_seconds", "When these figures were made.", snapshot.time)
    yield from _trainings(snapshot.training)
    yield from _models(snapshot.models)
    losses = ((str(m.model_id), next(iter(m.figures.values()), None)) for m in snapshot.models)
    text = "Mean loss of a model over its newest observations."
    yield _labelled("model_loss", text, "model_id", losses)
    yield from _drifts(snapshot.drift)
    active = Counter(alert.rule for alert in snapshot.alerts if alert.end is None)
    text = "Active alerts of the monitor, by rule."
    yield _labelled("alerts_active", text, "rule", active.items())
    yield from _following(snapshot.following)


def _quantiles(times) -> Labelled:
    return ("0.5", times.p50), ("0.99", times.p99)


def _flow(flow: Flow) -> Iterator[Metric]:
    for name, text in _COUNTED.items():
        yield CounterMetricFamily(f"{PREFIX}_{name}", text, getattr(flow, name))
    for name, text in _NOW.items():
        yield from _gauge(name, text, getattr(flow, name))
    oldest = 0 if flow.unanswered == 0 else flow.oldest_unanswered
    yield from _gauge("oldest_unanswered_seconds", "Age of the oldest unanswered request.", oldest)
    reasons = ((reason.partition(", got ")[0], n) for reason, n in flow.errors.items())
    text = "Dead letters by reason."
    yield _labelled("dead_letters_by_reason", text, "reason", reasons, CounterMetricFamily)
    if flow.group_lag is not None:
        # The name that lag exporters use. Our own replies are part of it.
        text = "Records between the group's committed offsets and the end of the topic."
        lag = GaugeMetricFamily("kafka_consumergroup_lag", text, labels=["consumergroup", "topic"])
        lag.add_metric([PREDICTOR_GROUP, APP_MESSAGES], flow.group_lag)
        yield lag


def _trainings(training: Training) -> Iterator[Metric]:
    results = ((each, getattr(training, each)) for each in ("completed", "rejected", "failed"))
    yield _labelled("trainings", "Trainings by result.", "result", results, CounterMetricFamily)
    text = "When the last training ended."
    yield from _gauge("last_training_timestamp_seconds", text, training.last_end)


def _models(models: list[ModelState]) -> Iterator[Metric]:
    figures = GaugeMetricFamily(
        f"{PREFIX}_model_figure",
        "Quality of a model over its newest observations.",
        labels=["model_id", "figure"],
    )
    roles = InfoMetricFamily(f"{PREFIX}_model", "Role of a model.", labels=["model_id"])
    for model in islice(models, MAX_LABELS):
        roles.add_metric([str(model.model_id)], {"role": _label(model.role)})
        for name, value in islice(model.figures.items(), MAX_LABELS):
            figures.add_metric([str(model.model_id), _label(name)], value)
    yield from (roles, figures)
    for name, text, kind in (
        ("answers", "Predictions of a model.", CounterMetricFamily),
        ("outcomes", "Predictions of a model whose outcome is known.", CounterMetricFamily),
        ("mean_loss", "Mean loss of a model over all its observations.", GaugeMetricFamily),
    ):
        values = ((str(model.model_id), getattr(model, name)) for model in models)
        yield _labelled(f"model_{name}", text, "model_id", values, kind)


def _drifts(drifts: list[Drift]) -> Iterator[Metric]:
    for name, text in (
        ("value", "Distance of newest values from those of training: PSI; of the loss: its rise."),
        ("threshold", "The distance above which chance does not explain it."),
        ("drifted", "1 if the newest values have drifted."),
    ):
        values = ((drift.name, float(getattr(drift, name))) for drift in drifts)
        yield _labelled(f"drift_{name}", text, "feature", values)


def _following(following: Following) -> Iterator[Metric]:
    text = "Age of the newest record read while more are waiting, else 0."
    yield from _gauge("behind_seconds", text, following.behind)
    text = "Records that Kafka deleted before the monitor read them."
    yield CounterMetricFamily(f"{PREFIX}_missed_records", text, following.missed)
    text = "Outcomes whose prediction is not known."
    yield CounterMetricFamily(f"{PREFIX}_unmatched_outcomes", text, following.unmatched)


def _gauge(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"{PREFIX}_{name}", text, value)


def _labelled(
    name: str, text: str, label: str, values: Labelled, kind: type = GaugeMetricFamily
) -> Metric:
    """Return a metric with one label; counters of equal labels are added."""
    totals: dict[str, float] = {}
    is_counter = kind is CounterMetricFamily
    for each, value in values:
        cut = _label(each)
        if value is not None and (is_counter if cut in totals else len(totals) < MAX_LABELS):
            totals[cut] = totals.get(cut, 0) + value
    family = kind(f"{PREFIX}_{name}", text, labels=[label])
    for each, value in totals.items():
        family.add_metric([each], value)
    return family


def _label(text: str) -> str:
    return printable(text[:MAX_LENGTH])
