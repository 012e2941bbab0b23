"""What the threads of sample_app.py share."""

import heapq
import random
import time
import uuid
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread

from kafka.errors import KafkaError

from utils.kafka_client.connection import is_reachable
from utils.kafka_client.security import Refused
from utils.settings import settings

NEVER_KNOWN = 0.02  # share of the outcomes that nobody ever reports
REPORTED_TWICE = 0.02


class Company:
    """The requests on their way, the people acted on, and the outcomes that are not yet known."""

    def __init__(
        self, messages: int, interval: float, delay: float, drift: bool, stop: Event
    ) -> None:
        self.messages, self.interval = messages, interval
        self.delay, self.drift = delay, drift
        self.stop = stop  # Ctrl-C, or a thread that failed
        self.listening = Event()
        self.all_sent = Event()
        self.sent = 0
        self.unanswered: set[str] = set()
        self.offers: set[str] = set()
        self.failure = ""
        self._expected: SimpleQueue[tuple[float, str, str]] = SimpleQueue()

    def expect_outcome(self, request_id: str, outcome: str) -> None:
        """Know the outcome of a request later: after about `delay` seconds, as life is."""
        times = 0 if random.random() < NEVER_KNOWN else 1 + (random.random() < REPORTED_TWICE)
        for _ in range(times):
            when = time.monotonic() + self.delay * random.uniform(0.5, 1.5)
            self._expected.put((when, request_id, outcome))
        if self.sent == 0:  # one for a request that nobody ever sent
            self._expected.put((0, str(uuid.uuid4()), outcome))

    def outcomes(self) -> Iterator[tuple[str, str]]:
        """Yield (request_id, outcome) as they become known, until the last one is."""
        waiting: list[tuple[float, str, str]] = []  # a heap: (when, request_id, outcome)
        done = False
        while not done and not self.stop.wait(0.05):
            last = self.all_sent.is_set()
            while not self._expected.empty():
                heapq.heappush(waiting, self._expected.get())
            while waiting and waiting[0][0] <= time.monotonic():
                yield heapq.heappop(waiting)[1:]
            done = last and not waiting

    def run(self, *works: Callable[["Company"], None]) -> None:
        """Run each work in a thread of its own; a failure of one of them ends all."""
        threads = [Thread(target=self._guard, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _guard(self, work: Callable[["Company"], None]) -> None:
        try:
            work(self)
        except Exception as error:  # whatever it is, the others must not wait for ever
            self.failure = self._reason(error)
            self.stop.set()

    def _reason(self, error: Exception) -> str:
        try:
            if isinstance(error, KafkaError) and not is_reachable():
                state = f"{self.sent} requests were sent, {len(self.unanswered)} are not answered"
                return f"Kafka does not answer at {settings.kafka_host} any more; {state}."
        except Refused as refused:
            error = refused
        return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
