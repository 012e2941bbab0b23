"""Where the CPU time of a request goes, step by step.

    KAFKA_HOST=localhost:9092 python -m bench.split     (until SIGTERM; bench.performance starts it)

The predictor's loop with a clock at each step. It is the only part of bench/ that knows the inside
of TransactionalStream.
"""

import json
import os
import statistics
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from utils.kafka_client.topics import APP_MESSAGES, PREDICTOR_GROUP
from utils.kafka_client.transactions import TransactionalStream
from utils.model_store.model import load_champion
from utils.model_store.registry import Registry
from utils.process import collect_garbage_rarely, stop_on_signals
from utils.script import command_line
from utils.settings import settings

if TYPE_CHECKING:
    from rich.table import Table

    from bench.arena import Arena


class Clock:
    """Splits the CPU time of the process among steps; the time of an inner step counts once."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._steps = ["other"]
        self._since = time.process_time()

    @contextmanager
    def __call__(self, step: str):
        """Add the CPU time of the body to a step."""
        self._switch()
        self._steps.append(step)
        yield
        self._switch()
        self._steps.pop()

    def _switch(self) -> None:
        now = time.process_time()
        step = self._steps[-1]
        self.seconds[step] = self.seconds.get(step, 0) + now - self._since
        self._since = now

    def wrap(self, owner, name: str, step: str) -> None:
        """Count a method or function to a step."""
        inner = getattr(owner, name)

        def timed(*arguments, **options):
            with self(step):
                return inner(*arguments, **options)

        setattr(owner, name, timed)


def wrap_steps(clock: Clock, predictor, stream: TransactionalStream, model) -> None:
    """Put the clock at each step of the predictor's loop."""
    for owner, name, step in (
        (stream, "poll", "poll"),
        (predictor, "decode_requests", "decode + validate"),
        (model.features, "transform", "transform"),
        (model.booster, "predict", "predict"),
        (predictor, "answer", "encode, count"),
        (stream._producer, "put", "send"),
        (stream._producer.client, "flush", "flush"),
        (stream._producer.client, "send_offsets_to_transaction", "commit"),
        (stream._producer.client, "commit_transaction", "commit"),
        (stream, "commit", "checks before the commit"),
    ):
        clock.wrap(owner, name, step)


def main() -> None:
    """Answer requests until SIGTERM; print the us of CPU a request after each batch, as JSON."""
    import predictor

    command_line(__doc__, "bench.split").parse_args()
    stop, clock, requests = stop_on_signals(), Clock(), 0
    model, _ = load_champion(Registry())
    stream = TransactionalStream(
        APP_MESSAGES, PREDICTOR_GROUP, settings.predictor_id, predictor.WRITES
    )
    wrap_steps(clock, predictor, stream, model)
    collect_garbage_rarely()
    while not stop.is_set():
        batch = stream.poll()
        if not requests:
            clock.seconds.clear()  # the start is not part of a request's cost
        if not batch.by_partition:
            continue
        predictor.answer(batch, model)
        stream.commit(batch)
        requests += len(batch.outgoing)
        costs = {step: seconds / max(requests, 1) * 1e6 for step, seconds in clock.seconds.items()}
        print(json.dumps(costs), flush=True)
    os._exit(0)


def split_table(arena: "Arena", models: dict[str, Path], rounds: int, requests: int) -> "Table":
    """Return the CPU time of each step, with each model: all threads of the process."""
    from rich.table import Table

    found: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, folder in models.items():
            with arena.case(folder / "models") as case:
                process = case.start("-m", "bench.split")
                case.measure([process.pid], requests)
                found[name].append(json.loads(process.log.read_text().splitlines()[-1]))
    columns = [column for name in models for column in (name, "share")]
    table = Table("us of CPU a request", *columns)
    medians = [median_costs(runs) for runs in found.values()]
    for step in medians[0]:
        shares = [(costs[step], costs[step] / sum(costs.values())) for costs in medians]
        table.add_row(step, *(cell for us, part in shares for cell in (f"{us:.1f}", f"{part:.0%}")))
    table.add_row(
        "all", *(cell for costs in medians for cell in (f"{sum(costs.values()):.1f}", ""))
    )
    return table


def median_costs(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each step."""
    return {step: statistics.median(run[step] for run in runs) for step in runs[0]}


if __name__ == "__main__":
    main()
