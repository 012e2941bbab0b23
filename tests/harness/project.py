"""Copies of the project, to which a test adds a data set as a user does."""

import re
import shutil
import subprocess
from pathlib import Path

from utils.files import ROOT


def copy_project(folder: Path) -> Path:
    """Copy the project's files, as they are now, into the folder, and return it.

    What git ignores is left out: data, models, a local Kafka.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.rstrip("\0").split("\0"):
        if (ROOT / name).is_file():  # not deleted since the last commit
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def add_dataset(project: Path, name: str, source: str) -> None:
    """Write utils/datasets/<name>.py, and its line in the list of settings.py if it has none."""
    (project / "utils" / "datasets" / f"{name}.py").write_text(source)
    settings = project / "utils" / "settings.py"
    text = settings.read_text()
    [listed] = re.findall(r"^DATASETS = \(([^)]*)\)", text, re.MULTILINE)
    if f'"{name}"' not in listed:
        names = f'{listed.strip().rstrip(",")}, "{name}"'
        settings.write_text(text.replace(f"({listed})", f"({names})", 1))
