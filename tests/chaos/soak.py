"""Lets the pipeline work for minutes without a fault and watches its memory.

    python -m tests.chaos.soak --minutes 10 --rate 500

Requests flow at a fixed rate and the trainer retrains all the time. Prints the resident memory of
the predictor and of the trainer's main process at minute 2 and at the end, and the peak of the
training processes beside the rows they trained on; then audits the log as tests/chaos/run.py does.
"""

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.harness.brokers import free_port
from tqdm import tqdm

from tests.chaos.audit import TRAINING_ROWS
from tests.chaos.run import Chaos, Options
from utils.console import say

WARM = 120  # seconds after which memory has to stay as it is
WINDOW = 15  # samples, one a second, whose median is reported


def memory(pid: int, what: str = "VmRSS") -> float:
    """Return a process's resident memory (VmHWM: its peak) in MB; 0 if it has ended. Linux only."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024
    return 0.0


def watch(chaos: Chaos, seconds: float) -> tuple[dict[str, list[float]], dict[int, float]]:
    """Sample each second; return {process: MB of each second} and {pid of a training: peak MB}."""
    samples = {service.name: [] for service in chaos.services}
    peaks: dict[int, float] = {}
    for _ in tqdm(range(int(seconds)), unit="s", disable=not sys.stderr.isatty()):
        for service in chaos.services:
            samples[service.name].append(memory(service.process.pid))
        for pid in chaos.children():
            peaks[pid] = max(memory(pid, "VmHWM"), peaks.get(pid, 0))
        time.sleep(1)
    return samples, peaks


def table(samples: dict[str, list[float]], peaks: dict[int, float], rows: list[int]) -> Table:
    """Return the figures; rows are those of each completed training, in order."""
    report = Table("resident memory, MB", "minute 2", "end", "ratio")
    for name, values in samples.items():
        early = statistics.median(values[WARM : WARM + WINDOW])
        late = statistics.median(values[-WINDOW:])
        report.add_row(name, f"{early:.0f}", f"{late:.0f}", f"{late / early:.2f}")
    first, *_, last = peaks.values()
    report.add_row("training, peak of the first and last", f"{first:.0f}", f"{last:.0f}", "")
    report.add_row("their rows", f"{rows[0]:,}", f"{rows[-1]:,}", f"{rows[-1] / rows[0]:.2f}")
    return report


def main() -> int:
    """Do one run; exit code 1 when a promise was broken."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up as Ctrl-C does
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10, help="3 at least (10)")
    parser.add_argument("--rate", type=float, default=500, help="requests a second (500)")
    arguments = parser.parse_args()
    if arguments.minutes * 60 < WARM + WINDOW:
        parser.error("--minutes: the memory is compared with that of minute 2")
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    chaos = Chaos(Options(rate=arguments.rate, partitions=1), folder, f"localhost:{free_port()}")
    try:
        chaos.prepare()
        chaos.start()
        samples, peaks = watch(chaos, arguments.minutes * 60)
        audit = chaos.settle()
        trained = [m["observations"] for m in audit.control if "training_completed" in m]
        Console().print(table(samples, peaks, [TRAINING_ROWS + n for n in trained]))
        Console().print(audit.table([], {}))
    finally:
        chaos.close()
        shutil.rmtree(folder)
    for violation in audit.violations:
        say(f"VIOLATION: {violation}", "bold red")
    return 1 if audit.violations else 0


if __name__ == "__main__":
    sys.exit(main())
