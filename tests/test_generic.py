"""What is about one data set is in its file: the rest of the product does not name it."""

import re
import subprocess

import pytest

from utils.files import ROOT

# All of the default data set: its name, and what none of its words means elsewhere.
TELLING = re.compile(
    r"adult|income|50k|\bUCI\b|census|workclass|fnlwgt|education_num|marital_status|occupation"
    r"|capital_(gain|loss)|hours_per_week|native_country|\bgender\b",
    re.IGNORECASE,
)
PRODUCT = ("*.py", "utils", "train", "monitoring", "tools", "Makefile", "Procfile")
THE_LIST = re.compile(r"^DATASETS = \(.*?\)$", re.MULTILINE | re.DOTALL)  # in utils/settings.py


def product_files() -> list[str]:
    """Return the product's files, but for those of the data sets."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    command += [f":(glob){name}" if "*" in name else name for name in PRODUCT]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    datasets = {f"utils/datasets/{name}.py" for name in settings_list()}
    return [name for name in listed.stdout.split() if name not in datasets]


def settings_list() -> list[str]:
    [listed] = THE_LIST.findall((ROOT / "utils" / "settings.py").read_text())
    return re.findall(r'"(\w+)"', listed)


def telling_lines(text: str) -> list[str]:
    return [line for line in THE_LIST.sub("", text).splitlines() if TELLING.search(line)]


def test_no_file_of_the_product_is_about_one_data_set():
    files = product_files()
    assert {"predictor.py", "utils/messages.py", "train/judge.py", "Makefile"} <= {*files}
    assert {
        name: lines
        for name in files
        if (ROOT / name).is_file() and (lines := telling_lines((ROOT / name).read_text()))
    } == {}


@pytest.mark.parametrize(
    "line",
    [
        "    rows = dataset.read(ADULT)",
        "# Found on adult.data alone.",
        'offer = label == ">50K."',
        "    data: the capital_gain of a person",
        "gender = 1",
    ],
)
def test_a_line_about_one_data_set_is_found(line):
    assert telling_lines(f"import os\n{line}\n") == [line]


def test_other_words_are_not_found():
    assert not telling_lines('incoming = {"trace", "engender"}')
    assert not telling_lines('DATASETS = (\n    "adult",\n    "shop",\n)\n')
