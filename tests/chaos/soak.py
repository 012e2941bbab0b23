"""Runs the pipeline for minutes without a fault and watches its memory.

    python -m tests.chaos.soak --minutes 10 --rate 500

Requests are sent at a fixed rate and the trainer retrains all the time. Audits the log as
tests/chaos/run.py does, then prints the resident memory of the predictor and of the trainer's main
process after the warm-up and at the end, and the peak of the training processes beside the number
of rows that they trained on.
"""

import statistics
import sys
import time

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from tests.chaos.audit import TRAINING_ROWS
from tests.chaos.run import INTERRUPTED, Chaos, Options, exit_code
from tests.harness.pipeline import memory
from utils.script import command_line

WINDOW = 15  # samples, one a second, whose median is reported


class Memory:
    """Samples the memory of a run's processes once a second."""

    def __init__(self, seconds: float, warm_up: float) -> None:
        self._seconds, self._warm_up = int(seconds), int(warm_up)
        self._resident: dict[str, list[float]] = {}  # MB of each second, by process
        self._peaks: dict[int, float] = {}  # MB, by pid of the training process
        self._trained: list[int] = []  # rows of each completed training, in order

    def watch(self, chaos: Chaos) -> None:
        """Sample until the time is over."""
        for _ in tqdm(range(self._seconds), unit="s", disable=not sys.stderr.isatty()):
            for service in chaos.services:
                samples = self._resident.setdefault(service.name, [])
                samples.append(memory(service.process.pid))
            for pid in chaos.pipeline.children():
                self._peaks[pid] = max(memory(pid, "VmHWM"), self._peaks.get(pid, 0))
            time.sleep(1)
        control = chaos.pipeline.messages("retrain_topic")
        completed = [m for m in control if "training_completed" in m and "observations" in m]
        self._trained = [TRAINING_ROWS + message["observations"] for message in completed]

    def table(self) -> Table:
        """Return the figures as a table."""
        report = Table("resident memory, MB", f"after {self._warm_up} s", "at the end", "ratio")
        for name, samples in self._resident.items():
            early = statistics.median(samples[self._warm_up :][:WINDOW])
            late = statistics.median(samples[-WINDOW:])
            report.add_row(name, f"{early:.0f}", f"{late:.0f}", f"{late / early:.2f}")
        for name, values in (
            ("first and last training, peak", list(self._peaks.values())),
            ("first and last training, rows", self._trained),
        ):
            if values:
                report.add_row(name, f"{values[0]:,.0f}", f"{values[-1]:,.0f}")
        return report


def main() -> int:
    """Do one run; return 1 if a promise was broken."""
    parser = command_line(__doc__, "tests.chaos.soak")
    parser.add_argument("--minutes", type=float, default=10, help="of load (10)")
    parser.add_argument("--rate", type=float, default=500, help="requests a second (500)")
    parser.add_argument("--warm-up", type=float, default=120, help="seconds (120)")
    arguments = parser.parse_args()
    seconds, warm_up = arguments.minutes * 60, arguments.warm_up
    if seconds < warm_up + WINDOW:
        parser.error(f"--minutes: must be {WINDOW} seconds longer than --warm-up")
    observed = Memory(seconds, warm_up)
    code = exit_code(Options(rate=arguments.rate, partitions=1), observed.watch)
    if code != INTERRUPTED:
        Console().print(observed.table())
    return code


if __name__ == "__main__":
    sys.exit(main())
