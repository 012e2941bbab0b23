"""Random faults of the pipeline's processes and of Kafka, for tests/chaos/run.py."""

import os
import random
import signal
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.chaos.kafka_faults import cut_logs, delete_group, kill_broker, make_topic_anew
from tests.chaos.service import Service
from tests.chaos.witness import Fault
from tests.harness.clock import set_wrong
from tests.harness.pipeline import wait_until
from tools.kafka_node import Node

if TYPE_CHECKING:
    from tests.chaos.run import Chaos

# Fault -> (relative frequency, longest duration in seconds).
FAULTS = {
    "predictor kill -9": (5, 0),
    "predictor SIGSTOP": (3, 15),
    "predictor SIGTERM": (2, 0),
    "predictor clock jump": (1, 15),
    "trainer kill -9": (3, 0),
    "trainer SIGSTOP": (1, 15),
    "trainer clock jump": (1, 15),
    "training kill -9": (2, 0),
    "broker kill -9": (2, 0),
    "broker SIGSTOP": (2, 8),
    "broker SIGSTOP in a training": (0.3, 90),
    "broker SIGTERM": (1, 0),
    "brokers kill -9": (0.5, 0),
    "log cut": (1, 0),
    "topic made anew": (1, 0),
    "postgres kill -9": (2, 0),
    "postgres SIGSTOP": (1, 45),
    "offsets expired": (1, 0),
}
DATA_LOSS = ("log cut", "topic made anew")  # Kafka loses acknowledged requests in these
ONLY_ONE = ("log cut",)  # with three brokers, Kafka syncs nothing: the others have the records
ONLY_THREE = ("broker SIGTERM", "brokers kill -9")  # the second one: all at once
ONLY_POSTGRES = ("postgres kill -9", "postgres SIGSTOP")
CLOCK_JUMP = 7_200  # seconds; by default Kafka refuses records from more than an hour ahead


