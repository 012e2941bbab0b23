"""Adds, removes, cuts off and upgrades predictors on hosts of their own, and audits the log.

    python -m tests.chaos.hosts --rate 2000
    python -m tests.chaos.hosts --rate 500 --former HEAD~1   # mixed with the code of a commit

Each predictor has a host (a network namespace: root only) that shares nothing with the others but
the network; Kafka, the trainer and the load are on a first one. Prints the slowest answer for each
thing that happens to a host. With --former, predictors and trainer are upgraded one after another
from the former code to this one, and back, with a retraining in each state.
"""

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.chaos.audit import Audit
from tests.chaos.witness import Chronicle, Load
from tests.harness.brokers import QUICK, initialize, running_broker
from tests.harness.hosts import FIRST, Host, enter_network
from tests.harness.pipeline import Pipeline, wait_until
from utils.console import say
from utils.files import ROOT
from utils.script import command_line

PARTITIONS = 4
RETRAIN_EVERY = 2_000
KAFKA = {  # one listener for the first host, one for the others
    "listeners": f"PLAINTEXT://127.0.0.1:9092,HOSTS://{FIRST}:9094,CONTROLLER://127.0.0.1:9093",
    "advertised.listeners": f"PLAINTEXT://localhost:9092,HOSTS://{FIRST}:9094",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,HOSTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "controller.quorum.voters": "1@127.0.0.1:9093",
}
CUT_OFF = 20  # seconds: longer than the session and the transaction of a predictor


class Predictor:
    """A predictor on a host of its own."""

    def __init__(self, run: "Run", number: int) -> None:
        self._run, self._name = run, f"predictor-{number}"
        self.host = Host(number + 2)
        self.start(ROOT)

    def start(self, project: Path) -> None:
        """Start it, and return when it is ready; project : whose code."""
        own = {"KAFKA_HOST": f"{FIRST}:9094", "PREDICTOR_ID": self._name}
        start = self._run.pipeline.start
        self.process = start("predictor.py", before=self.host.enter, project=project, **own)
        self._run.pipeline.wait_for_output(self.process, " answers with model ")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal that ends it, and return when it has ended."""
        self.process.send_signal(number)
        code = self.process.wait(60)
        self._run.audit.check(code in (0, -number), f"{self._name} ended with exit code {code}")

    def has_answered_since(self, begin: int) -> bool:
        """Return True if its output has a retrain request after this number of characters."""
        return "asked for retraining" in self.process.log.read_text()[begin:]


class Run:
    """The pipeline, its load, and what happened to its hosts."""

    def __init__(self, pipeline: Pipeline, rate: float) -> None:
        self.pipeline, self.steps = pipeline, []
        pipeline.environment |= {
            "PARTITIONS": str(PARTITIONS),
            "RETRAIN_EVERY": str(RETRAIN_EVERY),
        }
        pipeline.create_topic("app_messages", PARTITIONS)
        self._stack = ExitStack()
        chronicle = self._stack.enter_context(closing(Chronicle(pipeline.folder / "chronicle.log")))
        self._start_load = lambda: self._stack.enter_context(
            closing(Load(pipeline, rate, PARTITIONS, chronicle))
        )
        self.predictors: list[Predictor] = []

    def start(self, project: Path = ROOT) -> None:
        """Start the trainer, and the load."""
        self.start_trainer(project)
        self.load = self._start_load()
        self.audit = Audit(self.pipeline, self.load, [], RETRAIN_EVERY)

    def start_trainer(self, project: Path) -> None:
        """Start the trainer of a project, and return when it is ready."""
        self.trainer = self.pipeline.start("trainer.py", "--max-evals", "1", project=project)
        self.pipeline.wait_for_output(self.trainer, "waits for retrain requests")

    def add(self) -> Predictor:
        """Add a host with a predictor."""
        self.predictors.append(Predictor(self, len(self.predictors)))
        return self.predictors[-1]

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Note the slowest answer to the requests of this step, and of two seconds after it."""
        say(what)
        began = time.time()
        yield
        ended = time.time() + 2
        wait_until(lambda: self._answered_after(ended), 60, f"answers after: {what}")
        self.steps.append((what, ended - began, self.load.slowest_answer(began)))

    def _answered_after(self, moment: float) -> bool:
        behind = len(self.load.acknowledged) - len(self.load.answered)
        return time.time() > moment and behind < 0.5 * self.load.rate

    def settle(self) -> None:
        """End the load, wait until all work is done, stop all scripts, and audit."""
        self.load.stop_sending()
        self.audit.wait_for("answers to all requests", self.audit.all_is_answered, 60)
        self.audit.wait_for("the trainings that are due", self.audit.all_is_trained, 600)
        for predictor in self.predictors:
            if predictor.process.poll() is None:
                predictor.stop()
        self.trainer.send_signal(signal.SIGTERM)
        self.trainer.wait(60)
        self.audit.run()

    def print(self) -> None:
        """Print what happened, and what the audit found."""
        table = Table("what happened", "seconds", "slowest answer, s")
        for what, seconds, slowest in self.steps:
            table.add_row(what, f"{seconds:.1f}", f"{slowest:.2f}")
        Console().print(table, self.audit.table({}))

    def close(self) -> None:
        """End the load, and remove the hosts."""
        self._stack.close()
        self.pipeline.stop_all()
        for predictor in self.predictors:
            predictor.host.remove()


