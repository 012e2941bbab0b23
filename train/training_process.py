"""The trainer's side of one training: start the child, watch it, publish what it made."""

import shutil
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress

from train.retrain import CARD, ERROR, MODEL
from utils.files import ROOT
from utils.model_store.card import decode_card
from utils.model_store.registry import Registry
from utils.settings import settings

ATTEMPT = "attempt-"  # folders below DATA_DIR in which children write


class TrainingProcess:
    """A running training child; it writes into a folder named by its attempt.

    The child reads its settings from the environment, as every script does.
    """

    def __init__(self, model_id: int, covers: int, tuning: Namespace) -> None:
        self.model_id, self.covers = model_id, covers
        self._folder = settings.data_dir / f"{ATTEMPT}{model_id}"
        self._folder.mkdir(mode=0o700)
        arguments = {
            "folder": self._folder, "model-id": model_id, "hyper": tuning.hyper,
            "max-evals": tuning.max_evals, "timeout": tuning.timeout,
        }  # fmt: skip
        command = [sys.executable, "-m", "train.retrain"]
        for name, value in arguments.items():
            command += [f"--{name}", str(value)]
        # The child ends when this pipe does. A session of its own keeps Ctrl-C away from it: the
        # trainer decides.
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True
        )

    def has_ended(self) -> bool:
        """Return True when the child has ended, whether it succeeded or not."""
        return self._child.poll() is not None

    def failure(self) -> str:
        """Return why the child made no model, or "" if it did; only after it has ended."""
        if self._child.returncode == 0:
            return ""
        with suppress(OSError):
            if reason := (self._folder / ERROR).read_text():
                return reason
        return f"the training process ended with exit code {self._child.returncode}"

    def publish(self, registry: Registry) -> None:
        """Put the model that the child made into the registry; may be repeated."""
        card = decode_card((self._folder / CARD).read_bytes())
        registry.publish(card, (self._folder / MODEL).read_bytes())

    def close(self) -> None:
        """End the child if it still runs and remove its folder."""
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_attempts() -> None:
    """Remove the folders that the children of a killed trainer left."""
    for folder in settings.data_dir.glob(f"{ATTEMPT}*"):
        shutil.rmtree(folder, ignore_errors=True)
