"""Injects random faults into the pipeline for minutes, then audits everything that it promises.

    python -m tests.chaos.run --minutes 5 --seed 7 --rate 200
    python -m tests.chaos.run --brokers 3 --kill-broker-every 20

Starts a broker, predictors and a trainer of its own in a temporary folder, and an independent
producer. While that sends requests, processes are killed and paused, the broker among them; a
script that has ended is restarted at once. Then the faults stop, the pipeline finishes its work,
and tests/chaos/audit.py reads the log. Prints one table. If a promise was broken, the exit code
is 1 and the folder is kept, with the log of each script and with chronicle.log: the faults and the
output of all scripts on one clock.
"""

import json
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tests.chaos.audit import Audit
from tests.chaos.faults import FAULTS, Faults
from tests.chaos.object_models import ObjectModels
from tests.chaos.service import Service
from tests.chaos.witness import Chronicle, Load
from tests.harness.brokers import QUICK, own_pipeline
from tests.harness.pipeline import Pipeline
from tests.harness.postgres import PostgresServer, running_postgres
from tools import local_kafka
from utils.console import say
from utils.script import command_line

RETRAIN_EVERY = 50
ANSWERS_TIMEOUT = 120  # seconds for the last answers after the last fault
TRAINING_TIMEOUT = 180  # seconds for the trainings that are due then
INTERRUPTED = 130  # the exit code after Ctrl-C, or SIGTERM


@dataclass
class Options:
    """The options of the command line."""

    minutes: float = 5
    faults: int | None = None  # ends the run after this number of faults
    seed: int = 7
    rate: float = 200
    partitions: int = 2
    predictors: int = 1
    object_store: bool = False  # models are there
    gap: tuple[float, float] = (0.5, 6)  # seconds between two faults
    only: str = ""  # inject only faults whose names begin with this
    keep: bool = False
    brokers: int = 1
    kill_broker_every: float = 0  # seconds; 0: only by chance
    postgres: bool = False  # keep the observations there


class Chaos:
    """One run: the pipeline's processes, the load, the faults, and a record of all of them."""

    def __init__(
        self, options: Options, pipeline: Pipeline, postgres: PostgresServer | None = None
    ) -> None:
        self.options, self.pipeline, self.postgres = options, pipeline, postgres
        self.chronicle = Chronicle(pipeline.folder / "chronicle.log")
        self.faults = Faults(self)
        self._broker_restarts = 0
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise)
        pipeline.environment |= {
            "RETRAIN_EVERY": str(RETRAIN_EVERY),
            "PARTITIONS": str(options.partitions),
        }
        if postgres:
            pipeline.environment["OBSERVATIONS_URL"] = postgres.url
        pipeline.create_topic("app_messages", options.partitions)
        self.objects = None
        if options.object_store:
            self.objects = ObjectModels(pipeline, self.chronicle, options.seed)

    def start(self) -> None:
        """Start every script and, when they are ready, the load."""
        self.predictors = [
            self._service(f"predictor-{n}", "predictor.py", PREDICTOR_ID=f"predictor-{n}")
            for n in range(self.options.predictors)
        ]
        self.trainer = self._service("trainer", "trainer.py", "--max-evals", "1")
        for service in self.services:
            text = " answers with " if service in self.predictors else "waits for retrain"
            self.pipeline.wait_for_output(service.process, text)
        self.load = Load(self.pipeline, self.options.rate, self.options.partitions, self.chronicle)
        self.audit = Audit(self.pipeline, self.load, self.faults.injected, RETRAIN_EVERY)
        self._supervisor.start()
        if self.pipeline.cluster:
            self._watch_markers()

    def _watch_markers(self) -> None:
        prefix, names = self.pipeline.prefix, [predictor.name for predictor in self.predictors]
        topics = [prefix + name for name in ("app_messages", "retrain_topic", "dead_letter_topic")]
        arguments = (f"{prefix}predictors", ",".join(names), *topics)
        watch = self.pipeline.start("-m", "tests.chaos.marker_watch", *arguments)
        self.audit.marker_watch = watch.log

    @property
    def services(self) -> list[Service]:
        """All scripts that are kept running."""
        return [*self.predictors, self.trainer]

    def _service(self, name: str, *command: str, **environment: str) -> Service:
        return Service(self.pipeline, self.chronicle, name, *command, **environment)

    def _supervise(self) -> None:
        while not self._stop.wait(0.05):
            for service in self.services:
                service.supervise()

    def restart_broker(self) -> None:
        """Start Kafka again, with the same data and at the same ports."""
        if self.pipeline.cluster:
            self.chronicle.write("broker", self.pipeline.cluster.start())
            return
        folder = self.pipeline.folder / "kafka"
        log = folder / "broker.log"  # the new process would overwrite it
        log.rename(log.with_name(f"broker-{self._broker_restarts}.log"))
        self._broker_restarts += 1
        self.chronicle.write("broker", local_kafka.start(self.pipeline.host, folder))

    def settle(self) -> Audit:
        """End the load, wait until all work is done, stop the scripts, and audit the result."""
        self.faults.end()
        if self.objects:
            self.objects.calm()
        self.load.stop_sending()
        self.chronicle.write("CHAOS", "No more faults, no more requests.")
        audit = self.audit
        audit.wait_for("answers to all requests", audit.all_is_answered, ANSWERS_TIMEOUT)
        audit.wait_for("the trainings that are due", audit.all_is_trained, TRAINING_TIMEOUT)
        audit.wait_for("the champion in use", self._champion_answers, 10)
        self._stop.set()
        self._supervisor.join()
        for service in self.services:
            service.end()
            audit.violations += service.complaints
        audit.wait_for("the end of training processes", lambda: not self.pipeline.children(), 5)
        if self.objects:
            self.objects.fetch()
        audit.run()
        return audit

    def _champion_answers(self) -> bool:
        """True when the last model that each predictor has named is the champion."""
        if self.objects:
            self.objects.fetch()
        path = self.pipeline.folder / "models" / "champion.json"
        champion = json.loads(path.read_bytes())["model_id"]
        texts = [predictor.process.log.read_text() for predictor in self.predictors]
        pattern = r"answers with model (\d+)|Model (\d+) answers"
        named = [["".join(found) for found in re.findall(pattern, text)] for text in texts]
        return all(ids[-1:] == [str(champion)] for ids in named)

    def close(self) -> None:
        """End the faults, the supervisor and the load; the pipeline's owner ends its processes."""
        self.faults.close()
        self._stop.set()
        if self._supervisor.is_alive():
            self._supervisor.join()
        if hasattr(self, "load"):
            self.load.close()
        if self.objects:
            self.objects.close()
        self.chronicle.close()


