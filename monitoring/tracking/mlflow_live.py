"""Live figures of the models, on their way to MLflow: two files in DATA_DIR.

The monitor appends samples to the first one. The child renames it to the second one, logs that, and
deletes it; samples of models that are not logged yet go back to the first one. Killed in between,
the next one logs it again: MLflow stores a metric once that has the same time, step and value. A
step is a second since the model's training began.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from utils.files import write_atomically
from utils.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from monitoring.snapshot import ModelState, Snapshot
    from monitoring.tracking.mlflow_aliases import Versions
    from utils.model_store.card import Card

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


def append(*samples: dict) -> None:
    """Append samples for the child, each a line of JSON; OSError if the disk is full."""
    # The line break comes first: a half-written line spoils no other.
    text = "".join(f"\n{json.dumps(sample)}" for sample in samples)
    if text:
        with open(SAMPLES, "a") as file:
            file.write(text)


def thin_out() -> None:
    """Delete every second sample if there are too many; not while the child runs.

    When which model was the champion is known nowhere else: these lines stay.
    """
    with suppress(FileNotFoundError):
        if SAMPLES.stat().st_size > MAX_BYTES:
            kept, others = [], []
            for line in SAMPLES.read_bytes().splitlines():
                (kept if b'"champion"' in line else others).append(line)
            kept += others[::2]
            write_atomically(SAMPLES, b"".join(b"\n" + line for line in kept))


def take() -> None:
    """Take the samples that send() logs; an interrupted child's come first."""
    with suppress(FileNotFoundError):
        if not SENDING.exists():
            SAMPLES.replace(SENDING)


def send(
    client: "MlflowClient",
    experiment: str,
    versions: "Versions",
    known: "dict[int, Card]",
    waiting: set[int],
) -> None:
    """Log the samples that are taken, and when which model was the champion.

    known : the models that are logged, by id; waiting : those that are not yet, whose samples are
    kept. Samples of other models are dropped.
    """
    if not SENDING.exists():
        return
    found = _by_model(_read(SENDING))
    for model_id in known.keys() & found.keys():
        _send(client, experiment, versions, known[model_id], found[model_id])
    append(*(sample for model_id in waiting & found.keys() for sample in found[model_id]))
    SENDING.unlink(missing_ok=True)


def _by_model(samples: Iterable[dict]) -> dict[int, list[dict]]:
    """Return what the samples say of each model."""
    found = defaultdict(list)
    for sample in samples:
        for name, values in sample.get("models", {}).items():
            found[int(name)].append({"time": sample["time"], "models": {name: values}})
        if "champion" in sample:
            found[sample["champion"]].append({n: sample[n] for n in ("time", "champion", "since")})
    return found


def _send(
    client: "MlflowClient", experiment: str, versions: "Versions", card: "Card", samples: list[dict]
) -> None:
    # Not at the top: it imports MLflow, which the monitor does not.
    from monitoring.tracking.mlflow_aliases import identity, with_tags

    for run in client.search_runs([experiment], with_tags(identity(card)), max_results=1):
        found = list(_metrics(samples, run.info.start_time))
        for first in range(0, len(found), BATCH):
            client.log_batch(run.info.run_id, found[first : first + BATCH])
    for sample in samples:
        if "champion" in sample:
            versions.note_champion(card, sample["since"])


def _metrics(samples: list[dict], start: int) -> "Iterator[Metric]":
    """Yield a model's live figures; start : of its training, milliseconds since 1970."""
    from mlflow.entities import Metric

    for sample in samples:
        second = int(sample["time"])
        for values in sample.get("models", {}).values():
            for name, value in values.items():
                yield Metric(f"live/{name}", float(value), second * 1000, second - start // 1000)


def _read(path: Path) -> Iterator[dict]:
    for line in path.read_text().splitlines():
        with suppress(ValueError):  # the monitor was killed while it wrote the line
            yield json.loads(line)
