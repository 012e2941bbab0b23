"""Learning survives a change of the data set's columns: no row of the store stops a training."""

from contextlib import closing

import numpy as np
import pandas as pd
import pytest

from train.encoded_rows import EncodedRows, batches
from train.fit import fit_model
from train.row_hash import hash_frame
from train.rows import original_rows, training_data
from train.store.columns import column_of, columns_of, decode_columns, encode_columns
from train.store.observations import Observations
from train.store.snapshot import read_snapshot
from train.train_hyperopt import LGBOptimizer
from utils.datasets import dataset
from utils.datasets.adult import read_test_requests
from utils.datasets.base import Categorical, Column, Numeric
from utils.feature_tools import FeatureTools
from utils.messages import encode


@pytest.fixture
def folder(tmp_path):
    dataset.prepare(tmp_path)
    return tmp_path


@pytest.fixture
def observed(folder):
    """Observations of the data set as it is, some of them in segments."""
    rows = read_test_requests(folder)[:1_000]
    with closing(Observations(folder / "observations.db", segment_rows=300)) as store:
        outcomes = [dataset.target.outcome_of(row[dataset.target.name]) for row in rows]
        known = zip(map(str, range(1_000)), map(encode, rows), outcomes, strict=True)
        store.add(known, 1, {})
    return rows


def change(monkeypatch, folder, columns: list[Column], **changed) -> None:
    """Give the data set other columns; changed : name -> function of a row of the original data."""
    rows = dataset.read_training(folder)
    for name, of in changed.items():
        rows[name] = rows.apply(of, axis=1)
    monkeypatch.setattr(dataset, "read_training", lambda _: rows)
    monkeypatch.setattr(dataset, "columns", tuple(columns))
    for name in ("names", "numeric", "categorical", "defaults"):  # they are cached
        monkeypatch.delitem(dataset.__dict__, name)


def retrain(folder):
    snapshot = read_snapshot(folder / "observations.db")
    rows = training_data(folder, read_snapshot(folder / "observations.db"), window=0)
    tuning = {"model_id": 1, "hyper": "hyperopt", "max_evals": 1, "num_threads": 1}
    model = fit_model(rows.training.frame, rows.training.outcomes, **tuning)
    assert np.isfinite(model.predict(rows.judge.frame)).all()
    assert snapshot.observations == 1_000
    assert len(rows.training) + rows.held_out == 32_561 + 1_000
    return snapshot


@pytest.mark.slow
def test_nothing_is_filled_while_the_columns_stay(folder, observed):
    snapshot = retrain(folder)
    assert snapshot.filled == {}
    names = list(snapshot.frame)
    expected = [{name: row[name] for name in names} for row in observed]
    assert snapshot.frame.to_dict("records") == expected


def test_coded_columns_and_batches_give_the_same_numbers_bit_for_bit(folder, monkeypatch):
    crossed = [("education", "occupation")]
    columns = dataset.numeric, dataset.categorical, crossed
    plain, coded = dataset.training(folder)[0], original_rows(folder).frame
    expected = FeatureTools(*columns).fit(plain).transform(plain)
    tools = FeatureTools(*columns).fit(coded)
    monkeypatch.setattr(EncodedRows, "batch_size", 10_000)
    rows = EncodedRows(tools.encoder_, coded)
    assert tools.transform(coded).tobytes() == expected.tobytes()
    assert np.concatenate(list(batches(rows))).tobytes() == expected.tobytes()
    assert rows[20_000].tobytes() == expected[20_000].tobytes()
    names, y = list(tools.get_feature_names_out()), np.arange(len(rows)) % 2
    split = np.arange(1, len(rows)), np.arange(1)
    first, second = (LGBOptimizer(X, y, split, names, num_threads=1) for X in (expected, rows))
    assert first.data_id == second.data_id
    assert first.fit({"num_boost_round": 5}).model_to_string() == (
        second.fit({"num_boost_round": 5}).model_to_string()
    )


