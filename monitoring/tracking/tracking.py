"""The monitor's side of logging to MLflow: it starts a child process that does it.

The monitor never imports MLflow and never waits for it: the child (log_to_mlflow.py) has the lowest
priority, is limited in time, and ends with the monitor. When MLflow is away, that is said once, and
tried again after growing pauses.
"""

import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from monitoring.snapshot import Snapshot
from monitoring.tracking import mlflow_live
from monitoring.tracking.address import OFF
from monitoring.tracking.log_to_mlflow import MORE, NOTE
from utils.console import say, warn
from utils.files import ROOT
from utils.model_store.registry import Registry
from utils.process import lower_priority
from utils.settings import settings

SAMPLE_EVERY = 30.0  # seconds between two samples of the live figures
SEND_EVERY = 300.0  # seconds after which they are sent: the child's start takes 2 s of CPU
LIMIT = 600.0  # seconds after which a child is killed; on a busy machine it is slow
PAUSES = (5.0, 600.0)  # seconds between two children: the least, and the longest after failures
OUTPUT = settings.data_dir / "mlflow.log"  # the last child's


class Tracking:
    """Logs trainings and live figures to MLflow, unless it is off or not installed.

    step() is to be called every second.
    """

    def __init__(self) -> None:
        is_installed = find_spec("mlflow") is not None
        self._is_on = is_installed and settings.mlflow_tracking_uri != OFF
        if not is_installed and settings.mlflow_tracking_uri not in ("", OFF):
            install = "pip install -r requirements-monitoring.txt"
            warn(f"MLFLOW_TRACKING_URI is set, but MLflow is not installed: {install}")
        self._registry = Registry()
        self._child: subprocess.Popen | None = None
        self._logged: object = None  # the state of the models that is logged
        self._pause, self._not_before, self._sent = PAUSES[0], 0.0, time.monotonic()
        self._sampled, self._before, self._champion = 0.0, {}, None
        self._has_failed = False

    def step(self, snapshot: Snapshot) -> None:
        """Sample the figures, start the child when there is something to log; never waits."""
        if not self._is_on:
            return
        try:
            if self._child is not None:
                self._watch()
            elif time.monotonic() >= self._not_before and self._is_due():
                self._start()
            self._sample(snapshot)
        except OSError as error:  # the disk is full, or memory is
            self._fail(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """End the child; what it has not logged is logged next time."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child.stdin.close()
            self._child = None

    def _sample(self, snapshot: Snapshot) -> None:
        sample: dict = {"time": snapshot.time}
        is_new = snapshot.champion not in (None, self._champion)
        if is_new and not self._registry.storage.is_away:
            since = self._registry.champion_since()
            if since is not None:
                sample |= {"champion": snapshot.champion, "since": since}
        if time.monotonic() - self._sampled >= SAMPLE_EVERY:
            self._sampled = time.monotonic()
            found = {m.model_id: mlflow_live.figures(m, snapshot) for m in snapshot.models}
            sample["models"] = {n: v for n, v in found.items() if v != self._before.get(n)}
        if "champion" in sample or sample.get("models"):
            mlflow_live.append(sample)
            self._champion = snapshot.champion
            self._before = self._before | sample.get("models", {})

    def _is_due(self) -> bool:
        has_samples = mlflow_live.SAMPLES.exists() or mlflow_live.SENDING.exists()
        is_time = time.monotonic() - self._sent >= SEND_EVERY
        return self._registry.state() != self._logged or (has_samples and is_time)

    def _start(self) -> None:
        mlflow_live.thin_out()
        self._starting, self._sent = self._registry.state(), time.monotonic()
        command = [sys.executable, "-m", "monitoring.tracking.log_to_mlflow", "--child"]
        with open(OUTPUT, "wb") as output:
            # It ends when the pipe is closed, so it never outlives the monitor.
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )
        lower_priority(self._child.pid)

    def _watch(self) -> None:
        code = self._child.poll()
        if code is None and time.monotonic() - self._sent < LIMIT:
            return
        self.close()
        for line in lines(OUTPUT):
            if line.startswith(NOTE):
                warn(line)
        if code == 0:
            self._logged = self._starting
        if code in (0, MORE):
            self._succeed()
        else:
            too_long = f"it took longer than {LIMIT:.0f} s"
            last = (lines(OUTPUT) or [f"exit code {code}"])[-1]
            self._fail(too_long if code is None else last)

    def _succeed(self) -> None:
        if self._has_failed:
            say("MLflow works again: what was missing is logged.", "green")
        self._has_failed, self._pause = False, PAUSES[0]
        self._not_before = time.monotonic() + self._pause

    def _fail(self, why: str) -> None:
        if not self._has_failed:
            warn(f"MLflow can't be used, and what is missing is logged later: {why[:300]}")
        self._has_failed = True
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, PAUSES[1])


def lines(path: Path) -> list[str]:
    """Return the lines of a file that have text, [] if there is no file."""
    with suppress(OSError):
        return [line for line in path.read_text(errors="replace").split("\n") if line.strip()]
    return []
