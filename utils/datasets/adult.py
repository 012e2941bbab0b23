"""UCI Adult: predict whether a person earns more than 50K a year.

Everything specific to this data set is in this module. Its interface is described in
utils/datasets/base.py.
"""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.datasets.base import read_verified, unpack_shipped

if TYPE_CHECKING:  # pandas takes long to import, and the predictor does not need it
    import pandas as pd

# The columns of UCI's files, in their order, with the tutorial's names.
COLUMNS = (  # noqa: SIM905 - a list would take a line each
    "age workclass fnlwgt education education_num marital_status occupation relationship race "
    "gender capital_gain capital_loss hours_per_week native_country income_bracket"
).split()
TARGET = "income_bracket"
DROPPED = "education_num"  # a numeric code of education
NUMERIC_COLUMNS = ("age", "fnlwgt", "capital_gain", "capital_loss", "hours_per_week")
CATEGORICAL_COLUMNS = tuple(
    name for name in COLUMNS if name not in (*NUMERIC_COLUMNS, TARGET, DROPPED)
)
# The tutorial crosses education and native_country with occupation. Without these two columns the
# log loss is 0.0008 lower, and trees combine columns anyway.
CROSSED_COLUMNS: tuple[tuple[str, ...], ...] = ()

POSITIVE_LABEL, NEGATIVE_LABEL = ">50K", "<=50K"
LABELS = {POSITIVE_LABEL: 1.0, NEGATIVE_LABEL: 0.0}
LABELS |= {f"{label}.": outcome for label, outcome in LABELS.items()}  # as in UCI's test file

TRAINING_FILE, TEST_FILE = "adult.data", "adult.test"
SHA256 = {
    TRAINING_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}


def outcome_of(label: str) -> float:
    """Return 1.0 or 0.0 for a label, with or without UCI's blanks and "."; ValueError otherwise."""
    try:
        return LABELS[label.strip()]
    except (KeyError, AttributeError):
        expected = f"expected {POSITIVE_LABEL} or {NEGATIVE_LABEL}"
        raise ValueError(f"{TARGET}: {expected}, got {repr(label)[:80]}") from None


def with_opposite_outcome(row: dict) -> dict:
    """Return a copy of the row with the opposite label; the sample app sends it after the drift."""
    high = outcome_of(row[TARGET]) == LABELS[POSITIVE_LABEL]
    return row | {TARGET: NEGATIVE_LABEL if high else POSITIVE_LABEL}


def describe(row: dict) -> str:
    """Return a short text that identifies a row to a reader."""
    return f"{row['age']}, {row['occupation']}"


def fetch(folder: Path) -> str:
    """Unpack UCI's two files into the folder, unless they are there; return what was done."""
    return unpack_shipped(folder, SHA256)


def read_training(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features of adult.data, numeric columns first, and the outcomes, 0.0 or 1.0."""
    return _read_frame(folder, TRAINING_FILE)


def read_test(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features and the outcomes of adult.test."""
    return _read_frame(folder, TEST_FILE)


def _read_frame(folder: Path, name: str) -> tuple["pd.DataFrame", np.ndarray]:
    import pandas as pd

    # na_filter=False: "?", and any text that pandas takes for a missing value, is a category.
    frame = pd.read_csv(_lines(folder, name), names=COLUMNS, skipinitialspace=True, na_filter=False)
    outcomes = np.array([outcome_of(label) for label in frame[TARGET]])
    return frame[[*NUMERIC_COLUMNS, *CATEGORICAL_COLUMNS]], outcomes


def read_test_requests(folder: Path) -> list[dict]:
    """Return the rows of adult.test as the sample app sends them, each with its label."""
    rows = csv.DictReader(_lines(folder, TEST_FILE), COLUMNS, skipinitialspace=True)
    return [
        {
            name: int(value) if name in NUMERIC_COLUMNS else value
            for name, value in row.items()
            if name != DROPPED
        }
        for row in rows
    ]


def _lines(folder: Path, name: str) -> io.StringIO:
    """Return the verified file, positioned at its first row."""
    lines = io.StringIO(read_verified(folder / name, SHA256[name]).decode("ascii"))
    if name == TEST_FILE:
        lines.readline()  # "|1x3 Cross validator"
    return lines