def test_a_rows_hash_depends_on_its_values_alone(folder, observed):
    stored = read_snapshot(folder / "observations.db").frame
    assert hash_frame(stored).tolist() == hash_frame(plain_frame(observed)).tolist()
    original = original_rows(folder).frame
    hashes = hash_frame(original)
    assert len(np.unique(hashes)) == len(original.drop_duplicates())
    for changed in (
        original[::-1][::-1],
        original.astype(dict.fromkeys(dataset.numeric, np.float64)),
        original.assign(race=original["race"].cat.reorder_categories(original["race"].unique())),
        original.assign(race=original["race"].cat.add_categories("none of these")),
    ):
        assert hash_frame(changed).tolist() == hashes.tolist()
    zeros = pd.DataFrame(np.zeros((3, 3)))
    assert hash_frame(-zeros).tolist() == hash_frame(zeros).tolist()
    assert hash_frame(original[:1]).tolist() == [6554777298021927377]  # in each version


def plain_frame(rows: list[dict]) -> pd.DataFrame:
    """Return these rows as a frame whose columns have types of their own."""
    frame = pd.DataFrame(rows)[[*dataset.numeric, *dataset.categorical]]
    return frame.astype(dict.fromkeys(dataset.categorical, "category"))


def test_a_null_equals_a_question_mark_among_categories_and_nan_equals_nan():
    def hashes(column: list, dtype: str) -> list[int]:
        return hash_frame(pd.DataFrame({"x": pd.Series(column, dtype=dtype)})).tolist()

    null, mark, other = hashes([None, "?", "a"], "category")
    assert null == mark != other
    assert len(set(hashes([None, np.nan, -np.nan], "float64"))) == 1
    assert hashes([1, 2], "category") == hashes([1.0, 2.0], "category")


def test_a_column_that_is_added_is_null_in_older_observations(folder, observed, monkeypatch):
    columns = [Numeric("age"), Numeric("height"), Categorical("race"), Categorical("town")]
    change(monkeypatch, folder, columns, height=len, town=lambda _: "here")
    snapshot = retrain(folder)
    assert snapshot.filled == {"height": 1_000, "town": 1_000}
    assert snapshot.frame["height"].isna().all()
    assert snapshot.frame["town"].isna().all()
    assert snapshot.frame["age"].tolist() == [row["age"] for row in observed]


def test_an_optional_column_that_is_added_has_its_default_in_older_observations(
    folder, observed, monkeypatch
):
    town, height = Categorical("town", default="here"), Numeric("height", default=170)
    change(monkeypatch, folder, [Numeric("age"), height, town, Categorical("job", default=None)])
    snapshot = retrain(folder)
    assert snapshot.filled == {}  # no column lacks what it needs
    assert set(snapshot.frame["height"]) == {170}
    assert set(snapshot.frame["town"]) == {"here"}
    assert snapshot.frame["job"].isna().all()


def test_an_optional_field_that_some_requests_lack_has_its_default_there(monkeypatch, folder):
    change(monkeypatch, folder, [Numeric("age"), Numeric("height", default=170)])
    rows = [{"age": 1}, {"age": 2, "height": None}, {"age": 3, "height": 180}]
    columns = columns_of(map(encode, rows))
    np.testing.assert_array_equal(columns["height"].array(), [170, np.nan, 180])


def test_a_value_of_another_type_is_null(folder, observed, monkeypatch):
    columns = [Numeric("race"), Categorical("age")]
    change(monkeypatch, folder, columns, race=len, age=lambda row: str(row["age"]))
    snapshot = retrain(folder)
    assert snapshot.filled == {"race": 1_000, "age": 1_000}


@pytest.mark.parametrize("column", [Numeric("age"), Categorical("race")])
def test_one_column_is_enough(folder, observed, monkeypatch, column):
    change(monkeypatch, folder, [column])
    assert retrain(folder).filled == {}


@pytest.mark.parametrize(
    "values",
    [
        [25.0, -1.0, 99999.0, 1e9],
        [0.1, -0.0, 1e300, float(2**31)],
        [1.0, None],
        [None, None],
        ["a", None, "?", "é\0", "a"],
        ["a", 1.5, None],
        [str(n) for n in range(300)],
    ],
)
def test_a_segment_holds_the_same_values(values):
    rows = [encode({"x": value}) for value in values]
    column = decode_columns(encode_columns(columns_of(rows)))["x"]
    assert column == column_of(values)
    array = column.array()
    if column.categories is None:
        expected = np.array(values, dtype=np.float64)
        assert array.astype(np.float64).tobytes() == expected.tobytes()
    else:
        assert [[*column.categories, None][code] for code in array] == values
