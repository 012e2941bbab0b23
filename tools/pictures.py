"""Makes the screenshots of docs/ again, each from a run of its own kind.

    python -m tools.pictures                       # all of them: a quarter of an hour
    python -m tools.pictures --only page mlflow

page            the monitor's page near the end of a demo
mlflow          a training of that demo in MLflow; `make ui` installs its interface
drift           the page after all outcomes have changed, in python -m bench.drift
drift-recovery  its curves and models in the same run, when a new model has learned that

Needs Chromium. The runs have a Kafka, data and models of their own. The two plots are written by
what measures them: docs/generations.svg by `make generations`, docs/years.svg by
`python -m bench.years`.
"""

import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from tools import local_kafka
from tools.kafka_probe import free_port, listens, until
from tools.ui import MLFLOW
from utils.console import say
from utils.files import ROOT
from utils.script import command_line, run

PICTURES = ("page", "mlflow", "drift", "drift-recovery")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PAGE = {"viewport": {"width": 1400, "height": 1200}, "device_scale_factor": 0.75}
MLFLOW_PAGE = {"viewport": {"width": 1700, "height": 1300}}
MARGIN = 8  # pixels above and below a part of the page
ANSWERS = 190  # of 200 in a demo
OUTCOMES = 250  # of a new model: enough for a curve
# At full rate all requests may be answered before the model that has learned from them is there.
SLOWER = ("--requests", "24000", "--interval", "0.01")
TIMEOUT = 1_800  # seconds for a run
OF_TRAINING = "workflowType=machine_learning"  # else it shows what it has for language models
CLOSE_ASSISTANT = '[data-component-id="mlflow.assistant.chat_panel.close"]'
LOADED = ("learning_curve", "learning_rate", "Registered models")  # what MLflow has to show


class Source:
    """A running program with a web page.

    address : of the page; wait_for() reads the figures of the monitor's.
    """

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.address, self._process = f"http://127.0.0.1:{port}", process
        self._wait_until(lambda: listens(f"127.0.0.1:{port}"))

    def wait_for(self, seen: Callable[[dict], bool]) -> None:
        """Return when the monitor's snapshot is as wanted; SystemExit if the program has ended."""
        self._wait_until(lambda: bool(found := self._snapshot()) and seen(found))

    def _snapshot(self) -> dict:
        """Return the monitor's snapshot; {} while it does not answer, at its end for example."""
        with (
            suppress(OSError, HTTPException),
            urlopen(f"{self.address}/snapshot.json", timeout=10) as answer,  # noqa: S310 (http)
        ):
            return json.load(answer)
        return {}

    def _has_ended(self) -> bool:
        return self._process.poll() is not None

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        seen = until(lambda: self._has_ended() or condition(), TIMEOUT)
        if not seen or self._has_ended():
            raise SystemExit("The program ended, or took too long: no picture of it.")


@contextmanager
def started(
    *command: str, port: int, environment: Mapping[str, str], **options
) -> Iterator[tuple[Source, subprocess.Popen]]:
    """Run a program that serves a page until the block ends; the page is there."""
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **options)
    is_open = False
    try:
        source = Source(process, port)
        is_open = True
        yield source, process
    finally:
        # One whose page has gone ends by itself, and a signal would interrupt its cleaning up.
        if not is_open or listens(f"127.0.0.1:{port}"):
            process.terminate()
        process.wait()


@contextmanager
def browser() -> Iterator[Callable]:
    """Run Chromium until the block ends; the value is a function that makes a tab of a size."""
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise SystemExit("Needs playwright: pip install -r requirements-dev.txt") from None
    if CHROMIUM is None:
        raise SystemExit("Needs Chromium: install it, so that PATH has it")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield lambda size: chromium.new_page(**size, color_scheme="light")
        chromium.close()


def save(tab, path: Path, begin: str = "body", end: str = "body") -> None:
    """Save the page from the element `begin` to the element `end`, in 256 colors."""
    from PIL import Image

    top = tab.locator(begin).first.bounding_box()["y"]
    last = tab.locator(end).first.bounding_box()
    clip = {"x": 0, "y": max(top - MARGIN, 0), "width": tab.viewport_size["width"]}
    clip["height"] = last["y"] + last["height"] + MARGIN - clip["y"]
    shot = tab.screenshot(full_page=True, clip=clip)
    # MAXCOVERAGE keeps the few pixels of a color that is nowhere else, such as those of a sign.
    colors = Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    colors.save(path, optimize=True)
    say(f"Wrote {path}.", "bold")


def show(tab, address: str, *until_seen: str) -> None:
    """Open a page, and return when it shows these elements."""
    tab.goto(address)
    for selector in until_seen:
        tab.locator(selector).first.wait_for()