def come_and_go(run: Run) -> None:
    """Add, restart, cut off and remove hosts."""
    with run.step("one predictor"):
        first = run.add()
    with run.step("a second one"):
        second = run.add()
    with run.step("two more at once"):
        third, _ = run.add(), run.add()
    with run.step("rolling restart of all four"):
        for predictor in run.predictors:
            predictor.stop()
            predictor.start(ROOT)
    with run.step("one stopped, its host removed"):
        first.stop()
        first.host.remove()
    with run.step("one killed, its host removed"):
        second.stop(signal.SIGKILL)
        second.host.remove()
    with run.step(f"one cut off for {CUT_OFF} s, and connected again"):
        begin = len(third.process.log.read_text())
        third.host.cut_off()
        time.sleep(CUT_OFF)  # how long it lasts is what is tried
        third.host.connect()
        wait_until(lambda: third.has_answered_since(begin), 60, "answers of the one cut off")


def upgrade_and_back(run: Run, former: Path) -> None:
    """Upgrade trainer and predictors one after another, then take them back to the former code."""
    with run.step("two predictors of the former code"):
        for predictor in (run.add(), run.add()):
            predictor.stop()
            predictor.start(former)
    for project, code in ((ROOT, "this code"), (former, "the former code")):
        with run.step(f"the trainer has {code}"):
            run.trainer.send_signal(signal.SIGTERM)
            run.trainer.wait(60)
            run.start_trainer(project)
            wait_for_a_model(run)
        for predictor in run.predictors:
            with run.step(f"one more predictor has {code}"):
                predictor.stop()
                predictor.start(project)
                wait_for_a_model(run)


def wait_for_a_model(run: Run) -> None:
    """Return when all predictors answer with a model that was trained from now on."""
    before = run.pipeline.messages("retrain_topic")
    last = max((m["model_id"] for m in before if "training_completed" in m), default=0)
    logs = [predictor.process.log for predictor in run.predictors]
    newer = [f"Model {last + n} answers from now on" for n in range(1, 10)]

    def all_have_one() -> bool:
        return all(any(text in log.read_text() for text in newer) for log in logs)

    wait_until(all_have_one, 120, "a new model in all predictors")


def checkout(commit: str, folder: Path) -> Path:
    """Return a copy of the project as it was at a commit."""
    git = ["git", "-c", "advice.detachedHead=false"]
    subprocess.run([*git, "clone", "-q", "--shared", ROOT, folder], check=True)
    subprocess.run([*git, "checkout", "-q", commit], cwd=folder, check=True)
    return folder


def main() -> int:
    """Do one run; return 1 if a promise was broken."""
    parser = command_line(__doc__, "tests.chaos.hosts")
    parser.add_argument("--rate", type=float, default=2_000, help="requests a second (2000)")
    parser.add_argument("--former", help="a commit whose code is mixed with this one")
    options = parser.parse_args()
    enter_network("tests.chaos.hosts")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    folder = Path(tempfile.mkdtemp(prefix="hosts-"))
    former = checkout(options.former, folder / "former") if options.former else None
    initialize(folder, *QUICK, project=former or ROOT)
    with running_broker(folder / "kafka", "localhost:9092", KAFKA) as host:
        pipeline = Pipeline(host, "hosts-", folder, PROMOTE="always")
        with closing(Run(pipeline, options.rate)) as run:
            run.start(former or ROOT)
            upgrade_and_back(run, former) if former else come_and_go(run)
            run.settle()
            run.print()
    for violation in run.audit.violations:
        say(f"VIOLATION: {violation}", "bold red")
    if run.audit.violations:
        say(f"Logs are kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
