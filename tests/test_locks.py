"""The locks of the images: parts of the one that is tested, and enough for what they are for."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.pipeline import wait_until
from tests.harness.scraping import get
from tools.local_kafka import free_port
from utils.files import ROOT

PINNED = re.compile(r"^([\w.-]+==\S+)(?: ;.*)? \\\n((?:    --hash=.*\n)+)", re.MULTILINE)


def lock(name: str) -> set[tuple[str, ...]]:
    """Return name==version and the hashes of each package of a lock."""
    text = (ROOT / name).read_text()
    found = set(PINNED.findall(text))
    assert len(found) == len(re.findall("^[^ #].*==", text, re.MULTILINE)) > 20
    return found


def requirements(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {line for line in lines if line and not line.startswith(("#", "-r"))}


@pytest.mark.parametrize("name", ["requirements-predictor.lock", "requirements-full.lock"])
def test_a_lock_is_a_part_of_the_one_that_is_tested(name):
    assert lock(name) <= lock("requirements.lock")


def test_the_predictors_requirements_are_those_of_all():
    others = {"requirements.txt", "requirements-monitoring.txt", "requirements-cluster.txt"}
    assert requirements("requirements-predictor.txt") <= set().union(*map(requirements, others))


def test_a_predictor_imports_nothing_that_its_lock_lacks():
    code = """
import re, sys
from importlib.metadata import packages_distributions

locked = re.findall("^([\\w.-]+)==", open("requirements-predictor.lock").read(), re.MULTILINE)
for module, packages in packages_distributions().items():
    if not {re.sub("[-_.]+", "-", name).lower() for name in packages} & {*locked}:
        sys.modules[module] = None  # its import fails
import predictor, monitoring.metrics.endpoint, monitoring.metrics.exposition
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def image(target: str, folder: Path) -> None:
    """Copy into the folder what the Dockerfile copies from the project into this image."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    stage = re.search(rf"^FROM .* AS {target}-build\n((?:.+\n)+)", text, re.MULTILINE)[1]
    for line in re.findall(r"^COPY (.*) /app/\S*$", stage, re.MULTILINE):
        for name in line.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_predictor_answers_in_an_environment_of_its_own(pipeline, tmp_path):
    """With the packages of its lock and the files of its image, and nothing else."""
    project, environment = tmp_path / "app", tmp_path / "venv"
    project.mkdir()
    image("predictor", project)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--require-hashes"]
    subprocess.run([*install, "-r", ROOT / "requirements-predictor.lock"], check=True)

    port = free_port()
    pipeline.project = project
    process = pipeline.start_command(str(python), "predictor.py", METRICS_PORT=str(port))
    pipeline.wait_for_output(process, " answers with model ")
    wait_until(lambda: get(port, "/readyz") == (200, "ok\n"), what="it is ready")
    request_id = pipeline.request()
    assert pipeline.wait_for_replies(1)[0]["request_id"] == request_id
    assert "pipeline_predictor_predictions_total 1" in get(port, "/metrics")[1]
