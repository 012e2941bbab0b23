"""utils/datasets/diabetes.py: a number is predicted, from the rows that scikit-learn ships."""

import json
from itertools import islice

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from tests.harness.another_dataset import LOSSES, WIRE, run_with
from utils.datasets.base import DatasetError
from utils.datasets.diabetes import FILE, SEVERE, TEST, dataset

FIRST = {
    "age": 68.0,
    "bmi": 25.7,
    "blood_pressure": 109.0,
    "cholesterol": 233.0,
    "ldl": 112.6,
    "hdl": 35.0,
    "cholesterol_to_hdl": 7.0,
    "log_triglycerides": 6.0568,
    "blood_sugar": 105.0,
    "sex": "2",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the data; tests only read it."""
    folder = tmp_path_factory.mktemp("diabetes")
    assert dataset.prepare(folder) == f"Wrote {FILE} into {folder}."
    return folder


def test_each_of_scikit_learns_patients_is_there_once(folder):
    rows = np.concatenate(
        [
            np.column_stack([frame.astype(float), outcomes])
            for frame, outcomes in (dataset.training(folder), dataset.test(folder))
        ]
    )
    patients, progression = load_diabetes(return_X_y=True, scaled=False)
    order = [name for name in range(10) if name != 1] + [1]  # `sex` is the categorical column
    expected = np.column_stack([patients[:, order], progression])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))


def test_training_and_test_rows_are_alike_and_always_the_same_ones(folder, tmp_path):
    dataset.prepare(tmp_path / "new")
    for read in (dataset.read_training, dataset.read_test):
        assert read(folder).equals(read(tmp_path / "new"))
    training, test = dataset.training(folder)[1], dataset.test(folder)[1]
    assert (len(training), len(test)) == (442 - TEST, TEST)
    error = training.std() * np.sqrt(1 / len(training) + 1 / len(test))
    assert abs(training.mean() - test.mean()) < 2 * error
    assert 0.15 < (test > SEVERE).mean() < 0.4
    assert dataset.test(folder)[0].iloc[0].to_dict() == FIRST


def test_sex_is_a_category_and_all_else_a_number(folder):
    frame, outcomes = dataset.training(folder)
    assert dataset.categorical == ("sex",)
    assert set(frame["sex"]) == {"1", "2"}
    assert not frame.isna().any(axis=None)
    assert outcomes.dtype == np.float64


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "changed"])
def test_a_damaged_or_absent_file_is_refused_and_written_again(folder, tmp_path, damage):
    content = (folder / FILE).read_bytes()
    damaged = {"empty": b"", "cut": content[:-20], "changed": content.replace(b"59.0", b"95.0")}
    if damage in damaged:
        (tmp_path / FILE).write_bytes(damaged[damage])
    with pytest.raises(DatasetError, match=r"diabetes\.csv can't be used .*run python initialize"):
        dataset.training(tmp_path)
    dataset.prepare(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_rows_are_read_without_scikit_learn(folder):
    program = """
import sys
from pathlib import Path
from utils.datasets.diabetes import dataset
print(len(dataset.read_test(Path(sys.argv[1]))), "sklearn" in sys.modules)
"""
    assert run_with("diabetes", program, folder) == f"{TEST} False\n"


def test_visitors_are_the_test_patients_again_and_again(folder):
    visitors = list(islice(dataset.visitors(folder), 2 * TEST))
    assert visitors[0] == FIRST | {"progression": 248.0}
    assert visitors[:TEST] == visitors[TEST:]
    changed = list(islice(dataset.visitors(folder, drift_at=1), 2))
    assert changed[0] == visitors[0]
    assert changed[1] == visitors[1] | {"progression": visitors[1]["progression"] / 2}


def test_a_doctor_can_read_it():
    assert dataset.describe(FIRST) == "68 years, BMI 25.7"
    assert dataset.action(250.4, None) == "see again in a month"
    assert dataset.action(100.0, None) == "see again in a year"


def test_visitors_are_valid_requests(folder, tmp_path):
    path = tmp_path / "visitors.json"
    path.write_text(json.dumps(list(islice(dataset.visitors(folder, 50), TEST))))
    assert run_with("diabetes", WIRE, path) == f"{TEST}\n"


@pytest.mark.slow
def test_a_model_explains_a_part_of_the_variance(folder):
    found = json.loads(run_with("diabetes", LOSSES, folder, 10))
    assert "best possible" not in found  # nobody knows it
    assert found["model"] < 0.65 * found["always the same"]
    assert found["model"] < 1.15 * found["plain LightGBM"]


# Prints R2 of a model for the progression in other units.
UNITS = """
import sys
from pathlib import Path
import numpy as np
from train.fit import fit_model
from train.rows import original_rows
from train.space import START
from utils.datasets import dataset

folder = Path(sys.argv[1])
dataset.prepare(folder)
original, (test, outcomes) = original_rows(folder), dataset.test(folder)
std = original.outcomes.std()
for factor, shift in ((1, 0), (1e-8, 0), (1e10, 0), (1, 1.7e12), (1 / std, 100)):
    tuning = {"model_id": 1, "hyper": "hyperopt", "max_evals": 2, "known_points": [START]}
    model = fit_model(original.frame, original.outcomes * factor + shift, **tuning)
    print(dataset.target.figures(outcomes * factor + shift, model.predict(test))["r2"])
"""


@pytest.mark.slow
def test_the_unit_of_a_number_does_not_matter(tmp_path):
    found = [float(line) for line in run_with("diabetes", UNITS, tmp_path).split()]
    assert len(found) == 5
    assert found == pytest.approx([found[0]] * 5, abs=0.02)
    assert found[0] > 0.3