def inject_faults(chaos: Chaos) -> None:
    """Inject random faults for as long as the options say."""
    chaos.faults.inject()


def run(options: Options, meanwhile: Callable[[Chaos], None] = inject_faults) -> Audit:
    """Do one run and print its table; the audit that is returned has the violations."""
    folder, audit = Path(tempfile.mkdtemp(prefix="chaos-")), None
    try:
        with (
            own_pipeline(folder, "chaos-", *QUICK, cluster=options.brokers > 1) as pipeline,
            running_postgres() if options.postgres else nullcontext() as postgres,
            closing(Chaos(options, pipeline, postgres)) as chaos,
        ):
            chaos.start()
            meanwhile(chaos)
            audit = chaos.settle()
        restarts = {service.name: service.restarts for service in chaos.services}
        Console().print(audit.table(restarts))
    finally:
        if audit and not audit.violations and not options.keep:
            shutil.rmtree(folder)
        else:
            say(f"Logs, data and models are kept in {folder}")
    for violation in audit.violations:
        say(f"VIOLATION: {violation}", "bold red")
    return audit


def parse_arguments() -> Options:
    """Return the options that the command line gives."""
    default = Options()
    parser = command_line(__doc__, "tests.chaos.run")
    parser.add_argument("--minutes", type=float, default=default.minutes, help="of faults (5)")
    parser.add_argument("--faults", type=int, help="end after this number of faults")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the faults drawn (7)")
    parser.add_argument("--rate", type=float, default=default.rate, help="requests a second (200)")
    parser.add_argument("--partitions", type=int, default=default.partitions, help="(2)")
    parser.add_argument("--predictors", type=int, default=default.predictors, help="(1)")
    parser.add_argument(
        "--object-store", action="store_true", help="models in an object store, which fails too"
    )
    parser.add_argument(
        "--gap", type=float, nargs=2, default=default.gap, help="seconds between faults (0.5 6)"
    )
    kinds = {kind.split()[0] for kind in FAULTS} | FAULTS.keys()
    parser.add_argument("--only", choices=sorted(kinds), default="", help="inject only these")
    parser.add_argument("--brokers", type=int, choices=[1, 3], default=default.brokers, help="(1)")
    parser.add_argument(
        "--kill-broker-every",
        type=float,
        metavar="SECONDS",
        default=default.kill_broker_every,
        help="kill one of three brokers at this interval, as soon as all are in sync",
    )
    parser.add_argument(
        "--postgres", action="store_true", help="observations in PostgreSQL, which is killed too"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder in any case")
    options = Options(**vars(parser.parse_args()))
    if options.kill_broker_every and options.brokers == 1:
        parser.error("--kill-broker-every: needs --brokers 3")
    return options


def exit_code(options: Options, meanwhile: Callable[[Chaos], None] = inject_faults) -> int:
    """Do one run; return 1 if a promise was broken, 130 after Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    try:
        return 1 if run(options, meanwhile).violations else 0
    except KeyboardInterrupt:
        return INTERRUPTED


def main() -> int:
    """Do one run and return its exit code."""
    options = parse_arguments()
    say(f"Chaos: seed {options.seed}, {options.minutes:g} minutes, {options.rate:g} requests/s.")
    return exit_code(options)


if __name__ == "__main__":
    sys.exit(main())
