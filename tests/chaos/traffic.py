"""The traffic of tests/chaos/day.py: requests, late outcomes, and what comes back."""

import time
from collections import defaultdict

import confluent_kafka
import msgspec
import numpy as np

from tests.chaos.visitors import Visitors
from tests.harness.pipeline import Pipeline

HOURS = 24
PARTITIONS = 2
REPORTED = 0.95  # share of the outcomes that are reported at all
MEDIAN_DELAY = 2.0  # simulated hours until half of them are
WAIT = 0.01  # seconds for a full batch of answers: adds to the latencies
_decode = msgspec.json.Decoder(dict).decode


class Traffic:
    """Sends requests and outcomes, and notes the answers; one array element for each request."""

    def __init__(self, pipeline: Pipeline, total: int, hour: float) -> None:
        self.sent, self._hour = 0, hour
        self.answers = np.zeros(total, np.uint8)
        self._outcomes = np.zeros(total, bool)
        self._sent_at = np.zeros(total)
        self._visitors = Visitors(pipeline.folder / "data", seed=1)
        self._due: dict[int, list[bytes]] = defaultdict(list)  # by second: outcomes
        self._next_due = 0
        self._topics = [pipeline.prefix + name for name in ("app_messages", "outcomes_topic")]
        client = {"bootstrap.servers": pipeline.host, "log_level": 0}
        self._producer = confluent_kafka.Producer(
            client | {"linger.ms": 5, "queue.buffering.max.messages": 1_000_000}
        )
        self._consumer = confluent_kafka.Consumer(
            client | {"group.id": "observer", "isolation.level": "read_committed"}
        )
        self._consumer.assign(
            [confluent_kafka.TopicPartition(self._topics[0], p, 0) for p in range(PARTITIONS)]
        )
        self._began = time.time()
        self.hours = [Figures() for _ in range(HOURS + 1)]  # the last one: after the day

    def send(self, number: int) -> None:
        """Send this number of new requests, and the outcomes that are due."""
        end = min(self.sent + number, len(self.answers))
        number = end - self.sent
        requests, outcomes, probabilities = self._visitors.draw(self.sent, number)
        self._outcomes[self.sent : end], self._sent_at[self.sent : end] = outcomes, time.time()
        for request in requests:
            self._producer.produce(self._topics[0], request)
        self._plan(outcomes)
        likely = np.where(outcomes, probabilities, 1 - probabilities)
        self.hours[self.hour].floor -= float(np.log(likely).sum())
        self.hours[self.hour].sent += number
        self.sent = end
        while self._next_due <= time.time() - self._began:
            for outcome in self._due.pop(self._next_due, ()):
                self._producer.produce(self._topics[1], outcome)
            self._next_due += 1
        self._producer.poll(0)

    @property
    def hour(self) -> int:
        """The simulated hour, 0 to 23; 24 after the day."""
        return min(int((time.time() - self._began) / self._hour), HOURS)

    def _plan(self, outcomes: np.ndarray) -> None:
        delays = self._visitors.delays(len(outcomes), MEDIAN_DELAY * self._hour)
        due = (time.time() - self._began + delays).astype(int).tolist()
        reported = self._visitors.are_reported(len(outcomes), REPORTED).tolist()
        for n, outcome in enumerate(outcomes.tolist()):
            if reported[n]:
                label = b">50K" if outcome else b"<=50K"
                message = b'{"request_id":"%d","outcome":"%s"}' % (self.sent + n, label)
                self._due[due[n]].append(message)

    def read(self, seconds: float) -> None:
        """Note the answers that arrive within this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            records = self._consumer.consume(2_000, min(left, WAIT))
            self._note([record.value() for record in records if not record.error()])

    def _note(self, values: list[bytes]) -> None:
        answers = [_decode(value) for value in values if b'"data"' not in value[:60]]
        if not answers:
            return
        ids = np.array([int(answer["request_id"]) for answer in answers])
        np.add.at(self.answers, ids, 1)
        probabilities = np.array([answer["probability"] for answer in answers])
        likely = np.where(self._outcomes[ids], probabilities, 1 - probabilities)
        figures = self.hours[self.hour]
        figures.answered += len(ids)
        figures.loss -= float(np.log(likely.clip(1e-15)).sum())
        figures.latencies.append((time.time() - self._sent_at[ids]).astype(np.float32))
        figures.model = int(answers[-1]["model_id"])

    def close(self) -> None:
        """Close both clients."""
        self._producer.flush(10)
        self._consumer.close()


class Figures:
    """What is known of one simulated hour."""

    def __init__(self) -> None:
        self.sent = self.answered = self.model = 0
        self.floor = self.loss = 0.0  # sums of log losses: of the true probabilities, of answers
        self.latencies: list[np.ndarray] = []  # seconds
        self.sizes: dict[str, float] = {}  # MB, at its end; of the training process, the peak

    def row(self, hour: int) -> list[str]:
        """Return the figures as the texts of a table's row."""
        times = np.concatenate(self.latencies or [np.zeros(1)])
        loss = self.loss / max(self.answered, 1)
        excess = loss - self.floor / max(self.sent, 1)
        percentiles = [f"{1000 * value:.0f}" for value in np.percentile(times, [50, 99])]
        texts = [
            f"{self.answered:,}",
            *percentiles,
            str(self.model),
            f"{loss:.4f}",
            f"{excess:.4f}",
        ]
        return [f"{hour}", *texts, *(f"{size:,.0f}" for size in self.sizes.values())]
