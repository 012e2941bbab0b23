"""The state that the threads of sample_app.py share."""

import heapq
import random
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Event, Lock

import numpy as np

from utils.answers import IS_NUMBER, label_of, number_text, probability_of
from utils.console import warn
from utils.datasets import dataset
from utils.datasets.targets import Label
from utils.messages import Prediction
from utils.process import health
from utils.settings import settings
from utils.telemetry import telemetry

MAX_WAITING = 100_000  # predictions, and outcomes, that wait for each other; of more, the newest
NEVER_REPORTED = 0.02  # share of the outcomes
REPORTED_TWICE = 0.02
LATER = "outcome known later"
STUCK_AFTER = 60.0  # seconds from one poll for replies to the next


def visitors(drift_at: int | None) -> Iterator[tuple[dict, Label]]:
    """Yield the data of a request and its label for each visitor of the data set.

    Only what belongs to a request, as JSON can contain it: a data set that simulates may know more
    of a visitor, and calculate with numpy. DatasetError if a label is none of the target's.
    """
    for visitor in dataset.visitors(settings.data_dir, drift_at):
        plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in visitor.items()}
        label = plain.get(dataset.target.name)
        try:
            dataset.target.outcome_of(label)
        except (TypeError, ValueError) as error:
            dataset.refuse(f"visitors(): {error}")
        yield {name: value for name, value in plain.items() if name in dataset.names}, label


def description(data: dict) -> str:
    """Return the data set's short text for a visitor, or its data if that fails."""
    try:
        return dataset.describe(data)
    except Exception as error:  # it is for people only: no mistake in it ends the sample app
        warn_once("describe()", type(error), str(error))
        return str(data)[:80]


def action(reply: Prediction) -> str:
    """Return what the company does when it gets this reply, "" for nothing."""
    try:
        return dataset.action(label_of(reply), probability_of(reply))
    except Exception as error:
        warn_once("action()", type(error), str(error))
        return ""


_WARNED: set[tuple] = set()


def warn_once(method: str, kind: type[Exception], text: str) -> None:
    """Warn of an error of the data set, the first one of its kind."""
    if (method, kind) not in _WARNED:
        _WARNED.add((method, kind))
        warn(f"{method} of the data set fails: {kind.__name__}: {text}")


class Company:
    """What was sent, who waits for an answer, and how good the predictions were so far.

    messages : requests to send; interval : seconds between two of them; delay : seconds, on
    average, until an outcome is reported, 0 if the requests contain it; drift : whether the second
    half has another relation between data and outcome; stop : set to end all threads.
    """

    def __init__(
        self, messages: int, interval: float, delay: float, drift: bool, stop: Event
    ) -> None:
        self.messages, self.interval = messages, interval
        self.delay, self.drift = delay, drift
        self.stop = stop
        self.listening = Event()
        self.all_sent = Event()
        # request_id -> description of the visitor, and when the request was sent
        self.unanswered: dict[str, tuple[str, float]] = {}
        self.sent = self.errors = 0
        self.model_id: int | None = None  # of the last answer
        self._due: SimpleQueue[tuple[float, str, Label]] = SimpleQueue()  # when, request_id, label
        self._lock = Lock()
        self._predictions: dict[str, float] = {}  # until the outcome is known
        self._outcomes: dict[str, float] = {}  # until the prediction is there
        self._compared = 0
        self._total = 0.0  # of right predictions, or of absolute errors

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

    def ask(self, request_id: str, data: dict) -> None:
        """Take note of a request that is being sent."""
        self.unanswered[request_id] = description(data), time.monotonic()

    def is_waiting(self) -> bool:
        """Return True while there is something to receive; to be called before every poll."""
        health.beat(within=STUCK_AFTER)
        health.ready = True
        numbers = telemetry.sample_app
        numbers.requests_sent, numbers.requests_unanswered = self.sent, len(self.unanswered)
        numbers.error_replies = self.errors
        waiting = self.unanswered or not self.all_sent.is_set()
        return bool(waiting) and not self.stop.is_set()

    def take(self, request_id: str) -> str | None:
        """Return who waited for a reply to this request, None if nobody did, or not any more."""
        visitor, sent = self.unanswered.pop(request_id, (None, 0.0))
        if visitor is not None:
            telemetry.sample_app.requests_answered += 1
            telemetry.sample_app.latency_seconds.add(np.array([time.monotonic() - sent]))
        return visitor

    def report_later(self, request_id: str, label: Label) -> None:
        """Let the outcome of a request become due after about `delay` seconds.

        As in real life some come twice, some never, and one is of a request that was never sent.
        """
        times = 0 if random.random() < NEVER_REPORTED else 1 + (random.random() < REPORTED_TWICE)
        for _ in range(times):
            when = time.monotonic() + self.delay * random.uniform(0.5, 1.5)
            self._due.put((when, request_id, label))
        if self.sent == 0:
            self._due.put((0, str(uuid.uuid4()), label))

    def outcomes_due(self) -> Iterator[tuple[str, Label]]:
        """Yield (request_id, label) as they become due; ends after the last one."""
        waiting: list[tuple[float, str, Label]] = []  # a heap
        done = False
        while not done and not self.stop.wait(0.05):
            last = self.all_sent.is_set()
            while not self._due.empty():
                heapq.heappush(waiting, self._due.get())
            while waiting and waiting[0][0] <= time.monotonic():
                yield heapq.heappop(waiting)[1:]
                telemetry.sample_app.outcomes_reported += 1  # the caller has reported it
            done = last and not waiting

    def add_outcome(self, request_id: str, label: Label) -> None:
        """Take note of a true outcome."""
        self._compare(request_id, self._outcomes, dataset.target.outcome_of(label))

    def add_prediction(self, reply: Prediction) -> str:
        """Take note of a prediction; return "right", "wrong", "off by 2.50" for a number, or LATER.

        LATER means that its outcome is not known yet.
        """
        self.model_id = reply.model_id
        predicted = dataset.target.outcome_of(label_of(reply))
        return self._compare(reply.request_id, self._predictions, predicted)

    def _compare(self, request_id: str, ours: dict[str, float], value: float) -> str:
        """Compare the value with the one that waits for it; let it wait if there is none."""
        others = self._outcomes if ours is self._predictions else self._predictions
        with self._lock:
            if (other := others.pop(request_id, None)) is None:
                ours[request_id] = value
                if len(ours) > MAX_WAITING:
                    del ours[next(iter(ours))]  # the oldest one: what it waits for may never come
                return LATER
            self._compared += 1
            error = abs(value - other)
            self._total += error if IS_NUMBER else error == 0
        return f"off by {number_text(error)}" if IS_NUMBER else "wrong" if error else "right"

    def progress(self) -> str:
        """Return the state in one line."""
        text = f"{self.sent:,} requests sent, {len(self.unanswered):,} not answered"
        text += f", {self.errors:,} errors"
        if self.model_id is not None:
            text += f", model {self.model_id}"
        if self._compared:
            mean = self._total / self._compared
            text += f", {'mean absolute error' if IS_NUMBER else 'accuracy'} so far "
            text += number_text(mean) if IS_NUMBER else f"{mean:.3f}"
            text += f" ({self._compared:,} known outcomes)"
        return text
