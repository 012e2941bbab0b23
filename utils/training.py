"""The trainer's side of one training: start the child, look after it, publish what it made."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from train.retrain import ERROR_FILE
from utils import model_store
from utils.files import sync_folder
from utils.settings import ROOT, settings

ATTEMPT = ".attempt-"  # folders below models/ in which children write


class Training:
    """A running training child; it writes into a folder named by its attempt."""

    def __init__(
        self, model_id: int, covers: int, *, store: Path, hyper: str, max_evals: int,
        timeout: float,
    ) -> None:  # fmt: skip
        self.model_id = model_id
        self.covers = covers
        self._models = settings.models_dir
        self._folder = self._models / f"{ATTEMPT}{model_id}"
        self._folder.mkdir(mode=0o700)
        arguments = {
            "store": store, "data": settings.data_dir, "models": self._models,
            "folder": self._folder, "model-id": model_id,
            "hyper": hyper, "max-evals": max_evals, "timeout": timeout,
            "threads": max((os.cpu_count() or 1) - 1, 1),  # predicting needs one
            "window": settings.train_window, "promote": settings.promote,
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
        """True when the child has ended, well or not."""
        return self._child.poll() is not None

    def failure(self) -> str:
        """Return why the child made no model, or "" if it did; only after it has ended."""
        if self._child.returncode == 0:
            return ""
        with suppress(OSError):
            if reason := (self._folder / ERROR_FILE).read_text():
                return reason
        return f"the training process ended with exit code {self._child.returncode}"

    def publish(self) -> None:
        """Move the model, then its card, to where predictors find them; may be repeated."""
        model = model_store.model_path(self._models, self.model_id)
        for target in (model, model.with_suffix(".json")):
            source = self._folder / target.name
            if source.exists():
                source.replace(target)
            sync_folder(self._models)

    def close(self) -> None:
        """End the child if it still runs and remove its folder."""
        self._child.kill()
        self._child.wait()
        self._child.stdin.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def remove_leftovers(models: Path) -> None:
    """Remove what a killed trainer left: the folders of attempts, and models without a card."""
    for folder in models.glob(f"{ATTEMPT}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for temporary in (*models.glob(".champion.json.*"), *models.glob(".model_*")):
        temporary.unlink(missing_ok=True)
    for model in models.glob("model_*.p"):
        if not model.with_suffix(".json").exists():
            model.unlink(missing_ok=True)
