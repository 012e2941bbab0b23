"""Trainings, models and live figures in MLflow: a real SQLite store, and processes that die."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.files import ROOT

pytest.importorskip("mlflow", reason="requirements-monitoring.txt is not installed")

# Runs monitoring.log_to_mlflow once for each word of KILLED_AT, in a process forked from this one,
# which saves the imports. A word is the name of the call to MLflow, or its number, instead of which
# the process is killed; "-": it is not. Prints how each one has ended.
PROGRAM = """
import os, signal, sys
from monitoring import log_to_mlflow
log_to_mlflow.prepare_environment()
import utils.model_store.model
import mlflow
from monitoring import mlflow_run, mlflow_live, mlflow_aliases

class Client(mlflow.MlflowClient):
    calls = 0
    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if not name.startswith("_") and callable(found):
            Client.calls += 1
            if limit in (name, str(Client.calls)):
                os.kill(os.getpid(), signal.SIGKILL)
        return found

mlflow.MlflowClient = Client
sys.argv = ["log_to_mlflow"]
for limit in os.environ["KILLED_AT"].split():
    pid = os.fork()
    if not pid:
        log_to_mlflow.main()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""

# What is in a store, as JSON. Argument: the URI.
CONTENT = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
def as_dict(run):
    run_id = run.info.run_id
    history = lambda name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
    files = lambda path: [a.path for a in client.list_artifacts(run_id, path)]
    return {
        "id": run_id, "name": run.info.run_name, "status": run.info.status,
        "tags": run.data.tags, "params": run.data.params,
        "metrics": {name: history(name) for name in run.data.metrics},
        "files": files(None) + files("plots"),
    }
versions = [
    {"name": v.name, "version": str(v.version), "tags": v.tags, "run": v.run_id}
    for v in client.search_model_versions()
]
models = {m.name: m.aliases for m in client.search_registered_models()}
models = {name: {n: str(v) for n, v in aliases.items()} for name, aliases in models.items()}
print(json.dumps({"runs": list(map(as_dict, runs)), "versions": versions, "models": models}))
"""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true"}


def python(code: str, *arguments: str, cwd: Path = ROOT, **environment: str) -> str:
    """Run a program; return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | QUIET | environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def folders(folder: Path) -> dict[str, str]:
    return {"DATA_DIR": str(folder / "data"), "MODELS_DIR": str(folder / "models")}


def log(folder: Path, *killed_at: str, **environment: str) -> list[int]:
    """Log once for each of these words, see PROGRAM; return the exit codes."""
    environment |= folders(folder) | {"KILLED_AT": " ".join(killed_at or "-")}
    return [int(code) for code in python(PROGRAM, **environment).split()]


def content(folder: Path) -> dict:
    return json.loads(python(CONTENT, f"sqlite:///{folder}/data/mlflow.db"))


@pytest.fixture(scope="module")
def logged(first_model, tmp_path_factory) -> Path:
    """A pipeline whose first model is logged, by a process that was killed again and again."""
    folder = tmp_path_factory.mktemp("logged")
    shutil.copytree(first_model, folder, dirs_exist_ok=True)
    killed_at = ("create_model_version", "set_terminated", "set_registered_model_alias")
    assert log(folder, *killed_at, "-") == [*[-signal.SIGKILL] * 3, 0]
    return folder


def test_a_child_that_is_killed_again_and_again_doubles_nothing(logged):
    found = content(logged)
    assert [run["name"] for run in found["runs"]] == ["trial 1", "model 0"]
    assert {run["status"] for run in found["runs"]} == {"FINISHED"}
    assert [version["version"] for version in found["versions"]] == ["1"]
