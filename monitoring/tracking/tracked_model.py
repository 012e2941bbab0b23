"""A model as MLflow stores it: files that answer in an environment without this project.

    model = mlflow.pyfunc.load_model("models:/NAME@champion")
    model.predict([{...}])  # -> [{"prediction": 0.0, "probability": 0.07, "model_id": 3}]

predict() takes what a request has in its field `data`, and returns the predictor's replies without
request_id: the same numbers, bit for bit. It does not check what the predictor checks before: a
value of another kind raises an error, or counts as unknown.

The code that a model needs is copied beside it, as a package with the digest of the code in its
name: it meets neither a package `utils` of its user, nor the code of another version in the same
process (MLflow's issue 12377).
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from monitoring.tracking import portable_model
from utils.datasets import dataset
from utils.files import ROOT
from utils.model_store.model import Model

COPIED = (
    "monitoring/tracking/portable_model.py",
    "utils/coded_column.py",
    "utils/feature_encoder.py",
    "utils/metrics.py",
    "utils/datasets/target.py",
    "utils/datasets/targets.py",
)
# What they import, and what MLflow needs to load a model.
LIBRARIES = ("mlflow-skinny", "lightgbm", "msgspec", "numpy", "pandas", "scipy")
# MLflow runs it when it loads the model ("models from code").
ENTRY = '''"""Answers with a model of the package {package}; see its portable_model.py."""

from pathlib import Path
from typing import Any

import mlflow
from {package}.portable_model import PortableModel


class TrackedModel(mlflow.pyfunc.PythonModel):
    """Replies without request_id to what requests have in their field `data`."""

    def load_context(self, context):
        """Read the model."""
        self.model = PortableModel(Path(context.artifacts["model"]))

    def predict(self, model_input: list[dict[str, Any]], params=None) -> list[dict[str, Any]]:
        """Return a reply for each row."""
        return self.model.predict(model_input)


mlflow.models.set_model(TrackedModel())
'''


def save(model: Model, folder: Path) -> Path:
    """Write a model in MLflow's format below the folder, and return where.

    The folder must be empty. ValueError as for portable_model.write().
    """
    import mlflow.pyfunc

    files, code, entry, saved = (folder / n for n in ("files", "code", "answer.py", "model"))
    files.mkdir()
    portable_model.write(model, dataset.target, files)
    package = copy_code(code)
    entry.write_text(ENTRY.format(package=package))
    with _importable(code):
        mlflow.pyfunc.save_model(
            saved,
            python_model=str(entry),
            artifacts={"model": str(files)},
            code_paths=[str(code / package)],
            pip_requirements=[f"{name}=={version(name)}" for name in LIBRARIES if _is_there(name)],
        )
    return saved


def copy_code(folder: Path) -> str:
    """Copy the code that a model needs into a package in the folder; return the package's name."""
    sources = {Path(name).name: _as_package((ROOT / name).read_text()) for name in COPIED}
    digest = hashlib.sha256(repr(sorted(sources.items())).encode()).hexdigest()[:16]
    package = folder / f"pipeline_model_{digest}"
    package.mkdir(parents=True)
    for name, source in sources.items():
        (package / name).write_text(source)
    (package / "__init__.py").touch()
    return package.name


def _as_package(source: str) -> str:
    """Return a module whose imports of the project are those of its own package."""
    return re.sub(r"^from utils\.(?:\w+\.)*(\w+) import", r"from .\1 import", source, flags=re.M)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let MLflow import the code: it runs the entry once when it saves a model."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        shutil.rmtree(folder)


def _is_there(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
