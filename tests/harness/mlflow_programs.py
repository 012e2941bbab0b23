"""Programs that log to MLflow, die, and use what is logged, each in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

from utils.files import ROOT

# Runs log_to_mlflow once for each word of KILLED_AT, in a process forked from this one, which saves
# the imports. A word is the name of the call to MLflow, or its number, instead of which
# the process is killed; "-": it is not; "late": it has no time. Prints how each one has ended; what
# they print is in the file `said`.
LOG = """
import os, signal, sys
from monitoring.tracking import log_to_mlflow
log_to_mlflow.prepare_environment()
import utils.model_store.model
import mlflow
import mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store
from monitoring.tracking import mlflow_run, mlflow_live, mlflow_aliases

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
        said = os.open(os.environ["DATA_DIR"] + "/said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        log_to_mlflow.BUDGET = -1 if limit == "late" else log_to_mlflow.BUDGET
        log_to_mlflow.main()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), end=" ")
limit = None
"""

# What is in the store, as JSON.
CONTENT = """
import json
client, _ = log_to_mlflow.connect()
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
experiments = [each.experiment_id for each in client.search_experiments()]
runs = [as_dict(run) for run in client.search_runs(experiments)]
versions = [
    {"name": v.name, "version": str(v.version), "tags": v.tags, "run": v.run_id}
    for v in client.search_model_versions()
]
models = {m.name: m.aliases for m in client.search_registered_models()}
models = {name: {n: str(v) for n, v in aliases.items()} for name, aliases in models.items()}
print(json.dumps({"runs": runs, "versions": versions, "models": models}))
"""

# What the predictor replies to the rows in the file ROWS, without request_id, as JSON.
REPLIES = """
import json
from utils.messages import Prediction, encode
from utils.model_store.model import load
from utils.model_store.registry import Registry
model = load(Registry(), int(os.environ["MODEL_ID"]))
answers = model.answers(json.load(open(os.environ["ROWS"])))
replies = [json.loads(encode(Prediction("", *fields))) for fields in answers]
print(json.dumps([{n: v for n, v in each.items() if n != "request_id"} for each in replies]))
"""

# The same, by models of MLflow's registry. Arguments: the store, the rows, the models' URIs.
ELSEWHERE = """
import json, sys
import utils
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
rows = json.load(open(sys.argv[2]))
models = [mlflow.pyfunc.load_model(uri) for uri in sys.argv[3:]]
print(json.dumps([model.predict(rows) for model in models]))
assert utils.MINE and "utils.feature_encoder" not in sys.modules
"""


def python(
    program: str, *arguments: str, project: Path = ROOT, cwd: Path | None = None, **environment: str
) -> str:
    """Run a program in the project, or elsewhere; return what it prints."""
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd or project,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"} | environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def folders(folder: Path) -> dict[str, str]:
    """Return the settings of a pipeline with these folders."""
    paths = {"DATA_DIR": str(folder / "data"), "MODELS_DIR": str(folder / "models")}
    return paths | {"MLFLOW_TRACKING_URI": ""}


def log(folder: Path, *killed_at: str, **settings) -> tuple[list[int], dict]:
    """Log once for each of these words, see LOG; return the exit codes and the store's content."""
    settings = folders(folder) | {"KILLED_AT": " ".join(killed_at)} | settings
    codes, _, content = python(LOG + CONTENT, **settings).partition("{")
    return [int(code) for code in codes.split()], json.loads("{" + content)


def replies(folder: Path, rows: Path, model_id: int, **settings) -> list[dict]:
    """Return what the predictor replies to the rows in this file."""
    settings = folders(folder) | {"ROWS": str(rows), "MODEL_ID": str(model_id)} | settings
    return json.loads(python("import os\n" + REPLIES, **settings))


def replies_elsewhere(folder: Path, rows: Path, *uris: str) -> list[list[dict]]:
    """Return what models of MLflow's registry reply, in a folder with another package `utils`."""
    elsewhere = folder / "elsewhere"
    (elsewhere / "utils").mkdir(parents=True, exist_ok=True)
    (elsewhere / "utils" / "__init__.py").write_text("MINE = True\n")
    store = f"sqlite:///{folder}/data/mlflow.db"
    return json.loads(
        python(ELSEWHERE, store, str(rows), *uris, cwd=elsewhere, PYTHONPATH=str(elsewhere))
    )
