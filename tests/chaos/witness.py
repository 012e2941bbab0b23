"""The load of tests/chaos/run.py, the answers that it sees, and a record of the run.

Load shares no code with the pipeline's own clients: it is a producer and a consumer like those of
any company.
"""

import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tests.harness.pipeline import Pipeline

LONG_SILENCE = 3.0  # seconds without an answer, from which on the chronicle mentions it


@dataclass
class Fault:
    """A fault of a process."""

    kind: str
    began: float
    over: float  # when it was killed, or continued; of a killed broker: accepts connections again
    repaired: float  # later than `over` if the broker had to restart

    def overlaps(self, began: float, ended: float) -> bool:
        """True if a part of the fault lies between these two moments."""
        return self.began < ended and began < self.repaired


class Chronicle:
    """A file with all events of a run, in seconds since its start."""

    def __init__(self, path: Path) -> None:
        self._began = time.time()
        self._file = open(path, "w", buffering=1)  # noqa: SIM115 - open as long as the run

    def write(self, who: str, text: str) -> None:
        """Add one or several lines; `who` is the process that they are about."""
        for line in text.splitlines():
            self._file.write(f"{time.time() - self._began:8.2f}  {who:13}{line}\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Load:
    """A producer of requests at a fixed rate, and a consumer of the committed answers."""

    def __init__(
        self, pipeline: Pipeline, rate: float, partitions: int, chronicle: Chronicle
    ) -> None:
        self.sent = 0
        self.acknowledged: dict[str, float] = {}  # when, by request id
        self.answered: set[str] = set()
        self.arrivals: list[tuple[float, float]] = []  # (received, written) of new answers
        self.waits: list[tuple[float, float]] = []  # when sent, and seconds until the answer
        self._sent_at: dict[str, float] = {}
        self._rows, self.rate, self._partitions = pipeline.rows, rate, partitions
        self._topic = pipeline.prefix + "app_messages"
        self._chronicle = chronicle
        client = {"bootstrap_servers": pipeline.host, "reconnect_backoff_max_ms": 500}
        # Longer than any fault: a request that can't be delivered now is delivered later.
        self._producer = KafkaProducer(
            **client,
            linger_ms=5,
            enable_idempotence=True,
            delivery_timeout_ms=600_000,
            max_block_ms=600_000,
        )
        self._consumer = KafkaConsumer(
            **client, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        self._consumer.assign([TopicPartition(self._topic, p) for p in range(partitions)])
        self._sending, self._observing = threading.Event(), threading.Event()
        self._reading_again = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._send, self._observe)]
        for event in (self._sending, self._observing):
            event.set()
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        began = time.monotonic()
        while self._sending.is_set():
            request_id = f"request-{self.sent}"
            row = self._rows[self.sent % len(self._rows)]
            value = json.dumps({"request_id": request_id, "data": row}).encode()
            partition = self.sent % self._partitions
            self._sent_at[request_id] = time.time()
            future = self._producer.send(self._topic, value, partition=partition)
            future.add_callback(self._acknowledge, request_id)
            self.sent += 1
            time.sleep(max(began + self.sent / self.rate - time.monotonic(), 0))

    def _acknowledge(self, request_id: str, _: object) -> None:
        self.acknowledged[request_id] = time.time()

    def read_again(self) -> None:
        """Read the whole topic once more: it is not the same any more."""
        self._reading_again.set()

    def _observe(self) -> None:
        while self._observing.is_set():
            try:
                if self._reading_again.is_set():
                    self._reading_again.clear()
                    self._consumer.seek_to_beginning()
                polled = self._consumer.poll(timeout_ms=100)
            except KafkaError as error:
                self._chronicle.write("observer", repr(error))
                continue
            for record in (record for records in polled.values() for record in records):
                message = json.loads(record.value)
                if "data" not in message and message["request_id"] not in self.answered:
                    self._note(message["request_id"], record.timestamp / 1000)

    def _note(self, request_id: str, written: float) -> None:
        now = time.time()
        if self.arrivals and (silence := now - self.arrivals[-1][0]) > LONG_SILENCE:
            self._chronicle.write("observer", f"no answer for {silence:.1f} s until now")
        self.arrivals.append((now, written))
        sent = self._sent_at.pop(request_id)
        self.waits.append((sent, now - sent))
        self.answered.add(request_id)

    def stop_sending(self) -> None:
        """End the load; returns when all requests are acknowledged, 60 s at most."""
        self._sending.clear()
        self._threads[0].join()
        self._producer.flush(timeout=60)

    def close(self) -> None:
        """End the producer and the consumer."""
        self._sending.clear()
        self._observing.clear()
        for thread in self._threads:
            thread.join()
        with suppress(KafkaError):  # unsent requests stay unsent
            self._producer.close(timeout=5)
        self._consumer.close()

    def longest_silence(self) -> tuple[float, float]:
        """Return the arrival times of the two successive answers furthest apart."""
        times = [received for received, _ in self.arrivals]
        return max(zip(times, times[1:], strict=False), key=lambda pair: pair[1] - pair[0])

    def slowest_answer(self, since: float) -> float:
        """Return the longest wait, in seconds, for an answer to a request sent since a moment."""
        return max((wait for sent, wait in self.waits if sent >= since), default=0.0)

    def resumed_after(self, moment: float) -> float | None:
        """Return the seconds from a moment to the first answer written after it; None if none."""
        found = (received for received, written in self.arrivals if written > moment)
        return next((received - moment for received in found), None)
