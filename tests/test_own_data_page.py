"""docs/own_data.md, step by step: in a copy of the project that lacks the data set of the page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.project import copy_project
from utils.files import ROOT
from utils.settings import DATASETS, settings

PAGE = (ROOT / "docs" / "own_data.md").read_text()
FILE = Path("utils/datasets/diabetes.py")
ABOVE = "class Diabetes(Dataset):\n    ...  # as above\n"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
COLUMNS, LAST_LINE, ROWS, FUNCTION, WORDS = [each.removeprefix(ABOVE) for each in BLOCKS]
OUTPUTS = re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def file_of(*blocks: str) -> str:
    return "\n".join(blocks)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project without the data set that the page makes."""
    folder = copy_project(tmp_path_factory.mktemp("page"))
    (folder / FILE).unlink()
    change_list(folder, [name for name in DATASETS if name != "diabetes"])
    return folder


def change_list(project: Path, names: list[str]) -> None:
    path = project / "utils" / "settings.py"
    listed = "DATASETS = (" + ", ".join(f'"{name}"' for name in names) + ")"
    path.write_text(
        re.sub(r"^DATASETS = \(.*?\)$", listed, path.read_text(), flags=re.MULTILINE | re.DOTALL)
    )


def run(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=os.environ | {"DATASET": "diabetes"} | environment,
        capture_output=True,
        text=True,
    )


def test_the_page_makes_the_file_of_the_project():
    made = file_of(COLUMNS, ROWS, WORDS, FUNCTION, LAST_LINE)
    without_docstring = re.sub(r'^""".*?"""\n', "", (ROOT / FILE).read_text(), flags=re.DOTALL)
    expected = [line for line in without_docstring.splitlines() if line]
    assert [line for line in made.splitlines() if line][1:] == expected
    assert "diabetes" in DATASETS


@pytest.mark.slow
def test_the_smallest_data_set_makes_a_model(project):
    change_list(project, ["churn"])
    page = (ROOT / "docs" / "own_csv.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (project / "utils" / "datasets" / "churn.py").write_text(code)
    rows = (f"{n % 60 + 18},{'ab'[n % 2]},{('no', 'yes')[n % 5 < 2]}" for n in range(500))
    (project / "churn.csv").write_text("\n".join(["age,plan,left", *rows]))
    made = run(project, "initialize.py", DATASET="churn")
    assert made.returncode == 0, made.stderr
    assert "Saved model 0, the champion" in made.stdout
    change_list(project, [name for name in DATASETS if name != "diabetes"])


@pytest.mark.slow
def test_each_step_does_what_the_page_says(project, broker):
    unknown = run(project, "initialize.py")
    assert unknown.stderr.startswith("DATASET: input should be 'adult' or 'shop'")

    change_list(project, list(DATASETS))
    (project / FILE).write_text(file_of(COLUMNS, LAST_LINE))
    lacking = run(project, "initialize.py")
    assert (lacking.returncode, lacking.stderr) == (1, OUTPUTS[0])

    (project / FILE).write_text(file_of(COLUMNS, ROWS, FUNCTION, LAST_LINE))
    made = run(project, "initialize.py")
    assert made.returncode == 0, made.stderr
    figures = re.findall(r"│(.*)│", made.stdout)
    assert figures == re.findall(r"│(.*)│", OUTPUTS[1])
    assert (project / "models" / "diabetes" / "model_0.json").exists()

    (project / FILE).write_text(file_of(COLUMNS, ROWS, WORDS, FUNCTION, LAST_LINE))
    demo = ("-m", "tools.demo", "--messages", "26", "--interval", "0.05")
    shown = run(project, *demo, KAFKA_HOST=settings.kafka_host)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.search(r"\d+ years, BMI [\d.]+ -> [\d.]+, see again in a ", shown.stdout)
    assert re.search(r"trainings +│ 1 completed", shown.stdout)  # PROMOTE=always in tests


@pytest.mark.parametrize("sentence", OUTPUTS[-1].splitlines())
def test_each_sentence_about_a_mistake_is_what_a_script_says(project, sentence):
    mistakes = {
        "the target": ('Numeric("age"),', 'Numeric("age"), Numeric("progression"),'),
        "the column age": ('Numeric("age"),', 'Numeric("age"), Numeric("age"),'),
        "crossed": ("    target =", '    crossed = (("sex", "age"),)\n    target ='),
        "read_training(): the column sex": ('text.removesuffix(".0")', "int(float(text))"),
        "read_training(), row 0: progression": (
            '{"sex"',
            '{"progression": lambda _: "high", "sex"',
        ),
    }
    change_list(project, list(DATASETS))
    [change] = [change for start, change in mistakes.items() if f": {start}" in sentence]
    source = file_of(COLUMNS, ROWS, WORDS, FUNCTION, LAST_LINE)
    (project / FILE).write_text(source.replace(*change, 1))
    ended = run(project, "initialize.py", "--again")
    assert (ended.returncode, ended.stderr) == (1, f"{sentence}\n")
