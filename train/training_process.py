"""The trainer's side of one training: start the child, watch it, publish the model it made."""

import resource
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress

from train.retrain import ERROR
from train.store.observations import Observations
from utils.files import ROOT
from utils.model_store.registry import ModelError, Registry
from utils.process import lower_priority
from utils.settings import settings
from utils.telemetry import telemetry

ATTEMPT = "attempt-"  # the names of the folders below DATA_DIR in which children write


class TrainingProcess:
    """A running training child, which writes into a folder of its own.

    It reads its settings from the environment, as every script does.
    """

    def __init__(self, model_id: int, requests_covered: int, tuning: Namespace) -> None:
        self.model_id, self.requests_covered = model_id, requests_covered
        self._folder = settings.data_dir / f"{ATTEMPT}{model_id}"
        self._folder.mkdir(mode=0o700)
        arguments = {
            "folder": self._folder, "model-id": model_id, "hyper": tuning.hyper,
            "max-evals": tuning.max_evals, "timeout": tuning.timeout, "spark": tuning.spark,
        }  # fmt: skip
        command = [sys.executable, "-m", "train.retrain"]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        # The child ends when this pipe is closed, so it never outlives the trainer. In a session of
        # its own it does not get the terminal's Ctrl-C: the trainer decides when it ends.
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )
        lower_priority(self._child.pid)
        numbers = telemetry.trainer
        numbers.trainings_started += 1
        numbers.training_running, numbers.training_started_timestamp_seconds = 1, time.time()

    def has_ended(self) -> bool:
        """Return True if the child has ended, with or without a model."""
        return self._child.poll() is not None

    def failure(self) -> str:
        """Return why the child made no model, or "" if it made one; call it after the end."""
        if self._child.returncode == 0:
            return self._damage()
        with suppress(OSError):
            if reason := (self._folder / ERROR).read_text():
                return reason
        return f"the training process ended with exit code {self._child.returncode}"

    def _damage(self) -> str:
        result = Registry(self._folder)
        try:
            result.content(result.card(self.model_id))
        except ModelError as error:
            return str(error)
        return ""

    def publish(self, registry: Registry, store: Observations) -> None:
        """Copy the child's model into the registry; may be repeated.

        SystemExit if somebody else has published a model of this id: the training is abandoned, so
        that the next start does not take that model for its own.
        """
        result = Registry(self._folder)
        try:
            card = result.card(self.model_id)
            registry.publish(card, result.content(card))
        except ModelError as error:
            store.abandon_training()
            raise SystemExit(str(error)) from None

    def close(self) -> None:
        """Kill the child if it is running, and remove its folder."""
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._note_ended()

    def _note_ended(self) -> None:
        numbers, ended = telemetry.trainer, time.time()
        numbers.training_running, numbers.training_ended_timestamp_seconds = 0, ended
        took = ended - numbers.training_started_timestamp_seconds
        numbers.training_duration_seconds = max(took, 0.0)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        numbers.training_cpu_seconds = used.ru_utime + used.ru_stime


def remove_attempts() -> None:
    """Remove the folders of children whose trainer was killed."""
    for folder in settings.data_dir.glob(f"{ATTEMPT}[0-9]*"):
        shutil.rmtree(folder, ignore_errors=True)