class Faults:
    """Injects faults into a run; `injected` has those that hit something."""

    def __init__(self, chaos: "Chaos") -> None:
        self.injected: list[Fault] = []
        self._chaos = chaos
        self._chance = random.Random(chaos.options.seed)
        self._busy: set[str] = set()
        self._pool = ThreadPoolExecutor(8)
        self._under_way: list[Future] = []

    def inject(self) -> None:
        """Inject faults at random intervals for as long as the run's options say."""
        options, chance = self._chaos.options, self._chance
        deadline = time.monotonic() + options.minutes * 60
        left_out = ONLY_ONE if self._chaos.pipeline.cluster else ONLY_THREE
        left_out += () if self._chaos.postgres else ONLY_POSTGRES
        weights = {
            kind: weight
            for kind, (weight, _) in FAULTS.items()
            if kind.startswith(options.only) and kind not in left_out
        }
        if options.kill_broker_every:
            self._under_way.append(self._pool.submit(self._kill_brokers, deadline))
        while len(self._under_way) < (options.faults or float("inf")):
            pause = chance.uniform(*options.gap)
            if time.monotonic() + pause > deadline:
                break
            time.sleep(pause)
            kind = chance.choices(list(weights), weights.values())[0]
            predictor = chance.choice(self._chaos.predictors)
            whom = predictor if kind.startswith("predictor") else self._chaos.trainer
            longest = FAULTS[kind][1]
            seconds = chance.uniform(min(1, longest), longest)
            targets = self._targets(kind, whom)
            if not targets & self._busy:
                self._busy |= targets
                self._under_way.append(
                    self._pool.submit(self._inflict, kind, targets, whom, seconds)
                )

    def _targets(self, kind: str, whom: Service) -> set[str]:
        """Return what a fault needs for itself alone: those of different targets overlap."""
        if kind == "offsets expired":
            return {"broker", *(predictor.name for predictor in self._chaos.predictors)}
        if kind.startswith(("broker", "log", "topic")):
            return {"broker"}
        if kind in ONLY_POSTGRES:
            return {"postgres"}
        return {f"clock of {whom.name}" if "clock" in kind else whom.name}

    def end(self) -> None:
        """Return when the last fault is over; raise the exception of one that failed."""
        self._pool.shutdown()
        for fault in self._under_way:
            fault.result()

    def close(self) -> None:
        """Start no more faults, and wait for those under way."""
        self._pool.shutdown(cancel_futures=True)

    def _inflict(self, kind: str, targets: set[str], whom: Service, seconds: float) -> None:
        """Inject one fault, and note it if it hit something."""
        try:
            lasting = f", {seconds:.1f} s" if seconds else ""
            text = f"{kind} ({', '.join(sorted(targets))}{lasting})"
            self._chaos.chronicle.write("CHAOS", text)
            began = time.time()
            if over := self._do(kind, whom, seconds):
                self.injected.append(Fault(kind, began, over, time.time()))
                self._chaos.chronicle.write("CHAOS", f"{kind} is over")
        except Exception as error:
            self._chaos.chronicle.write("CHAOS", repr(error))
            raise
        finally:
            self._busy -= targets

    def _do(self, kind: str, whom: Service, seconds: float) -> float | None:
        """Return when it was over; None if there was nothing to hit."""
        match kind:
            case "broker kill -9":
                return self._restart_broker(self._a_broker())
            case "broker SIGTERM":
                self._chaos.pipeline.cluster.restart(self._a_broker())
                return time.time()
            case "brokers kill -9":
                return self._restart_broker(*self._chaos.pipeline.cluster.nodes)
            case "log cut":
                return self._restart_broker(cut=True)
            case "broker SIGSTOP":
                return self._freeze_broker(seconds)
            case "broker SIGSTOP in a training":
                wait_until(self._chaos.pipeline.children, what="a training")
                return self._freeze_broker(FAULTS[kind][1])
            case "topic made anew":
                over = make_topic_anew(self._chaos)
                self._chaos.load.read_again()
                return over
            case "offsets expired":
                return self._expire_offsets()
            case "training kill -9":
                return self._kill_training()
            case "postgres kill -9":
                self._chaos.postgres.kill()
                self._chaos.postgres.start()
                return time.time()
            case "postgres SIGSTOP":
                self._chaos.postgres.freeze()
                time.sleep(seconds)
                self._chaos.postgres.resume()
                return time.time()
        return self._hit_service(whom, kind.partition(" ")[2], seconds)

    def _hit_service(self, service: Service, how: str, seconds: float) -> float:
        if how == "clock jump":
            set_wrong(service.clock, CLOCK_JUMP)
            time.sleep(seconds)
            set_wrong(service.clock, 0)
        elif how == "SIGSTOP":
            service.send(signal.SIGSTOP)
            time.sleep(seconds)
            service.send(signal.SIGCONT)
        else:
            service.send(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        return time.time()

    def _a_broker(self) -> int:
        return self._chance.choice([1, 2, 3])

    def _freeze_broker(self, seconds: float) -> float:
        cluster, folder = self._chaos.pipeline.cluster, self._chaos.pipeline.folder / "kafka"
        node = cluster.nodes[self._a_broker()] if cluster else Node(folder)
        node.send(signal.SIGSTOP)
        time.sleep(seconds)
        node.send(signal.SIGCONT)
        return time.time()

    def _kill_brokers(self, deadline: float) -> None:
        """Kill one of three brokers again and again, each time when all are in sync."""
        every, cluster = self._chaos.options.kill_broker_every, self._chaos.pipeline.cluster
        while time.monotonic() + every < deadline:
            time.sleep(every)
            wait_until(lambda: "broker" not in self._busy and cluster.is_in_sync(), 120, "in sync")
            self._busy.add("broker")
            self._inflict("broker kill -9", {"broker"}, self._chaos.trainer, 0)

    def _restart_broker(self, *numbers: int, cut: bool = False) -> float:
        kill_broker(self._chaos, *numbers)
        if self._chaos.pipeline.cluster:
            killed = time.time()
            self._chaos.restart_broker()
            return killed if len(numbers) == 1 else time.time()  # two can do the work
        if cut:
            cut_logs(self._chaos, self._chance)
        with ThreadPoolExecutor(1) as meanwhile:  # at the end, the other pool accepts no more work
            accepted = meanwhile.submit(self._accepts_connections)
            self._chaos.restart_broker()
            self._chaos.load.read_again()
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

    def _expire_offsets(self) -> float:
        for predictor in self._chaos.predictors:
            predictor.hold()
        try:
            delete_group(self._chaos)
        finally:
            for predictor in self._chaos.predictors:
                predictor.release()
        return time.time()

    def _kill_training(self) -> float | None:
        for pid in self._chaos.pipeline.children():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
                return time.time()
        return None  # none is under way
