"""Opens everything that shows how the pipeline is doing, on the data of the runs so far.

    python -m tools.ui     # or: make ui, which also installs MLflow's user interface

The monitor's page; MLflow's interface, from .venv-mlflow; and Prometheus and Grafana where they are
installed. Starts Kafka if none is running. Run the pipeline beside it in another terminal, for
Prometheus with METRICS_PORT=9100. Ctrl-C stops what it started. Everything listens on loopback.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

from monitoring.tracking.log_to_mlflow import NAME, STORE
from tools import local_kafka
from tools.demo import kafka, signals_ignored
from utils.console import say, warn
from utils.files import ROOT
from utils.script import command_line, run
from utils.settings import settings

METRICS_PORT = 9100  # of the first script, as monitoring/prometheus/prometheus.yml has it
MLFLOW = ROOT / ".venv-mlflow" / "bin" / "mlflow"
MLFLOW_ADDRESS = "http://127.0.0.1:5000"  # as in monitoring/Procfile
GRAFANA_HOME = Path("/usr/share/grafana")  # of the packages for Linux; or set GRAFANA_HOME


def services() -> dict[str, str]:
    """Return the processes of monitoring/Procfile that can be started, and their addresses."""
    found = {"monitor": f"http://{settings.listen_host}:{settings.monitor_port}"}
    if not MLFLOW.exists():
        warn("MLflow's interface is not installed: make ui installs it in .venv-mlflow.")
    elif settings.mlflow_tracking_uri:
        say("MLFLOW_TRACKING_URI is set: open that server instead.")
    else:
        found["mlflow"] = mlflow_page(STORE)
    for name, port in ("prometheus", 9090), ("grafana", 3000):
        if shutil.which(name):
            found[name] = f"http://127.0.0.1:{port}"
        else:
            say(f"{name.capitalize()} is not installed.")
    return found


def mlflow_page(store: Path) -> str:
    """Return the address of the trainings in MLflow; of its front page before the first one.

    The front page, and that of an experiment, open on what MLflow has for language models.
    """
    query = "SELECT experiment_id FROM experiments WHERE name = ?"
    address = f"{store.as_uri()}?mode=ro"
    with suppress(sqlite3.Error), closing(sqlite3.connect(address, uri=True)) as database:
        for (experiment,) in database.execute(query, (NAME,)):
            return f"{MLFLOW_ADDRESS}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    return MLFLOW_ADDRESS


def environment() -> dict[str, str]:
    """Return what the commands of monitoring/Procfile need."""
    dashboards = ROOT / "monitoring" / "grafana"
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "METRICS_PORT": str(settings.metrics_port or METRICS_PORT),
        "DATA": str(settings.data_dir),
        "MLFLOW": str(MLFLOW),
        "MLFLOW_STORE": f"sqlite:///{STORE}",
        # Without it, the server starts eleven more processes, for jobs that nobody asks for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GRAFANA_HOME": os.environ.get("GRAFANA_HOME", str(GRAFANA_HOME)),
        "DASHBOARDS": str(dashboards),
        "GF_PATHS_PROVISIONING": str(dashboards / "provisioning"),
        "GF_PATHS_DATA": str(settings.data_dir / "grafana"),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_AUTH_ANONYMOUS_ENABLED": "true",  # may look, not change
    }


def main() -> None:
    """Run the services until Ctrl-C."""
    command_line(__doc__, "tools.ui").parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # both clean up as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    found = services()
    for name, address in found.items():
        say(f"{name}: {address}", "bold")
    command = [sys.executable, "-m", "honcho", "start", "-f", "monitoring/Procfile", "-d", "."]
    try:
        with kafka():
            process = subprocess.Popen(
                [*command, *found], cwd=ROOT, env=os.environ | environment(), start_new_session=True
            )
            try:
                process.wait()
            finally:
                with signals_ignored():
                    process.terminate()
                    process.wait()
    except local_kafka.BrokerError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        return
    raise SystemExit("One of them ended; see above.")


if __name__ == "__main__":
    run(main)
