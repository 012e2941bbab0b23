"""UCI Adult: does a person earn more than 50K a year? All that is about this data set is here.

See utils/datasets/base.py for what the rest of the pipeline uses of it.
"""

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.datasets.base import read_verified, unpack_shipped

if TYPE_CHECKING:  # the predictor imports this file and needs no pandas
    import pandas as pd

# The columns of UCI's files, in their order and with the tutorial's names.
COLUMNS = (  # noqa: SIM905 - a list of them takes one line each
    "age workclass fnlwgt education education_num marital_status occupation relationship race "
    "gender capital_gain capital_loss hours_per_week native_country income_bracket"
).split()
TARGET = "income_bracket"
DROPPED = "education_num"  # says the same as education
NUMERIC_COLUMNS = ("age", "fnlwgt", "capital_gain", "capital_loss", "hours_per_week")
CATEGORICAL_COLUMNS = tuple(
    name for name in COLUMNS if name not in (*NUMERIC_COLUMNS, TARGET, DROPPED)
)
CROSSED_COLUMNS = (("education", "occupation"), ("native_country", "occupation"))

POSITIVE_LABEL, NEGATIVE_LABEL = ">50K", "<=50K"
LABELS = {POSITIVE_LABEL: 1.0, NEGATIVE_LABEL: 0.0}  # what a label means
LABELS |= {f"{label}.": outcome for label, outcome in LABELS.items()}  # UCI's test file has the "."

TRAINING_FILE, TEST_FILE = "adult.data", "adult.test"
SHA256 = {
    TRAINING_FILE: "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
    TEST_FILE: "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
}


def outcome_of(label: str) -> float:
    """Return 1.0 or 0.0 for a label, also with UCI's blanks or "."; ValueError for all else."""
    try:
        return LABELS[label.strip()]
    except (KeyError, AttributeError):
        expected = f"expected {POSITIVE_LABEL} or {NEGATIVE_LABEL}"
        raise ValueError(f"{TARGET}: {expected}, got {repr(label)[:80]}") from None


def with_opposite_outcome(row: dict) -> dict:
    """Return a row whose outcome is the opposite: what the sample app sends after a drift."""
    high = outcome_of(row[TARGET]) == LABELS[POSITIVE_LABEL]
    return row | {TARGET: NEGATIVE_LABEL if high else POSITIVE_LABEL}


def describe(row: dict) -> str:
    """Return a row in a few words, for people who watch requests go by."""
    return f"{row['age']}, {row['occupation']}, {row['education']}"


def fetch(folder: Path) -> str:
    """Make sure that the folder holds UCI's two files, byte for byte; return what was done."""
    return unpack_shipped(folder, SHA256)


def read_training(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features of adult.data, numeric columns first, and the outcomes, 0.0 or 1.0."""
    return _read_frame(folder, TRAINING_FILE)


def read_test(folder: Path) -> tuple["pd.DataFrame", np.ndarray]:
    """Return the features and the outcomes of adult.test."""
    return _read_frame(folder, TEST_FILE)


def _read_frame(folder: Path, name: str) -> tuple["pd.DataFrame", np.ndarray]:
    import pandas as pd

    # na_filter=False: "?" and whatever else looks like a missing value is an ordinary category.
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
    """Return the verified file, to be read from its first row on."""
    lines = io.StringIO(read_verified(folder / name, SHA256[name]).decode("ascii"))
    if name == TEST_FILE:
        lines.readline()  # "|1x3 Cross validator"
    return lines
