"""The numbers of utils/telemetry.py as metrics of Prometheus.

A collector of our own reads the numbers at each scrape: counting stays a matter of nanoseconds
(Histogram.observe() of prometheus_client takes 0.9 us a value), and a scrape takes a millisecond.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from monitoring.metrics import snapshot_metrics
from monitoring.snapshot import Snapshot
from utils.process import health
from utils.settings import settings
from utils.telemetry import Histogram, telemetry

PREFIX = "pipeline"
STUCK_AFTER = 300.0  # seconds from one snapshot to the next
_SIMPLE = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}


class Exposition:
    """Collects the metrics of one script; see serve_metrics()."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._snapshot: Snapshot | None = None
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics of this moment."""
        yield from self._process.collect()  # CPU, memory, open files; on Linux
        yield from self._about()
        numbers = getattr(telemetry, self._script, None)
        if numbers is not None:
            yield from families(f"{PREFIX}_{self._script}", numbers)
        if self._snapshot is not None:
            yield from snapshot_metrics.families(self._snapshot)

    def show(self, snapshot: Snapshot, histories: object = None) -> None:
        """Take the monitor's newest snapshot, once a second: its loop goes on."""
        self._snapshot = snapshot
        health.ready = snapshot.following.kafka_away_since is None
        health.beat(within=STUCK_AFTER)

    def _about(self) -> Iterator[Metric]:
        labels = {
            "script": self._script,
            "dataset": settings.dataset,
            "topic_prefix": settings.topic_prefix,
        }
        if self._script == "predictor":
            labels["predictor_id"] = settings.predictor_id
        about = "Which script this is, and of which pipeline."
        yield InfoMetricFamily(PREFIX, about, labels)
        ready = "1 if the script does its work, 0 while it waits to begin, or for Kafka."
        yield GaugeMetricFamily(f"{PREFIX}_ready", ready, int(health.ready))
        stuck = (
            "Seconds since the main loop's last sign of life if the next one is overdue, else 0."
        )
        yield GaugeMetricFamily(f"{PREFIX}_stuck_seconds", stuck, health.overdue())


def families(prefix: str, numbers: Any) -> Iterator[Metric]:
    """Yield the metrics of one of the dataclasses of utils/telemetry.py."""
    for each in fields(numbers):
        name, text = f"{prefix}_{each.name}", each.metadata["text"]
        value = getattr(numbers, each.name)
        if isinstance(value, Histogram):
            yield _histogram(name, text, value)
        elif value is not None:
            yield _SIMPLE[each.metadata["kind"]](name, text, value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    counts, total = histogram.state
    bounds = [floatToGoString(bound) for bound in histogram.bounds]
    buckets = list(zip([*bounds, "+Inf"], counts.cumsum().tolist(), strict=True))
    return HistogramMetricFamily(name, text, buckets, total)
