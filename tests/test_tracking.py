"""The monitor's side of MLflow: it is never disturbed, whatever MLflow does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.harness.mlflow_programs import folders
from tests.harness.pipeline import wait_until
from utils.files import ROOT

pytest.importorskip("mlflow", reason="requirements-monitoring.txt is not installed")

# What monitor.py does, with short pauses and a model that answers; prints the longest step.
# Argument: seconds after which a child is killed.
MONITOR = """
import sys, time
from monitoring.tracking import tracking
from monitoring.snapshot import *

tracking.PAUSES, tracking.SAMPLE_EVERY, tracking.SEND_EVERY = (0.1, 0.5), 0.5, 1.0
tracking.LIMIT = float(sys.argv[1])
tracking.lower_priority = lambda pid: None  # a busy machine would hardly ever run it
model, longest, tracked = ModelState(0, "champion", mean_loss=0.3), 0.0, tracking.Tracking()
while True:
    model.answers += 1
    parts = [Flow(), Latency(0.01, 0.02, 9), OutcomeDelay(), Training(), [model], [], [], []]
    snapshot = Snapshot(time.time(), None, "", "", 0, *parts, Following())
    start = time.thread_time()
    tracked.step(snapshot)
    longest = max(longest, time.thread_time() - start)
    print(f"child {tracked._child and tracked._child.pid} longest {longest:.4f}", flush=True)
    time.sleep(0.05)
"""


@contextmanager
def monitor(folder: Path, limit: float = 60, **environment: str) -> Iterator[subprocess.Popen]:
    """Run MONITOR; what it prints is in the file `log`."""
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", MONITOR, str(limit)],
            cwd=ROOT,
            env=os.environ | folders(folder) | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def said(folder: Path) -> list[str]:
    """Return what the monitor has said, but for the lines about its child."""
    lines = (folder / "log").read_text().splitlines()
    return [line for line in lines if not line.startswith("child ")]


def children(folder: Path) -> list[int]:
    """Return the processes that the monitor has started, in their order."""
    words = (line.split() for line in (folder / "log").read_text().splitlines())
    pids = [line[1] for line in words if line[0] == "child" and line[1] != "None"]
    return [int(pid) for pid in dict.fromkeys(pids)]


@contextmanager
def frozen_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_store_that_can_not_be_used_is_reported_once_and_tried_again(tmp_path):
    (tmp_path / "models").mkdir()
    (store := tmp_path / "data" / "mlflow.db").mkdir(parents=True)
    with monitor(tmp_path):
        wait_until(lambda: len(children(tmp_path)) > 1, what="a second try")
        store.rmdir()
        wait_until(lambda: "works again" in " ".join(said(tmp_path)), what="success")
    [problem, success] = said(tmp_path)
    assert problem.startswith("MLflow can't be used, and what is missing is logged later: ")
    assert "unable to open database file" in problem
    assert success == "MLflow works again: what was missing is logged."


@pytest.mark.slow
def test_a_frozen_server_costs_the_monitor_nothing(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    with (
        frozen_server() as uri,
        monitor(tmp_path, MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_TIMEOUT="1"),
    ):
        wait_until(lambda: len(children(tmp_path)) > 2, what="a third try")
    [problem] = said(tmp_path)
    assert "API request to MLFLOW_TRACKING_URI" in problem
    assert uri not in problem


@pytest.mark.slow
def test_a_child_that_takes_too_long_is_killed(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    with frozen_server() as uri, monitor(tmp_path, limit=5, MLFLOW_TRACKING_URI=uri):
        wait_until(lambda: said(tmp_path), what="a message")
        first = children(tmp_path)[0]
        assert not Path(f"/proc/{first}").exists()
    assert said(tmp_path) == [
        "MLflow can't be used, and what is missing is logged later: it took longer than 5 s"
    ]


@pytest.mark.slow
def test_the_child_ends_with_a_monitor_that_is_killed(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    with frozen_server() as uri, monitor(tmp_path, MLFLOW_TRACKING_URI=uri) as process:
        [child] = wait_until(lambda: children(tmp_path), what="a child")
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the child's end")


def test_the_monitor_imports_neither_mlflow_nor_what_it_needs():
    heavy = "{'mlflow', 'sqlalchemy', 'pandas', 'lightgbm', 'matplotlib', 'numpy', 'train'}"
    code = f"import sys, monitoring.tracking.tracking; print({heavy} & set(sys.modules))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout == "set()\n"


@pytest.mark.parametrize(("uri", "words"), [("", 0), ("none", 0), ("http://127.0.0.1:1", 1)])
def test_without_mlflow_a_sentence_is_said_only_if_it_is_asked_for(tmp_path, uri, words):
    code = "import sys; sys.modules['mlflow'] = None; sys.argv = ['', '1']; "
    code += (
        "from monitoring.tracking.tracking import Tracking; t = Tracking(); t.step(None); t.close()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | folders(tmp_path) | {"MLFLOW_TRACKING_URI": uri},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("MLFLOW_TRACKING_URI is set, but MLflow is not installed") == words
