"""The monitor's side of MLflow: it is never disturbed, whatever MLflow does."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from monitoring.tracking import address, log_to_mlflow
from monitoring.tracking.log_to_mlflow import MORE
from tests.harness.mlflow_programs import folders
from tests.harness.pipeline import wait_until
from utils.files import ROOT, locked
from utils.settings import settings

pytest.importorskip("mlflow", reason="requirements-monitoring.txt is not installed")

# What monitor.py does, with short pauses and a model that answers; prints the longest step,
# in seconds by the clock.
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
    snapshot = Snapshot(time.time(), champion=0, latency=Latency(0.01, 0.02, 9), models=[model])
    start = time.monotonic()
    tracked.step(snapshot)
    longest = max(longest, time.monotonic() - start)
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


def steps_of(folder: Path) -> list[float]:
    """Return, after each step of the monitor, the longest one so far, seconds."""
    words = (line.split() for line in (folder / "log").read_text().splitlines())
    return [float(line[3]) for line in words if line[0] == "child" and len(line) > 3]


@contextmanager
def frozen_server() -> Iterator[str]:
    """A server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
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
def test_a_server_that_does_not_answer_is_reported_once(first_model, tmp_path):
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    with (
        frozen_server() as uri,
        monitor(tmp_path, MLFLOW_TRACKING_URI=uri),
    ):
        wait_until(lambda: len(children(tmp_path)) > 1, what="a second try")
    assert max(steps_of(tmp_path)) < 10  # the child has waited so long for the server
    [problem] = said(tmp_path)
    assert problem.endswith(f"MLFLOW_TRACKING_URI: {uri}: no answer in time")


NAME = "mlflow_tracking_uri"
WRONG = ["garbage", "runs/mlflow", "htp://x", "http:/x", "http://", "http://h:x", "https://[::1"]
WRONG += ["postgres://u:secret@h/x", "sqlite:x", "file:///runs", "NONE"]


@pytest.mark.parametrize("uri", WRONG)
def test_an_address_that_is_none_is_one_sentence(monkeypatch, uri):
    monkeypatch.setattr(address, "settings", settings.model_copy(update={NAME: uri}))
    with pytest.raises(
        SystemExit, match=r"^MLFLOW_TRACKING_URI: expected .*, or none \(it is"
    ) as e:
        address.check_address()
    assert "secret" not in e.value.code


RIGHT = ["", "none", "http://h", "https://u:p@h:5000/a", "http://[::1]:5000", "sqlite:///x.db"]
RIGHT += ["postgresql+psycopg2://u:p@h/x", "databricks", "databricks://profile"]


@pytest.mark.parametrize("uri", RIGHT)
def test_an_address_may_be_any_of_mlflows(monkeypatch, uri):
    monkeypatch.setattr(address, "settings", settings.model_copy(update={NAME: uri}))
    address.check_address()


class Refusing(BaseHTTPRequestHandler):
    """Answers each request with the status in its server's `status`."""

    def do_GET(self) -> None:
        self.send_response(self.server.status)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"oops")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "why"),
    [
        (0, "no answer: Connection refused"),
        (200, "no MLflow server: what it answers is no JSON"),
        (404, "no MLflow server (status 404)"),
        (401, "it needs a login, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or _TOKEN"),
    ],
)
def test_why_a_server_can_not_be_used_is_one_sentence(first_model, status, why):
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        server.status, port = status, server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        if not status:
            server.socket.close()
        run = subprocess.run(
            [sys.executable, "-m", "monitoring.tracking.log_to_mlflow"],
            cwd=ROOT,
            env=os.environ
            | folders(first_model)
            | {"MLFLOW_TRACKING_URI": f"http://u:secret@127.0.0.1:{port}"},
            capture_output=True,
            text=True,
        )
        server.shutdown()
    assert run.returncode == 1
    assert run.stderr == f"MLFLOW_TRACKING_URI: http://127.0.0.1:{port}: {why}\n"


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
def test_a_monitor_goes_on_beside_a_frozen_server_and_its_child_ends_with_it(tmp_path):
    for name in ("models", "data"):
        (tmp_path / name).mkdir()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        monitor(tmp_path, MLFLOW_TRACKING_URI=f"http://127.0.0.1:{server.getsockname()[1]}") as own,
    ):
        server.settimeout(60)
        with server.accept()[0]:  # the child waits for an answer
            [child], steps = children(tmp_path), len(steps_of(tmp_path))
            wait_until(lambda: len(steps_of(tmp_path)) > steps + 5, what="further steps")
            assert children(tmp_path) == [child]
            assert max(steps_of(tmp_path)) < 10  # so long the child waits
            own.send_signal(signal.SIGKILL)
            own.wait()
            wait_until(lambda: not Path(f"/proc/{child}").exists(), what="the child's end")


def test_two_processes_never_create_the_store_at_once(tmp_path):
    """As MLflow's server in tools.ui needs it, the second one waits for it, and no longer."""
    (tmp_path / "data").mkdir()
    lock, store = (tmp_path / "data" / name for name in ("mlflow.lock", "mlflow.db"))
    with (
        locked(lock),
        subprocess.Popen(
            [sys.executable, "-m", "monitoring.tracking.log_to_mlflow"],
            cwd=ROOT,
            env=os.environ | folders(tmp_path),
        ) as process,
    ):
        wait_until(lambda: lock in open_files(process), what="it tries to lock")
        assert process.poll() is None
        store.touch()
        assert process.wait(timeout=60) == MORE


def open_files(process: subprocess.Popen) -> set[Path]:
    """Return the files that a process has open."""
    with suppress(FileNotFoundError):  # one is closed meanwhile
        return {each.readlink() for each in Path(f"/proc/{process.pid}/fd").iterdir()}
    return set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's
def test_a_store_that_a_server_has_just_created_stays(tmp_path, monkeypatch):
    import mlflow

    store, inodes, theirs = tmp_path / "mlflow.db", [], mlflow.MlflowClient

    class Client(mlflow.MlflowClient):
        """While it creates one store, a server creates the other one."""

        def search_experiments(self, **options):
            theirs(f"sqlite:///{store}").search_experiments(**options)
            inodes.append(store.stat().st_ino)
            return super().search_experiments(**options)

    monkeypatch.setattr(log_to_mlflow, "STORE", store)
    monkeypatch.setattr(log_to_mlflow, "NEW_STORE", tmp_path / "new.db")
    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    log_to_mlflow.check_store()
    assert [store.stat().st_ino] == inodes
    assert not (tmp_path / "new.db").exists()


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
