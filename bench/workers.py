"""How long a search takes with one process, and with workers beside the training process.

    python -m bench.workers FOLDER                     (needs data/ and models/ in FOLDER)
    python -m bench.workers FOLDER --processes 1 2 4 --trials 60 --rows 100000

All processes run on this machine, with one thread each: more of them than cores save nothing. The
observations are those of bench/years.py; PostgreSQL is a server of its own.
"""

import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.years import PREFIX
from tests.harness.pipeline import wait_until
from tests.harness.postgres import running_postgres
from utils.files import ROOT
from utils.model_store.registry import Registry
from utils.script import command_line

LIMIT = 3_600  # seconds for a search


@contextmanager
def worker(env: dict, log: Path):
    """Run a worker that waits for a search."""
    with open(log, "wb") as output:
        command = [sys.executable, "-m", "tools.tuning_worker", "--threads", "1"]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=output)
    try:
        wait_until(lambda: "waits for a search" in log.read_text(), LIMIT, "a worker")
        yield
        wait_until(lambda: "Done: " in log.read_text(), LIMIT, "the end of its search")
    finally:
        process.terminate()
        process.wait()


MAKE_STORE = """
import sys
from bench.years import make_store
from utils.settings import settings

make_store(settings.data_dir, int(sys.argv[1]))
"""


def measure(folder: Path, url: str, processes: int, options: Namespace) -> tuple[str, ...]:
    """Return a row of the table: a search by so many processes, the training process among them."""
    for path in folder.glob("data/trials.*"):
        path.unlink()
    variables = {"DATA_DIR": folder / "data", "MODELS_DIR": folder / "models"}
    threads = {"OMP_NUM_THREADS": "1", "OBSERVATIONS_URL": url if processes > 1 else ""}
    threads["TOPIC_PREFIX"] = PREFIX
    env = os.environ | {name: str(value) for name, value in variables.items()} | threads
    make = [sys.executable, "-c", MAKE_STORE, str(options.rows)]
    subprocess.run(make, cwd=ROOT, env=env, check=True)
    result = folder / "result"
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir()
    command = [sys.executable, "-m", "train.retrain", "--folder", str(result), "--model-id", "1"]
    command += ["--hyper", "optuna", "--max-evals", str(options.trials), "--timeout", str(LIMIT)]
    logs = [folder / f"worker-{number}.log" for number in range(1, processes)]
    with ExitStack() as stack:
        for log in logs:
            stack.enter_context(worker(env, log))
        before, began = cpu_seconds(), time.perf_counter()
        # The training process ends when its standard input is closed.
        with subprocess.Popen(command, cwd=ROOT, env=env, stdin=subprocess.PIPE) as training:
            assert training.wait() == 0, "the training failed"
        seconds = time.perf_counter() - began
    card = Registry(result).card(1)
    by_workers = sum(int(n) for log in logs for n in re.findall(r"Done: (\d+)", log.read_text()))
    assert card.evaluations == options.trials
    figures = f"{seconds:.0f}", f"{card.durations['tuning']:.0f}", f"{cpu_seconds() - before:.0f}"
    return str(processes), *figures, str(by_workers), f"{card.tuning_loss:.4f}"


def cpu_seconds() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(options: Namespace, copy: Path) -> None:
    """Measure, and print the table."""
    columns = "processes", "s", "s of tuning", "CPU s of all", "trials by workers", "loss"
    table = Table(*columns, title=f"{options.trials} trials")
    with running_postgres() as server:
        for processes in options.processes:
            row = measure(copy, server.url, processes, options)
            print(*row, flush=True)
            table.add_row(*row)
    Console().print(table)


def main() -> None:
    """Measure searches by different numbers of processes."""
    parser = command_line(__doc__, "bench.workers")
    parser.add_argument("folder", type=Path, help="with data/ and models/")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="(1 2 4)")
    parser.add_argument("--trials", type=int, default=60, help="(60)")
    parser.add_argument("--rows", type=int, default=0, help="observations (0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(options.folder, copy, dirs_exist_ok=True)
        show(options, Path(copy))


if __name__ == "__main__":
    main()
