"""The state that the threads of sample_app.py share."""

import heapq
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event, Lock

NEVER_REPORTED = 0.02  # share of the outcomes
REPORTED_TWICE = 0.02
LATER = "outcome known later"


class Company:
    """What was sent, who waits for an answer, and how good the predictions were so far.

    messages : requests to send; interval : seconds between two of them; delay : seconds, on
    average, until an outcome is reported, 0 if the requests contain it; drift : whether the second
    half has the opposite outcomes; stop : set to end all threads.
    """

    def __init__(
        self, messages: int, interval: float, delay: float, drift: bool, stop: Event
    ) -> None:
        self.messages, self.interval = messages, interval
        self.delay, self.drift = delay, drift
        self.stop = stop
        self.listening = Event()
        self.all_sent = Event()
        self.unanswered: dict[str, str] = {}  # request_id -> description of the person
        self.sent = self.offers = self.errors = 0
        self.model_id: int | None = None  # of the last answer
        self._due: SimpleQueue[tuple[float, str, str]] = SimpleQueue()  # when, request_id, label
        self._lock = Lock()
        self._predictions: dict[str, float] = {}  # until the outcome is known
        self._outcomes: dict[str, float] = {}  # until the prediction is there
        self._compared = self._right = 0

    def run(self, *works: Callable[["Company"], None], show: Callable[[str], None]) -> None:
        """Run each function in a thread; raise the error of one that fails, and stop the others.

        show : called with the progress, several times a second.
        """
        with ThreadPoolExecutor(len(works)) as pool:
            futures = [pool.submit(work, self) for work in works]
            running, failed = set(futures), False
            try:
                while running and not failed:
                    ended, running = wait(futures, 0.2, FIRST_EXCEPTION)
                    failed = any(future.exception() for future in ended)
                    show(self.progress())
            finally:  # also after an error of show(): the pool waits for the threads
                if running or failed:
                    self.stop.set()
        for future in futures:
            future.result()

    def report_later(self, request_id: str, label: str) -> None:
        """Let the outcome of a request become due after about `delay` seconds.

        As in real life some come twice, some never, and one is of a request that was never sent.
        """
        times = 0 if random.random() < NEVER_REPORTED else 1 + (random.random() < REPORTED_TWICE)
        for _ in range(times):
            when = time.monotonic() + self.delay * random.uniform(0.5, 1.5)
            self._due.put((when, request_id, label))
        if self.sent == 0:
            self._due.put((0, str(uuid.uuid4()), label))

    def outcomes_due(self) -> Iterator[tuple[str, str]]:
        """Yield (request_id, label) as they become due; ends after the last one."""
        waiting: list[tuple[float, str, str]] = []  # a heap
        done = False
        while not done and not self.stop.wait(0.05):
            last = self.all_sent.is_set()
            while not self._due.empty():
                heapq.heappush(waiting, self._due.get())
            while waiting and waiting[0][0] <= time.monotonic():
                yield heapq.heappop(waiting)[1:]
            done = last and not waiting

    def add_outcome(self, request_id: str, outcome: float) -> None:
        """Take note of a true outcome, 0.0 or 1.0."""
        self._outcomes[request_id] = outcome
        self._compare(request_id)

    def add_prediction(self, request_id: str, prediction: float, model_id: int | None) -> str:
        """Take note of a prediction, 0.0 or 1.0; return "right", "wrong" or LATER."""
        self.model_id = model_id
        self._predictions[request_id] = prediction
        return self._compare(request_id)

    def _compare(self, request_id: str) -> str:
        with self._lock:
            if request_id not in self._predictions or request_id not in self._outcomes:
                return LATER
            right = self._predictions.pop(request_id) == self._outcomes.pop(request_id)
            self._compared += 1
            self._right += right
        return "right" if right else "wrong"

    def progress(self) -> str:
        """Return the state in one line."""
        text = f"{self.sent:,} requests sent, {len(self.unanswered):,} not answered"
        text += f", {self.offers:,} offers, {self.errors:,} errors"
        if self.model_id is not None:
            text += f", model {self.model_id}"
        if self._compared:
            share = self._right / self._compared
            text += f", accuracy so far {share:.3f} ({self._compared:,} known outcomes)"
        return text
