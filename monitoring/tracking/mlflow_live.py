"""Live figures of the models, on their way to MLflow: two files in DATA_DIR.

The monitor appends samples to the first one. The child renames it to the second one, logs that, and
deletes it. Killed in between, the next one logs it again: MLflow stores a metric once that has the
same time, step and value. A step is a second since the model's training began.
"""

import json
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files import write_atomically
from utils.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

    from monitoring.snapshot import ModelState, Snapshot
    from monitoring.tracking.mlflow_aliases import Versions

SAMPLES, SENDING = (settings.data_dir / f"mlflow_{name}.jsonl" for name in ("live", "sending"))
MAX_BYTES = 4_000_000  # of the first file: then every second sample is deleted
BATCH = 1_000  # metrics that MLflow accepts at once


def figures(model: "ModelState", snapshot: "Snapshot") -> dict[str, float]:
    """Return the live figures of a model; latency and unanswered requests are the champion's."""
    found = {"answers": model.answers, "outcomes": model.outcomes, "mean_loss": model.mean_loss}
    found |= {"window": model.window} | {f"window_{n}": v for n, v in model.figures.items()}
    if model.model_id == snapshot.champion:
        found |= {"unanswered": snapshot.flow.unanswered, "drifted": drifted(snapshot)}
        found |= {"latency_p50": snapshot.latency.p50, "latency_p99": snapshot.latency.p99}
    return {name: v for name, v in found.items() if v is not None and math.isfinite(v)}


def drifted(snapshot: "Snapshot") -> int:
    """Return how many columns, scores and losses have drifted."""
    return sum(each.drifted for each in snapshot.drift)


def append(sample: dict) -> None:
    """Append a sample for the child, one line of JSON; OSError if the disk is full."""
    with open(SAMPLES, "a") as file:
        file.write(json.dumps(sample) + "\n")


def thin_out() -> None:
    """Delete every second sample if there are too many; not while the child runs."""
    with suppress(FileNotFoundError):
        if SAMPLES.stat().st_size > MAX_BYTES:
            kept = SAMPLES.read_bytes().splitlines(keepends=True)[1::2]
            write_atomically(SAMPLES, b"".join(kept))


def send(client: "MlflowClient", experiment: str, versions: "Versions") -> None:
    """Log the samples, of an interrupted child first, and when which model was the champion."""
    for _ in range(2):
        if not SENDING.exists() and SAMPLES.exists():
            SAMPLES.replace(SENDING)
        if SENDING.exists():
            _send(client, experiment, versions, list(_read(SENDING)))
            SENDING.unlink()


def _send(
    client: "MlflowClient", experiment: str, versions: "Versions", samples: list[dict]
) -> None:
    for model_id in {model_id for sample in samples for model_id in sample.get("models", ())}:
        if run := _run_of(client, experiment, model_id):
            found = list(_metrics(model_id, samples, run.info.start_time))
            for first in range(0, len(found), BATCH):
                client.log_batch(run.info.run_id, found[first : first + BATCH])
    for sample in samples:
        if "champion" in sample:
            versions.note_champion(sample["champion"], sample["since"])


def _metrics(model_id: str, samples: list[dict], start: int) -> "Iterator[Metric]":
    """Yield a model's live figures; start : of its training, milliseconds since 1970."""
    from mlflow.entities import Metric

    for sample in samples:
        second = int(sample["time"])
        for name, value in sample.get("models", {}).get(model_id, {}).items():
            yield Metric(f"live/{name}", float(value), second * 1000, second - start // 1000)


def _run_of(client: "MlflowClient", experiment: str, model_id: str) -> "Run | None":
    """Return the model's run; of several pipelines' the newest one."""
    wanted = f"tags.kind = 'training' and tags.model_id = '{int(model_id)}'"
    newest = ["attributes.start_time DESC"]
    found = client.search_runs([experiment], wanted, max_results=1, order_by=newest)
    return found[0] if found else None


def _read(path: Path) -> Iterator[dict]:
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # the monitor was killed while it wrote the line
            yield json.loads(line)
