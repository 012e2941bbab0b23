"""Diabetes: predict, as a number, how far the disease of a patient has progressed a year later.

442 patients of Efron, Hastie, Johnstone, Tibshirani: "Least Angle Regression", Annals of
Statistics, 2004. The data ship with scikit-learn, which names the blood serum measurements s1 to
s6.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.datasets.base import Categorical, Dataset, Numeric
from utils.datasets.shipped import read_verified
from utils.datasets.targets import Label, Number
from utils.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd

FILE = "diabetes.csv"
SHA256 = "67ef37d29eb3ae978f67f8c3dd994d9b7d0f36efab28253c0abcd423841f1e9c"
TEST = 100  # patients that no model is trained on
SEVERE = 200  # a quarter of the patients have more


class Diabetes(Dataset):
    """342 original rows; the 100 test rows are the visitors."""

    # In scikit-learn's order. `sex` is 1 or 2; the source does not say which is which.
    columns = (
        Numeric("age"),
        Categorical("sex"),
        Numeric("bmi"),
        Numeric("blood_pressure"),
        Numeric("cholesterol"),
        Numeric("ldl"),
        Numeric("hdl"),
        Numeric("cholesterol_to_hdl"),
        Numeric("log_triglycerides"),
        Numeric("blood_sugar"),
    )
    target = Number("progression")
    files = (FILE,)
    test_rows = f"{TEST} other patients"

    def prepare(self, folder: Path) -> str:
        """Write scikit-learn's data into the folder as CSV, so that a training reads it quickly."""
        from sklearn.datasets import load_diabetes

        patients, progression = load_diabetes(return_X_y=True, scaled=False)
        rows = np.column_stack([patients, progression]).tolist()
        names = [*(column.name for column in self.columns), self.target.name]
        content = "".join(",".join(map(str, row)) + "\n" for row in (names, *rows)).encode()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / FILE, content)
        read_verified(folder / FILE, SHA256)  # scikit-learn could have other rows one day
        return f"Wrote {FILE} into {folder}."

    def read_training(self, folder: Path) -> "pd.DataFrame":
        """Return the rows of 342 patients."""
        return _read_shuffled(folder)[TEST:]

    def read_test(self, folder: Path) -> "pd.DataFrame":
        """Return the rows of the other 100 patients."""
        return _read_shuffled(folder)[:TEST]

    def describe(self, data: dict) -> str:
        """Return age and body mass index."""
        return f"{data['age']:g} years, BMI {data['bmi']:g}"

    def action(self, prediction: Label, probability: float | None) -> str:
        """Return when the patient is asked to come again."""
        return "see again in a month" if prediction > SEVERE else "see again in a year"


def _read_shuffled(folder: Path) -> "pd.DataFrame":
    """Return all rows, always in the same random order."""
    import pandas as pd

    content = io.BytesIO(read_verified(folder / FILE, SHA256))
    rows = pd.read_csv(content, converters={"sex": lambda text: text.removesuffix(".0")})
    # PCG64's raw output is the same in every version of NumPy (NEP 19), which permutation() is not.
    return rows.iloc[np.random.PCG64(1).random_raw(len(rows)).argsort()].reset_index(drop=True)


dataset = Diabetes()
