"""FeatureTools against scikit-learn's own transformers, and against its own promises."""

import pickle
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, OrdinalEncoder, RobustScaler, StandardScaler

from utils.datasets import dataset
from utils.feature_tools import FeatureTools
from utils.files import ROOT
from utils.settings import settings

NUMERIC_COLUMNS, CATEGORICAL_COLUMNS = dataset.numeric, dataset.categorical
CROSSED_COLUMNS = (("education", "occupation"), ("native_country", "occupation"))  # the tutorial's
FIRST_CODE = len(NUMERIC_COLUMNS)
ROWS = [
    {"age": 20, "sex": "Male", "job": "?"},
    {"age": 60, "sex": "Female", "job": "Cook"},
    {"age": 40, "sex": "Male", "job": "Cook"},
]
# NumPy warns of a column that is nothing but NaN, and that is all that may happen.
no_range = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(scope="module")
def adult(tmp_path_factory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The features of adult.data and adult.test."""
    folder = tmp_path_factory.mktemp("adult")
    dataset.prepare(folder)
    return dataset.training(folder)[0], dataset.test(folder)[0]


@pytest.fixture
def tools() -> FeatureTools:
    return FeatureTools(["age"], ["sex", "job"], [("sex", "job")]).fit(ROWS)


def adult_tools(scaler: object = None) -> FeatureTools:
    return FeatureTools(NUMERIC_COLUMNS, CATEGORICAL_COLUMNS, CROSSED_COLUMNS, scaler)


def rows_of(frame: pd.DataFrame) -> list[dict]:
    return frame.to_dict("records")


def assert_same_bits(one: np.ndarray, other: np.ndarray) -> None:
    """Equal to the last bit, where every NaN counts as the same one."""
    assert one.dtype == other.dtype == np.float64
    bits = [np.where(np.isnan(array), np.nan, array).view(np.int64) for array in (one, other)]
    np.testing.assert_array_equal(*bits)


# The oracle: scikit-learn's encoder and pandas' index of tuples


def oracle_codes(train: pd.Series, values: pd.Series) -> np.ndarray:
    encoder = OrdinalEncoder(
        handle_unknown="use_encoded_value", unknown_value=train.nunique(), dtype=np.float64
    )
    return encoder.fit(train.to_frame()).transform(values.to_frame())[:, 0]


def oracle_crossed(train: pd.DataFrame, values: pd.DataFrame) -> np.ndarray:
    seen = pd.MultiIndex.from_frame(train).unique().sort_values()
    found = seen.get_indexer(pd.MultiIndex.from_frame(values))
    return np.where(found < 0, len(seen), found)


@pytest.mark.parametrize("part", [0, 1], ids=["adult.data", "adult.test"])
def test_codes_are_those_of_scikit_learn(adult, part):
    train, values = adult[0], adult[part]
    ours = adult_tools().fit(train).transform(values)[:, FIRST_CODE:]
    expected = [oracle_codes(train[name], values[name]) for name in CATEGORICAL_COLUMNS]
    expected += [oracle_crossed(train[[*pair]], values[[*pair]]) for pair in CROSSED_COLUMNS]
    np.testing.assert_array_equal(ours, np.column_stack(expected))


def test_unseen_categories_and_pairs_get_scikit_learns_code_for_unknown(adult):
    train, test = adult[0][:300], adult[1]  # little is known, so much is unknown
    tools = adult_tools().fit(train)
    codes = tools.transform(test)[:, FIRST_CODE:]
    expected = [oracle_codes(train[name], test[name]) for name in CATEGORICAL_COLUMNS]
    expected += [oracle_crossed(train[[*pair]], test[[*pair]]) for pair in CROSSED_COLUMNS]
    np.testing.assert_array_equal(codes, np.column_stack(expected))
    sizes = [len(each) for each in tools.categories_.values()]
    sizes += [len(each) for each in tools.crossed_categories_.values()]
    assert (codes.max(axis=0) <= sizes).all()
    assert (codes == sizes).any(axis=0).sum() >= 4
    assert codes.min() == 0


@pytest.mark.parametrize(
    "scaler",
    [
        None,
        MinMaxScaler((-1, 3)),
        MinMaxScaler(clip=True),
        MinMaxScaler(copy=False),
        StandardScaler(),
        StandardScaler(with_mean=False),
        RobustScaler(),
        make_pipeline(RobustScaler(), MinMaxScaler()),
    ],
    ids=str,
)
def test_numbers_are_scaled_to_the_bit_as_scikit_learn_does(adult, scaler):
    train, test = adult[0][:2000], adult[1]  # some of test is outside of the fitted range
    expected = clone(scaler or MinMaxScaler()).fit(train[[*NUMERIC_COLUMNS]].to_numpy(float))
    scaled = expected.transform(test[[*NUMERIC_COLUMNS]].to_numpy(float))
    tools = adult_tools(scaler).fit(train)
    assert_same_bits(tools.transform(test)[:, :FIRST_CODE], scaled)
    by_row = np.vstack([tools.transform([row]) for row in rows_of(test[:300])])
    assert_same_bits(by_row[:, :FIRST_CODE], scaled[:300])


def test_numbers_outside_of_the_fitted_range_are_not_clipped(tools):
    assert tools.transform([ROWS[0] | {"age": 100}, ROWS[0] | {"age": 0}])[:, 0].tolist() == [
        2.0,
        -0.5,
    ]


def test_rows_one_by_one_all_at_once_and_the_frame_give_the_same_bits(adult):
    train, test = adult
    tools = adult_tools().fit(train)
    for frame in (train, test):
        rows, expected = rows_of(frame), tools.transform(frame)
        assert_same_bits(tools.transform(rows), expected)
        assert_same_bits(np.vstack([tools.transform([row]) for row in rows]), expected)
    assert_same_bits(adult_tools().fit(rows_of(train)).transform(test), tools.transform(test))


@pytest.mark.parametrize("scaler", [None, StandardScaler()], ids=str)
def test_output_is_a_c_contiguous_float64_matrix(tools, scaler):
    tools = tools.set_params(scaler=scaler).fit(ROWS)
    for rows in (ROWS, ROWS[:1], [], pd.DataFrame(ROWS)[:0]):
        matrix = tools.transform(rows)
        assert matrix.shape == (len(rows), 4)
        assert matrix.dtype == np.float64
        assert matrix.flags.c_contiguous


# Random rows against a slow, plain restatement of the rules

CATEGORIES = st.sampled_from(["a", "b", "c", "a-b", "b-c", "-", "", "?", "?", 1, 2.5, None, np.nan])
NUMBERS = st.one_of(st.none(), st.just(np.nan), st.integers(-9999, 9999).map(lambda n: n / 7))
LISTS = st.lists(
    st.fixed_dictionaries({"n": NUMBERS, "m": NUMBERS, "x": CATEGORIES, "y": CATEGORIES}),
    min_size=1,
    max_size=12,
)


def plain(value: object, column: list) -> object:
    """The category that a value stands for; None for no known one."""
    if value is None or value != value:
        value = "?"
    return value if value in column else None


def plain_code(value: object, known: Sequence) -> int:
    ranked = sorted(set(known), key=lambda v: [(isinstance(p, str), p) for p in v])
    return ranked.index(value) if value in ranked else len(ranked)


def plain_codes(train: list[dict], row: dict, names: tuple[str, ...]) -> int:
    columns = {name: [each[name] for each in train] for name in names}
    known = [tuple(plain(each[name], columns[name]) for name in names) for each in train]
    value = tuple(plain(row[name], columns[name]) for name in names)
    return plain_code(value, [each for each in known if None not in each])


@no_range
@given(LISTS, LISTS)
def test_random_rows_follow_the_rules(train, rows):
    tools = FeatureTools(["n", "m"], ["x", "y"], [("x", "y"), ("y", "x", "y")]).fit(train)
    matrix = tools.transform(rows)
    for row, codes in zip(rows, matrix[:, 2:].tolist(), strict=True):
        crossings = [("x",), ("y",), ("x", "y"), ("y", "x", "y")]
        assert codes == [plain_codes(train, row, names) for names in crossings]
    numbers = [np.array([[row["n"], row["m"]] for row in some], float) for some in (train, rows)]
    assert_same_bits(matrix[:, :2], MinMaxScaler().fit(numbers[0]).transform(numbers[1]))


@no_range
@given(LISTS, LISTS)
def test_random_rows_and_their_frame_give_the_same_bits(train, rows):
    tools = FeatureTools(["n", "m"], ["x", "y"], [("x", "y")]).fit(train)
    expected = tools.transform(rows)
    for frame in (pd.DataFrame(rows), pd.DataFrame(rows, dtype=object)):
        assert_same_bits(tools.transform(frame), expected)
    assert_same_bits(np.vstack([tools.transform([row]) for row in rows]), expected)
    refitted = clone(tools).fit(pd.DataFrame(train))
    assert_same_bits(refitted.transform(rows), expected)


# Bounds on what is learned


def in_reverse(codes: np.ndarray, size: int) -> np.ndarray:
    """Put the categories in reverse order, and unknown before all."""
    return np.append(np.arange(size, 0, -1), 0)


def test_another_order_changes_codes_and_no_combination(adult):
    train, test = adult
    plain, reversed_ = adult_tools().fit(train), adult_tools().fit(train, order=in_reverse)
    for name, categories in plain.categories_.items():
        assert reversed_.categories_[name] == categories[::-1]
    for parts, pairs in plain.crossed_categories_.items():
        assert set(reversed_.crossed_categories_[parts]) == set(pairs)
    assert_same_bits(reversed_.transform(rows_of(test)), reversed_.transform(test))
    expected, found = plain.transform(test), reversed_.transform(test)
    for column, name in enumerate(CATEGORICAL_COLUMNS, FIRST_CODE):
        assert (found[:, column] == len(plain.categories_[name]) - expected[:, column]).all()
    for column, pairs in enumerate(
        plain.crossed_categories_.values(), FIRST_CODE + len(CATEGORICAL_COLUMNS)
    ):
        unknown = [matrix[:, column] == len(pairs) for matrix in (expected, found)]
        assert np.array_equal(*unknown)


def test_of_too_many_categories_the_most_frequent_are_kept():
    jobs = ["Cook"] * 3 + ["Baker"] * 2 + ["Clerk"] * 2 + ["Actor"]
    rows = [{"age": 20, "sex": "Male", "job": job} for job in jobs]
    tools = FeatureTools(["age"], ["sex", "job"], max_categories=2).fit(rows)
    assert tools.categories_["job"] == ["Baker", "Cook"]  # of equally frequent ones by name
    assert tools.fit(rows[::-1]).categories_["job"] == ["Baker", "Cook"]
    codes = tools.transform([rows[0] | {"job": job} for job in ("Baker", "Cook", "Clerk", "Actor")])
    assert codes[:, 2].tolist() == [0, 1, 2, 2]


def test_of_too_many_pairs_the_most_frequent_are_kept():
    pairs = [("a", "x")] * 3 + [("b", "y")] * 2 + [("b", "x")] * 2 + [("a", "y")]
    rows = [{"left": left, "right": right} for left, right in pairs]
    tools = FeatureTools([], ["left", "right"], [("left", "right")], max_categories=2)
    for some in (rows, rows[::-1]):
        learned = tools.fit(some)
        assert learned.crossed_categories_ == {("left", "right"): [("a", "x"), ("b", "x")]}
    assert tools.transform(rows)[:, 2].tolist() == [0, 0, 0, 2, 2, 1, 1, 2]


@no_range
@given(LISTS, LISTS, st.integers(1, 3))
def test_bounded_categories_give_the_same_bits_row_by_row_and_in_any_order(train, rows, most):
    tools = FeatureTools(["n", "m"], ["x", "y"], [("x", "y")], max_categories=most).fit(train)
    expected = tools.transform(pd.DataFrame(rows))
    assert_same_bits(np.vstack([tools.transform([row]) for row in rows]), expected)
    assert_same_bits(clone(tools).fit(pd.DataFrame(train[::-1])).transform(rows), expected)
    learned = [*tools.categories_.values(), *tools.crossed_categories_.values()]
    assert max(map(len, learned)) <= most
    assert (expected[:, 2:] <= [len(each) for each in learned]).all()


def test_the_bound_changes_nothing_for_the_original_data(adult):
    train, test = adult
    bounded = adult_tools().set_params(max_categories=settings.max_categories).fit(train)
    assert_same_bits(bounded.transform(test), adult_tools().fit(train).transform(test))
    assert bounded.categories_ == adult_tools().fit(train).categories_


def test_the_bound_has_to_be_a_positive_number():
    with pytest.raises(ValueError, match="max_categories"):
        FeatureTools(["age"], ["sex"], max_categories=0).fit(ROWS)


# The rules one by one


def test_a_pair_is_not_its_joined_string():
    rows = [{"x": "a-b", "y": "c"}, {"x": "a", "y": "c"}, {"x": "a-b", "y": "b-c"}]
    tools = FeatureTools([], ["x", "y"], [("x", "y")]).fit(rows)
    assert tools.transform([{"x": "a", "y": "b-c"}])[0, 2] == 3  # unknown, though joined the same
    assert tools.crossed_categories_ == {("x", "y"): [("a", "c"), ("a-b", "b-c"), ("a-b", "c")]}


@pytest.mark.parametrize("null", [None, float("nan"), np.nan, np.float64("nan")], ids=repr)
def test_null_is_the_question_mark_where_that_is_known(tools, null):
    assert tools.transform([{"age": 20, "sex": null, "job": null}])[0].tolist() == [0, 2, 0, 3]
    assert tools.transform([ROWS[0] | {"job": null}])[0].tolist() == [0, 1, 0, 1]
    assert np.isnan(tools.transform([ROWS[0] | {"age": null}])[0, 0])


def test_null_is_no_category_of_its_own():
    tools = FeatureTools([], ["x", "y"], [("x", "y")])
    tools.fit([{"x": None, "y": "a"}, {"x": np.nan, "y": None}, {"x": "b", "y": "a"}])
    assert tools.categories_ == {"x": ["b"], "y": ["a"]}
    assert tools.crossed_categories_ == {("x", "y"): [("b", "a")]}
    assert tools.transform([{"x": None, "y": "a"}]).tolist() == [[1, 0, 1]]


def test_pandas_own_nulls_are_nulls(tools):
    frame = pd.DataFrame(ROWS).convert_dtypes()
    frame.loc[0] = pd.NA
    assert str(frame["age"].dtype) == "Int64"
    assert_same_bits(tools.transform(frame), tools.transform([dict.fromkeys(ROWS[0]), *ROWS[1:]]))


def test_categories_that_are_no_strings_are_compared_by_value():
    tools = FeatureTools([], ["x"]).fit([{"x": 10}, {"x": 9}, {"x": "10"}, {"x": 0.5}])
    assert tools.categories_ == {"x": [0.5, 9, 10, "10"]}
    frame = pd.DataFrame({"x": [9, 10]}).astype("category")
    assert tools.transform(frame)[:, 0].tolist() == [1, 2]
    assert tools.transform([{"x": 9.0}, {"x": np.int64(10)}, {"x": "9"}])[:, 0].tolist() == [
        1,
        2,
        4,
    ]


def test_transform_learns_nothing(tools):
    before = pickle.dumps(tools)
    tools.transform([{"age": 1, "sex": "new", "job": np.nan}] * 3)
    assert pickle.dumps(tools) == before


def test_other_fields_are_ignored(tools):
    row = {"income_bracket": ">50K", **ROWS[1], "extra": [1]}
    assert_same_bits(tools.transform([row]), tools.transform([ROWS[1]]))
    assert_same_bits(tools.transform(pd.DataFrame([row])), tools.transform([ROWS[1]]))


# What is refused


@pytest.mark.parametrize("field", ["age", "sex", "job"])
def test_an_absent_field_is_named(tools, field):
    row = {name: value for name, value in ROWS[0].items() if name != field}
    with pytest.raises(ValueError, match=rf"^{field}\[1\]: expected this field"):
        tools.transform([ROWS[0], row])
    with pytest.raises(ValueError, match=f"^{field}: the column is absent"):
        tools.transform(pd.DataFrame([row]))
    with pytest.raises(ValueError, match=f"^{field}: the column is absent"):
        clone(tools).fit(pd.DataFrame([row]))


@pytest.mark.parametrize("value", ["old", [1], {}, np.inf, -np.inf, 10**400, 1j, ""], ids=repr)
def test_what_is_no_finite_number_is_named(tools, value):
    rows = [ROWS[0], ROWS[1] | {"age": value}]
    for some in (rows, pd.DataFrame(rows, dtype=object)):
        with pytest.raises(ValueError, match=r"^age\[1\]: expected a finite number, got .{2,80}$"):
            tools.transform(some)
        with pytest.raises(ValueError, match=r"^age\[1\]: expected a finite number"):
            clone(tools).fit(some)


def test_numbers_that_are_all_lists_are_refused_too(tools):
    with pytest.raises(ValueError, match=r"^age\[0\]: expected a finite number, got \[20\]"):
        tools.transform([row | {"age": [row["age"]]} for row in ROWS])


@pytest.mark.parametrize("value", [["Male"], {"a": 1}, {"Male"}], ids=repr)
def test_what_can_be_no_category_is_named(tools, value):
    rows = [ROWS[0], ROWS[1] | {"sex": value}]
    for method in (tools.transform, clone(tools).fit):
        with pytest.raises(ValueError, match=r"^sex\[1\]: expected a category, got "):
            method(rows)


def test_a_value_nested_deep_or_very_long_is_cut(tools):
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, "x" * 10**6):
        with pytest.raises(ValueError, match=r"^age\[0\]: .{20,140}$"):
            tools.transform([ROWS[0] | {"age": value}])


@pytest.mark.parametrize("rows", [{"age": 1}, ["row"], [None], [[1, 2, 3]]], ids=repr)
def test_what_are_no_rows_is_refused(tools, rows):
    with pytest.raises(ValueError, match="age.*expected this field"):
        tools.transform(rows)


def test_fit_needs_rows_columns_and_known_crossings(tools):
    for rows in ([], pd.DataFrame(ROWS)[:0]):
        with pytest.raises(ValueError, match="one row"):
            clone(tools).fit(rows)
    with pytest.raises(ValueError, match="one column"):
        FeatureTools([], []).fit(ROWS)
    with pytest.raises(ValueError, match="crossed_columns.*'age'"):
        FeatureTools(["age"], ["sex"], [("sex", "age")]).fit(ROWS)


# scikit-learn's contract


def test_init_only_stores_and_fit_changes_no_parameter():
    parameters = {
        "numeric_columns": ["age"],
        "categorical_columns": ["sex", "job"],
        "crossed_columns": [["sex", "job"]],
        "scaler": StandardScaler(),
    }
    tools = FeatureTools(**parameters)
    before = pickle.dumps(parameters)
    assert tools.fit(ROWS, [0, 1, 0]) is tools
    assert all(tools.get_params(deep=False)[name] is value for name, value in parameters.items())
    assert pickle.dumps(parameters) == before  # the scaler was cloned: it is not fitted
    assert tools.set_params(scaler__with_mean=False).scaler.with_mean is False


def test_a_clone_is_not_fitted(tools):
    fresh = clone(tools)
    assert fresh.get_params() == tools.get_params()
    for method in (lambda: fresh.transform(ROWS), fresh.get_feature_names_out):
        with pytest.raises(NotFittedError):
            method()
    assert_same_bits(fresh.fit_transform(ROWS), tools.transform(ROWS))


def test_refitting_forgets(tools):
    others = [{"age": 1, "sex": "x", "job": "y"}, {"age": 3, "sex": "z", "job": "y"}]
    fresh = clone(tools).fit(ROWS)
    assert_same_bits(
        tools.fit(others).transform(others), clone(tools).fit(others).transform(others)
    )
    assert pickle.dumps(tools.fit(ROWS)) == pickle.dumps(fresh)


def test_parameters_set_after_fit_count_from_the_next_fit_on(tools):
    expected = tools.transform(ROWS)
    tools.set_params(numeric_columns=[], categorical_columns=["job"], crossed_columns=[])
    assert_same_bits(tools.transform(ROWS), expected)
    assert tools.fit(ROWS).transform(ROWS).tolist() == [[0], [1], [1]]


def test_it_tells_its_columns(tools):
    assert tools.n_features_in_ == 3
    assert tools.feature_names_in_.tolist() == ["age", "sex", "job"]
    assert tools.get_feature_names_out().tolist() == ["age", "sex", "job", "sex_job"]
    assert tools.categorical_indices_ == [1, 2, 3]
    assert tools.categories_ == {"sex": ["Female", "Male"], "job": ["?", "Cook"]}
    pairs = [("Female", "Cook"), ("Male", "?"), ("Male", "Cook")]
    assert tools.crossed_categories_ == {("sex", "job"): pairs}


def test_scikit_learn_can_make_it_return_a_frame(tools):
    frame = tools.set_output(transform="pandas").transform(pd.DataFrame(ROWS, index=[7, 8, 9]))
    assert list(frame.columns) == ["age", "sex", "job", "sex_job"]
    assert list(frame.index) == [7, 8, 9]


def test_a_pickle_is_small_and_gives_the_same_bits(adult):
    tools = adult_tools().fit(adult[0])
    content = pickle.dumps(tools)
    assert len(content) < 20_000
    assert_same_bits(pickle.loads(content).transform(adult[1]), tools.transform(adult[1]))  # noqa: S301


@pytest.mark.parametrize(
    ("numeric", "categorical", "expected"),
    [(["age"], [], [[0], [1], [0.5]]), ([], ["sex"], [[1], [0], [1]])],
    ids=["numeric only", "categorical only"],
)
def test_one_kind_of_columns_is_enough(numeric, categorical, expected):
    tools = FeatureTools(numeric, categorical).fit(ROWS)
    assert tools.transform(ROWS).tolist() == expected
    assert tools.transform([]).shape == (0, 1)


@no_range
@pytest.mark.parametrize("scaler", [MinMaxScaler(), StandardScaler(), RobustScaler()], ids=str)
def test_columns_without_a_range_do_not_crash(scaler):
    rows = [{"nothing": None, "same": 7, "x": None}] * 3
    tools = FeatureTools(["nothing", "same"], ["x"], [("x", "x")], scaler).fit(rows)
    matrix = tools.transform([*rows, {"nothing": 1, "same": 7, "x": "new"}])
    assert np.isnan(matrix[:, 0]).all()
    assert (matrix[:, 1:] == 0).all()


def test_rows_are_transformed_without_pandas():
    program = f"""
import sys
class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)
sys.meta_path.insert(0, NoPandas())
from utils.datasets import dataset
from utils.feature_tools import FeatureTools
rows = {ROWS}
print(FeatureTools(["age"], ["sex", "job"], [("sex", "job")]).fit(rows).transform(rows).tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "[[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0], [0.5, 1.0, 1.0, 2.0]]\n"


def test_the_examples_in_the_docstrings_work():
    import doctest

    from utils import feature_tools

    result = doctest.testmod(feature_tools)
    assert result.attempted > 0
    assert result.failed == 0
