"""Random faults of the pipeline's processes and of Kafka, for tests/chaos/run.py."""

import os
import random
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.chaos.service import Service
from tests.chaos.witness import Fault
from tools import local_kafka

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

# Fault -> (relative frequency, longest duration in seconds).
FAULTS = {
    "predictor kill -9": (5, 0),
    "predictor SIGSTOP": (3, 15),
    "predictor SIGTERM": (2, 0),
    "trainer kill -9": (3, 0),
    "trainer SIGSTOP": (1, 15),
    "training kill -9": (2, 0),
    "broker kill -9": (2, 0),
    "broker SIGSTOP": (2, 8),
}


class Faults:
    """Injects faults into a run; `injected` has those that hit a running process."""

    def __init__(self, chaos: "Chaos") -> None:
        self.injected: list[Fault] = []
        self._chaos = chaos
        self._busy: set[str] = set()
        self._pool = ThreadPoolExecutor(8)
        self._under_way: list[Future] = []

    def inject(self) -> None:
        """Inject faults at random intervals for as long as the run's options say."""
        options = self._chaos.options
        chance = random.Random(options.seed)
        deadline = time.monotonic() + options.minutes * 60
        weights = {kind: FAULTS[kind][0] for kind in FAULTS if kind.startswith(options.only)}
        while len(self._under_way) < (options.faults or float("inf")):
            pause = chance.uniform(*options.gap)
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            kind = chance.choices(list(weights), weights.values())[0]
            of_predictors = "predictor" in kind
            whom = chance.choice(self._chaos.predictors) if of_predictors else self._chaos.trainer
            target = "broker" if "broker" in kind else whom.name
            longest = FAULTS[kind][1]
            seconds = chance.uniform(min(1, longest), longest)
            if target not in self._busy:
                self._busy.add(target)
                self._under_way.append(
                    self._pool.submit(self._inflict, kind, target, whom, seconds)
                )

    def end(self) -> None:
        """Return when the last fault is over; raise the exception of one that failed."""
        self._pool.shutdown()
        for fault in self._under_way:
            fault.result()

    def close(self) -> None:
        """Start no more faults, and wait for those under way."""
        self._pool.shutdown(cancel_futures=True)

    def _inflict(self, kind: str, target: str, whom: Service, seconds: float) -> None:
        """Inject one fault; those of different targets overlap."""
        try:
            text = f"{kind} ({target}" + (f", {seconds:.1f} s)" if seconds else ")")
            self._chaos.chronicle.write("CHAOS", text)
            began = time.time()
            who, how = kind.split(maxsplit=1)
            if who == "broker":
                over = self._hit_broker(how, seconds)
            elif who == "training":
                over = self._kill_training()
            else:
                over = self._hit_service(whom, how, seconds)
            if over:
                self.injected.append(Fault(kind, began, over, time.time()))
        except Exception as error:
            self._chaos.chronicle.write("CHAOS", repr(error))
            raise
        finally:
            self._busy.discard(target)

    def _hit_service(self, service: Service, how: str, seconds: float) -> float:
        if how == "SIGSTOP":
            service.send(signal.SIGSTOP)
            time.sleep(seconds)
            service.send(signal.SIGCONT)
            self._chaos.chronicle.write("CHAOS", f"{service.name} continues")
        else:
            service.send(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        return time.time()

    def _hit_broker(self, how: str, seconds: float) -> float:
        folder = self._chaos.pipeline.folder / "kafka"
        pid = int((folder / "broker.pid").read_text())
        if how == "SIGSTOP":
            os.kill(pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(pid, signal.SIGCONT)
            self._chaos.chronicle.write("CHAOS", "the broker continues")
            return time.time()
        os.kill(pid, signal.SIGKILL)
        local_kafka.stop(folder)  # returns when the process has ended
        with ThreadPoolExecutor(1) as meanwhile:  # at the end, the other pool accepts no more work
            accepted = meanwhile.submit(self._accepts_connections)
            self._chaos.restart_broker()
            return accepted.result()

    def _accepts_connections(self) -> float:
        """Return the moment when the broker accepts connections again."""
        name, _, port = self._chaos.pipeline.host.partition(":")
        deadline = time.time() + 90
        while time.time() < deadline:
            with suppress(OSError), socket.create_connection((name, int(port)), timeout=1):
                return time.time()
            time.sleep(0.02)
        raise TimeoutError(f"nothing listens at {self._chaos.pipeline.host}")

    def _kill_training(self) -> float | None:
        for pid in self._chaos.pipeline.children():
            os.kill(pid, signal.SIGKILL)
            return time.time()
        return None  # none is under way