def of_demo(open_tab: Callable, chosen: Namespace) -> None:
    """Run a demo; make the pictures of its page and of a training in MLflow."""
    if "mlflow" in chosen.only and not MLFLOW.exists():
        raise SystemExit("MLflow's interface is not installed: make ui installs it.")
    host, port = f"localhost:{free_port()}", free_port()
    with tempfile.TemporaryDirectory(prefix="pictures-") as name:
        folder = Path(name)
        own = {
            "KAFKA_HOST": host,
            "MONITOR_PORT": str(port),
            "DATASET": "",
            "TOPIC_PREFIX": "",
        }
        own |= {"DATA_DIR": str(folder / "data"), "MODELS_DIR": str(folder / "models")}
        local_kafka.start(host, folder / "kafka")
        try:
            # Late outcomes, so that something flows on every arrow of the page.
            demo = (sys.executable, "-m", "tools.demo", "--outcome-delay", "5")
            with started(*demo, port=port, environment=own) as (source, process):
                tab = open_tab(PAGE)
                show(tab, source.address, "body:not(.stale)")
                source.wait_for(lambda seen: seen["flow"]["predictions"] >= ANSWERS)
                if "page" in chosen.only:
                    save(tab, chosen.out / "page.png", "header", "#curves")
                tab.close()
                if "mlflow" in chosen.only:
                    process.wait()
        finally:
            local_kafka.stop(folder / "kafka")
        if "mlflow" in chosen.only:
            log = (sys.executable, "-m", "monitoring.tracking.log_to_mlflow")
            subprocess.run(log, cwd=ROOT, env=os.environ | own, check=True)
            of_mlflow(open_tab, folder / "data" / "mlflow.db", chosen.out / "mlflow.png")


def of_mlflow(open_tab: Callable, store: Path, path: Path) -> None:
    """Make the picture of the second training in MLflow's store."""
    with closing(sqlite3.connect(store)) as database:
        query = "SELECT experiment_id, run_uuid FROM runs WHERE name = 'model 2'"
        experiment, run_id = database.execute(query).fetchone()
    port = free_port()
    server = (str(MLFLOW), "server", "--backend-store-uri", f"sqlite:///{store}", "--workers", "1")
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    address = ("--host", "127.0.0.1", "--port", str(port))
    with started(*server, *address, port=port, environment=quiet) as (source, _):
        tab = open_tab(MLFLOW_PAGE)
        page = f"{source.address}/#/experiments/{experiment}/runs/{run_id}"
        show(tab, f"{page}?{OF_TRAINING}", *(f"text={each}" for each in LOADED))
        if (assistant := tab.locator(CLOSE_ASSISTANT)).count():
            assistant.first.click()
        save(tab, path)


def of_drift(open_tab: Callable, chosen: Namespace) -> None:
    """Run a drift; make the pictures of the page while it is bad, and when it is good again."""
    port = free_port()
    drift = (sys.executable, "-m", "bench.drift", *SLOWER)
    own = {"MONITOR_PORT": str(port), "DATASET": ""}  # the default one
    with started(*drift, port=port, environment=own) as (source, _):
        tab = open_tab(PAGE)
        show(tab, source.address, "body:not(.stale)")
        if "drift" in chosen.only:
            source.wait_for(is_useless)
            save(tab, chosen.out / "drift.png", "header", "#curves")
        if "drift-recovery" in chosen.only:
            source.wait_for(has_recovered)
            rows = "#models tbody tr:nth-child(3)"
            save(tab, chosen.out / "drift-recovery.png", "#curves-title", rows)


def is_useless(seen: dict) -> bool:
    """Return True when the champion has been worse than the mean outcome for half a minute."""
    alerts = [each for each in seen["alerts"] if each["rule"] == "useless" and not each.get("end")]
    return any(seen["time"] - alert["since"] > 30 for alert in alerts)


def has_recovered(seen: dict) -> bool:
    """Return True when another model than the first one has answered for a while."""
    champions = [each for each in seen["models"] if each["model_id"] == seen["champion"] != 0]
    return any(each["outcomes"] >= OUTCOMES for each in champions)


def main() -> None:
    """Make the chosen pictures."""
    parser = command_line(__doc__, "tools.pictures")
    parser.add_argument("--only", nargs="+", choices=PICTURES, default=PICTURES, metavar="PICTURE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder (docs/)")
    chosen = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # both clean up as Ctrl-C does
        signal.signal(number, signal.default_int_handler)
    with browser() as open_tab:
        if {"page", "mlflow"} & set(chosen.only):
            of_demo(open_tab, chosen)
        if {"drift", "drift-recovery"} & set(chosen.only):
            of_drift(open_tab, chosen)
    say("The plots: make generations, and python -m bench.years.")


if __name__ == "__main__":
    run(main)
