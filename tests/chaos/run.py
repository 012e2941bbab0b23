"""Breaks the pipeline at random, for minutes, then audits everything that it promises.

    python -m tests.chaos.run --minutes 5 --seed 7 --rate 200

Starts a broker, predictors and a trainer of its own in a temporary folder, each one restarted at
once when it has ended, and an independent producer. While that sends requests, processes are killed
and paused, the broker too. Then everything settles, and tests/chaos/audit.py reads the log. Prints
one table. When a promise was broken, the exit code is 1 and the folder stays, with every script's log
and with chronicle.log: faults and output of all scripts on one clock.
"""

import argparse
import json
import lzma
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.chaos.audit import Audit
from tests.chaos.faults import FAULTS, Faults
from tests.chaos.service import Service
from tests.chaos.witness import Chronicle, Load
from tests.harness.brokers import free_port
from tests.harness.pipeline import Pipeline
from tools import local_kafka
from utils.console import say
from utils.files import ROOT

RETRAIN_EVERY = 50
PREFIX = "chaos-"
ANSWERS_TIMEOUT = 120  # seconds for the last answers, once nothing is broken any more
TRAINING_TIMEOUT = 180  # seconds for the trainings that are due then


@dataclass
class Options:
    """What the command line can say."""

    minutes: float = 5
    faults: int | None = None  # ends the run once so many have been injected
    seed: int = 7
    rate: float = 200
    partitions: int = 2
    predictors: int = 1
    gap: tuple[float, float] = (0.5, 6)  # seconds between two faults
    only: str = ""  # what the names of the faults that are drawn begin with
    keep: bool = False


class Chaos:
    """One run: the broker, the pipeline's processes, the load, and what is done to them."""

    def __init__(self, options: Options, folder: Path, host: str) -> None:
        self.options, self.folder, self.host = options, folder, host
        self.chronicle = Chronicle(folder / "chronicle.log")
        self.faults = Faults(self)
        self._broker_starts = 0
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)

    def prepare(self) -> None:
        """Start the broker, and make the first model and the topic."""
        for name in ("data", "models", "kafka"):
            (self.folder / name).mkdir()
        for name in ("adult.data", "adult.test"):  # no run waits for UCI's server
            packed = (ROOT / "data" / f"{name}.xz").read_bytes()
            (self.folder / "data" / name).write_bytes(lzma.decompress(packed))
        self.start_broker()
        self.pipeline = Pipeline(self.host, PREFIX, self.folder)
        self.pipeline.environment |= {
            "RETRAIN_EVERY": str(RETRAIN_EVERY),
            "PARTITIONS": str(self.options.partitions),
        }
        init = self.pipeline.start("initialize.py", "--max-evals", "1")
        if init.wait(120):
            raise RuntimeError(init.log.read_text())
        self.pipeline.create_topic("app_messages", self.options.partitions)

    def start(self) -> None:
        """Start every process, and the load when they are ready."""
        self.predictors = [
            self._service(f"predictor-{n}", "predictor.py", PREDICTOR_ID=f"predictor-{n}")
            for n in range(self.options.predictors)
        ]
        self.trainer = self._service("trainer", "trainer.py", "--max-evals", "1")
        for service in self.services:
            text = " answers with " if service in self.predictors else "waits for retrain"
            self.pipeline.wait_for_output(service.process, text)
        self.load = Load(self.pipeline, self.options.rate, self.options.partitions, self.chronicle)
        self._supervisor.start()

    @property
    def services(self) -> list[Service]:
        """Every script that runs all the time."""
        return [*self.predictors, self.trainer]

    def _service(self, name: str, *command: str, **environment: str) -> Service:
        return Service(self.pipeline, self.chronicle, name, *command, **environment)

    def _supervise(self) -> None:
        while not self._stop.wait(0.05):
            for service in self.services:
                service.look_after()

    def start_broker(self) -> None:
        """Start Kafka, the first time or again."""
        log = self.folder / "kafka" / "broker.log"  # the next one would overwrite it
        if log.exists():
            log.rename(log.with_name(f"broker-{self._broker_starts}.log"))
        self._broker_starts += 1
        self.chronicle.write("broker", local_kafka.start(self.host, self.folder / "kafka"))

    def children(self) -> list[int]:
        """Return the pids of training processes: their command names our folder."""
        pattern = f"train.retrain.*{self.folder}"
        found = subprocess.run(["pgrep", "-f", pattern], capture_output=True)
        return [int(pid) for pid in found.stdout.split()]

    def settle(self) -> Audit:
        """End the load, let the pipeline do all that is due, stop it, and audit what it did."""
        self.faults.end()
        self.load.stop_sending()
        self.chronicle.write("CHAOS", "No more faults, no more requests.")
        audit = Audit(self.pipeline, self.load, RETRAIN_EVERY)
        audit.wait_for("answers to all requests", audit.all_is_answered, ANSWERS_TIMEOUT)
        audit.wait_for("the trainings that are due", audit.all_is_trained, TRAINING_TIMEOUT)
        audit.wait_for("the champion in use", self._champion_answers, 10)
        self._stop.set()
        self._supervisor.join()
        for service in self.services:
            service.end()
            audit.violations += service.complaints
        audit.wait_for("the end of training processes", lambda: not self.children(), 5)
        audit.run()
        return audit

    def _champion_answers(self) -> bool:
        """True when the last model that each predictor has named is the champion."""
        champion = json.loads((self.folder / "models" / "champion.json").read_bytes())["model_id"]
        texts = [predictor.process.log.read_text() for predictor in self.predictors]
        pattern = r"answers with model (\d+)|Model (\d+) answers"
        named = [["".join(found) for found in re.findall(pattern, text)] for text in texts]
        return all(ids[-1:] == [str(champion)] for ids in named)

    def close(self) -> None:
        """End everything that still runs, whatever has happened."""
        with ExitStack() as ends:
            ends.callback(self.chronicle.close)
            ends.callback(local_kafka.stop, self.folder / "kafka")
            if hasattr(self, "pipeline"):
                ends.callback(self.pipeline.stop_all)
            if hasattr(self, "load"):
                ends.callback(self.load.close)
            self.faults.close()
            self._stop.set()
            if self._supervisor.is_alive():
                self._supervisor.join()


