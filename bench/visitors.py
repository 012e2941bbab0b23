"""Visitors of the site: they send requests and note when they can read the answers."""

import json
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.arena import Case

WARM_UP = 2.0  # seconds of load that do not count


class Visitors:
    """Sends requests at a fixed rate and notes when each answer can be read by read_committed."""

    def __init__(self, case: Case, rate: float) -> None:
        self.sent: dict[str, float] = {}
        self.answered: dict[str, float] = {}
        self._case, self._rate, self._began = case, rate, 0.0
        client = {"bootstrap.servers": case.host}
        self._producer = Producer(client | {"linger.ms": 0})
        self._consumer = Consumer(
            client | {"group.id": "visitors", "fetch.wait.max.ms": 500, "fetch.min.bytes": 1}
        )
        partitions = [TopicPartition(case.topic, n) for n in range(case.partitions)]
        for partition in partitions:
            partition.offset = self._consumer.get_watermark_offsets(partition)[1]
        self._consumer.assign(partitions)
        self._sending = threading.Event()

    def run(self, seconds: float, meanwhile: Callable[[float], object] | None = None) -> None:
        """Send for `seconds`, then wait for the last answer; meanwhile(seconds) runs beside it."""
        self._sending.set()
        threads = [
            threading.Thread(target=work, daemon=True)  # Ctrl-C does not wait for them
            for work in (self._send, self._observe)
        ]
        for thread in threads:
            thread.start()
        if meanwhile:
            meanwhile(seconds)
        else:
            time.sleep(seconds)
        self._sending.clear()
        for thread in threads:
            thread.join()
        self._consumer.close()

    def _send(self) -> None:
        rows, self._began, n = self._case.rows, time.monotonic(), 0
        while self._sending.is_set():
            request_id = f"visitor-{n}"
            value = json.dumps({"request_id": request_id, "data": rows[n % len(rows)]}).encode()
            self.sent[request_id] = time.monotonic()
            self._producer.produce(self._case.topic, value, partition=n % self._case.partitions)
            self._producer.poll(0)
            n += 1
            self._pause(n)
        self._producer.flush()

    def _pause(self, sent: int) -> None:
        """Wait until the next request is due."""
        time.sleep(max(self._began + sent / self._rate - time.monotonic(), 0))

    def _observe(self) -> None:
        deadline = float("inf")
        while self._sending.is_set() or len(self.answered) < len(self.sent):
            if not self._sending.is_set():
                deadline = min(deadline, time.monotonic() + 60)
            assert time.monotonic() < deadline, "requests without an answer"
            record = self._consumer.poll(0.05)  # consume() waits until it has several
            if record is None or b'"data"' in record.value():
                continue
            self._note(json.loads(record.value())["request_id"])

    def _note(self, request_id: str) -> None:
        assert request_id not in self.answered, "two answers"
        self.answered[request_id] = time.monotonic()

    def latencies(self) -> list[float]:
        """Return the milliseconds of each request after the warm-up, ascending."""
        begin = min(self.sent.values()) + WARM_UP
        taken = (self.answered[i] - t for i, t in self.sent.items() if t > begin)
        return sorted(seconds * 1e3 for seconds in taken)

    def longest_gap(self) -> float:
        """Return the longest time between two answers after the warm-up, in milliseconds."""
        times = sorted(self.answered.values())
        times = [t for t in times if t > times[0] + WARM_UP]
        return max(b - a for a, b in pairwise(times)) * 1e3


class LoneVisitor(Visitors):
    """Sends one request at a time: the next one some time after the answer.

    The pauses are random, so that the requests keep no step with any timer of Kafka.
    """

    def __init__(self, case: Case, rate: float) -> None:
        super().__init__(case, rate)
        self._random = random.Random(1)  # noqa: S311 - no secret
        self._answer = threading.Event()

    def _pause(self, _sent: int) -> None:
        """Wait for the answer, then for 1 / rate seconds on average."""
        assert self._answer.wait(60), "a request without an answer"
        self._answer.clear()
        time.sleep(self._random.uniform(0.5, 1.5) / self._rate)

    def _note(self, request_id: str) -> None:
        super()._note(request_id)
        self._answer.set()
