"""How long a drift takes to raise an alert, and how many alerts an hour without one raises.

    python -m bench.alarms --hours 3 --rate 20
    DATASET=shop python -m bench.alarms

Time is simulated, and no Kafka lies between: the records go to what the monitor knows directly, so
an hour takes half a minute. Everything else is real: the model that initialize.py makes, visitors
of the data set, figures, drift and alerts of the monitor, with the rules that come with the
project. The clock moves on in steps of TICK seconds; requests, replies and outcomes get the times
that they would have. Outcomes come about two seconds after their requests, one in 20 never.
"""

import json
import multiprocessing
import os
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from kafka import TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from rich.table import Table
from tqdm import tqdm

from monitoring.snapshot import Snapshot
from tests.harness.brokers import initialize
from utils.script import command_line, run

TICK = 5.0  # seconds
BEGIN = time.time() - 2 * 86_400  # of the simulated time
LATENCY = 0.02  # seconds
DELAY = (1.0, 3.0)  # seconds, of outcomes
NEVER = 0.05
LONGEST = 600.0  # simulated seconds in which an alert has to come


class Simulation:
    """A pipeline whose time is simulated."""

    def __init__(self, rate: float, seed: int) -> None:
        from monitoring.alerts import Alerts
        from monitoring.figures.database import Database
        from monitoring.figures.drift_watch import DriftWatch
        from monitoring.figures.models_view import Models
        from monitoring.figures.state import State
        from monitoring.rules import load_rules
        from utils.datasets import dataset
        from utils.model_store.model import load_champion
        from utils.model_store.registry import Registry
        from utils.settings import settings

        self._rate, self._random, self._dataset = rate, random.Random(seed), dataset
        self.now, self.sent, self._numbers = BEGIN, 0, count()
        self._model, _ = load_champion(Registry())
        self._state, self._models = State(Database(":memory:")), Models()
        self._drift = DriftWatch()
        self._offsets: Counter[TopicPartition] = Counter()
        self._alerts = Alerts(load_rules(settings.alert_rules), settings.data_dir / f"{seed}.json")
        self._due: list[tuple[float, dict]] = []

    def run(self, visitors: Iterator[tuple[dict, object]], seconds: float) -> Iterator[list[str]]:
        """Simulate these seconds; yield the alerts that begin, after each tick."""
        for _ in range(int(seconds / TICK)):
            records = self._send(visitors)
            self.now += TICK
            self._state.add(records, self.now, is_fresh=True)
            events = self._alerts.check(self._look())
            yield [f"{each.rule}: {each.text}" for each in events if each.state == "begin"]

    def _look(self) -> Snapshot:
        from monitoring.figures.view import snapshot

        self._models.update(self._state)
        drift = self._drift.look(self._state, self._models.champion_card, self.now)
        return snapshot(self._state, self._models, drift, self.now, 0.0, [])

    def _send(self, visitors: Iterator[tuple[dict, object]]) -> dict:
        from utils.kafka_client.topics import APP_MESSAGES, OUTCOMES_TOPIC

        records = defaultdict(list)
        times = sorted(self.now + TICK * self._random.random() for _ in range(self._requests()))
        found = [next(visitors) for _ in times]
        scores = self._model.answers([row for row, _ in found])
        for moment, (row, label), fields in zip(times, found, scores, strict=True):
            name = f"simulated-{next(self._numbers)}"
            prediction, probability, model_id, *_ = fields
            reply = {"prediction": prediction, "probability": probability, "model_id": model_id}
            if len(fields) > 3:
                reply["probabilities"] = fields[3]
            reply = {k: v for k, v in reply.items() if v is not None}
            self._put(records, APP_MESSAGES, moment, {"request_id": name, "data": row})
            self._put(records, APP_MESSAGES, moment + LATENCY, {"request_id": name} | reply)
            if self._random.random() > NEVER:
                late = moment + self._random.uniform(*DELAY)
                self._due.append((late, {"request_id": name, "outcome": label}))
        self.sent += len(times)
        end = self.now + TICK
        for moment, outcome in sorted((each for each in self._due if each[0] < end), key=str):
            self._put(records, OUTCOMES_TOPIC, moment, outcome)
        self._due = [each for each in self._due if each[0] >= end]
        return records

    def _requests(self) -> int:
        whole = int(self._rate * TICK)
        return whole + (self._random.random() < self._rate * TICK - whole)

    def _put(self, records: dict, topic: str, moment: float, message: dict) -> None:
        place = TopicPartition(topic, 0)
        known = {"offset": self._offsets[place], "timestamp": int(moment * 1000)}
        known |= {"value": json.dumps(message).encode(), **place._asdict()}
        records[place].append(ConsumerRecord(**dict.fromkeys(ConsumerRecord._fields) | known))
        self._offsets[place] += 1

    def visitors(self, drift: bool) -> Iterator[tuple[dict, object]]:
        """Yield (data, label) of visitors in random order, before or after a drift."""
        from utils.company import visitors

        rows = [(dict(row), label) for row, label in _first(visitors(0 if drift else None), 20_000)]
        for row, _ in rows:
            row.pop(self._dataset.target.name, None)
        while True:
            yield self._random.choice(rows)


def _first(found: Iterator, number: int) -> list:
    return [each for each, _ in zip(found, range(number), strict=False)]


def shifted(visitors: Iterator[tuple[dict, object]]) -> Iterator[tuple[dict, object]]:
    """Yield visitors whose first numeric column is a tenth larger."""
    from utils.datasets import dataset

    name = dataset.numeric[0]
    for row, label in visitors:
        yield row | {name: None if row.get(name) is None else row[name] * 1.1}, label


def measure(hours: float, rate: float) -> None:
    """Simulate hours without a drift, then each drift, and print what was found."""
    simulation = Simulation(rate, seed=1)
    alerts, before = [], simulation.visitors(drift=False)
    ticks = int(hours * 3600 / TICK)
    for found in tqdm(simulation.run(before, hours * 3600), total=ticks, unit="tick"):
        alerts += found
    table = Table("simulated", "alerts", "after", "")
    text = f"{hours:g} hours without a drift, {rate:g} requests/s"
    table.add_row(text, str(len(alerts)), "", "\n".join(alerts[:5]))
    for name, drifted in (
        ("outcomes as after sample_app.py --drift", simulation.visitors(drift=True)),
        ("the first numeric column a tenth larger", shifted(before)),
    ):
        for _ in simulation.run(before, 1_800):  # what was before is over
            pass
        begin, sent = simulation.now, simulation.sent
        found = next((each for each in simulation.run(drifted, LONGEST) if each), [])
        after = f"{simulation.now - begin:g} s, {simulation.sent - sent:,} requests"
        table.add_row(name, str(len(found)), after, "\n".join(found))
    from rich.console import Console

    Console(width=160).print(table)


def main() -> None:
    """Simulate once."""
    parser = command_line(__doc__, "bench.alarms")
    parser.add_argument("--hours", type=float, default=1, help="without a drift (1)")
    parser.add_argument("--rate", type=float, default=20, help="requests a second (20)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="alarms-") as name:
        folder = Path(name)
        initialize(folder)
        own = {"DATA_DIR": str(folder / "data"), "MODELS_DIR": str(folder / "models")}
        os.environ |= own | {"TOPIC_PREFIX": ""}
        # A new process, which reads its settings from this environment.
        arguments = chosen.hours, chosen.rate
        child = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
        child.start()
        child.join()


if __name__ == "__main__":
    run(main)