def run(options: Options) -> Audit:
    """Do one run and print its table; the audit returned has the violations."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    chaos, audit = Chaos(options, folder, f"localhost:{free_port()}"), None
    try:
        chaos.prepare()
        chaos.start()
        chaos.faults.inject()
        audit = chaos.settle()
        restarts = {service.name: service.restarts for service in chaos.services}
        Console().print(audit.table(chaos.faults.injected, restarts))
    finally:
        chaos.close()
        if audit and not audit.violations and not options.keep:
            shutil.rmtree(folder)
        else:
            say(f"Logs, data and models stay in {folder}")
    for violation in audit.violations:
        say(f"VIOLATION: {violation}", "bold red")
    return audit


def parse_arguments() -> Options:
    """Return what the command line says."""
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=default.minutes, help="of faults (5)")
    parser.add_argument("--faults", type=int, help="end after so many, if that is sooner")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the faults drawn (7)")
    parser.add_argument("--rate", type=float, default=default.rate, help="requests a second (200)")
    parser.add_argument("--partitions", type=int, default=default.partitions, help="(2)")
    parser.add_argument("--predictors", type=int, default=default.predictors, help="(1)")
    parser.add_argument(
        "--gap", type=float, nargs=2, default=default.gap, help="seconds between faults (0.5 6)"
    )
    kinds = {kind.split()[0] for kind in FAULTS} | FAULTS.keys()
    parser.add_argument("--only", choices=sorted(kinds), default="", help="these faults, no others")
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    return Options(**vars(parser.parse_args()))


def main() -> int:
    """Do one run; exit code 1 when a promise was broken."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    options = parse_arguments()
    say(f"Chaos: seed {options.seed}, {options.minutes:g} minutes, {options.rate:g} requests/s.")
    try:
        return 1 if run(options).violations else 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
