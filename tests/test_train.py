"""The tuning, with real LightGBM, Hyperopt and Optuna on 2,000 generated rows."""

import io
import json
import logging
import re
import subprocess
import sys

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from train import OPTIMIZERS, optimizer_class
from train.arguments import parse_arguments
from train.cost import decisions_per_row
from train.evaluation import CURVE_POINTS, PATIENCE, PENALTY, is_hopeless, thinned
from train.optimizer import BaseOptimizer
from train.row_hash import hash_frame
from train.space import SPACE
from train.split import number_of_folds, split_rows
from train.train_hyperopt import LGBOptimizer
from train.train_optuna import LGBOptimizer as OptunaOptimizer
from utils.metrics import area_under_curve

NAMES = ["age", "hours", "job", "country"]
JOBS = 6  # the codes of "job" are 0..5; 6 stands for a job never seen
PARAMS = {
    "learning_rate": 0.1,
    "num_leaves": 31,
    "min_child_weight": 1.0,
    "colsample_bytree": 0.8,
    "subsample": 0.8,
    "reg_alpha": 0.05,
    "reg_lambda": 0.05,
}


def make_data(rows: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Return X with two numbers (one of them often missing) and two categories, and y."""
    rng = np.random.default_rng(7)
    age, hours = rng.uniform(17, 90, rows), rng.normal(40, 12, rows)
    job, country = rng.integers(0, JOBS, rows), rng.integers(0, 3, rows)
    score = 0.05 * (age - 50) + 0.04 * (hours - 40) + np.array([-2, 1, 0, 2, -1, 0])[job] - 1.7
    y = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(float)
    hours[rng.random(rows) < 0.2] = np.nan
    return np.column_stack([age, hours, job, country]).astype(np.float64), y


X, Y = make_data()


both = pytest.mark.parametrize("kind", [LGBOptimizer, OptunaOptimizer])


def make_optimizer(kind: type = LGBOptimizer, y: np.ndarray = Y, **settings) -> BaseOptimizer:
    """Return an optimizer of the generated data, on one thread unless told otherwise."""
    known_rows = X[: len(y)]
    parts = split(known_rows, y, settings.get("seed", 1))
    return kind(known_rows, y, parts, NAMES, **{"num_threads": 1, **settings})


def split(X: np.ndarray, y: np.ndarray, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and those to measure on, as fit_model() divides a frame."""
    strata = y.astype(np.int16)
    return split_rows(hash_frame(pd.DataFrame(X)), strata, number_of_folds(strata, 2), seed)


def without_time(trials: list[dict]) -> list[dict]:
    """Return what must repeat of the trials: all but how long they took."""
    return [{key: trial[key] for key in ("params", "loss", "rounds")} for trial in trials]


def trees(booster: lgb.Booster) -> str:
    """Return the model's text without the settings that it was trained with."""
    return booster.model_to_string().split("\nparameters:")[0]


def oracle_params(params: dict, seed: int = 1) -> dict:
    """Return what a trial must hand to LightGBM, spelt out under the main names of its manual."""
    return {
        "objective": "binary",
        "metric": "binary_logloss",
        "learning_rate": params["learning_rate"],
        "num_leaves": params["num_leaves"],
        "min_sum_hessian_in_leaf": params["min_child_weight"],
        "min_data_in_leaf": 5,
        "feature_fraction": params["colsample_bytree"],
        "bagging_fraction": params["subsample"],
        "bagging_freq": 1,
        "lambda_l1": params["reg_alpha"],
        "lambda_l2": params["reg_lambda"],
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }


def oracle_dataset(params: dict) -> lgb.Dataset:
    """Return a Dataset that shares nothing with the optimizer's."""
    return lgb.Dataset(X, Y, feature_name=NAMES, params=params)


@pytest.fixture(scope="module")
def tuned() -> tuple[LGBOptimizer, lgb.Booster]:
    optimizer = make_optimizer()
    return optimizer, optimizer.optimize(5)


# What is tuned is what is fitted


def oracle(params: dict, rounds: int) -> tuple[lgb.Booster, np.ndarray]:
    """Return a booster with so many trees, and the rows that it is measured on."""
    params = oracle_params(params)
    fitted, measured = split(X, Y)
    full = oracle_dataset(params).construct()
    booster = lgb.Booster(params, full.subset(np.sort(fitted)))
    while booster.num_trees() < rounds:
        booster.update()  # adds no tree if the columns drawn for it allow no split
    return booster, measured


def row_losses(probabilities: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return -np.log(np.where(Y[rows] == 1, probabilities, 1 - probabilities))


def curve(params: dict, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss on each held-out row, and the decisions of all trees, after each round."""
    booster, measured = oracle(params, rounds)
    made = range(1, rounds + 1)
    probabilities = np.array([booster.predict(X[measured], num_iteration=n) for n in made])
    losses = row_losses(probabilities, measured)
    after = np.array([decisions_per_row(booster, first_round=n) for n in range(rounds + 1)])
    return losses, after[0] - after[1:]


def test_every_loss_is_that_of_an_independent_evaluation(tuned):
    for trial in tuned[0].trials:
        booster, measured = oracle(trial["params"], trial["rounds"])
        losses = row_losses(booster.predict(X[measured]), measured)
        assert trial["loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_the_rounds_have_the_lowest_penalized_loss():
    trial, _ = make_optimizer().holdout.evaluate(PARAMS)
    rows, costs = curve(PARAMS, trial["rounds"] + PATIENCE)
    penalized = rows.mean(axis=1) + PENALTY * costs
    assert trial["rounds"] == penalized.argmin() + 1 < len(penalized)
    assert trial["penalized_loss"] == pytest.approx(penalized.min(), rel=1e-6)
    assert trial["decisions"] == pytest.approx(costs[penalized.argmin()])


def test_the_booster_is_that_of_an_independent_fit_with_best(tuned):
    optimizer, booster = tuned
    params = oracle_params(optimizer.best)
    rounds = optimizer.best["num_boost_round"]
    assert trees(lgb.train(params, oracle_dataset(params), rounds)) == trees(booster)


def test_the_booster_predicts_calibrated_probabilities(tuned):
    probabilities = tuned[1].predict(X)
    assert "objective=binary" in tuned[1].model_to_string()
    assert probabilities.min() > 0
    assert probabilities.max() < 1
    assert probabilities.mean() == pytest.approx(Y.mean(), abs=0.01)
    assert log_loss(Y, probabilities) < log_loss(Y, np.full(len(Y), Y.mean())) - 0.05


def test_the_area_under_the_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    for rows in (2, 5, 1_000):
        outcomes = np.concatenate([[0, 1], rng.integers(0, 2, rows - 2)])
        probabilities = np.round(rng.random(rows), 2)  # some are equal
        expected = roc_auc_score(outcomes, probabilities)
        assert area_under_curve(outcomes, probabilities) == pytest.approx(expected, abs=1e-12)
    assert area_under_curve(np.zeros(5), rng.random(5)) == 0.5


def test_missing_numbers_and_unknown_categories_are_predicted(tuned):
    rows = np.array([[np.nan, np.nan, 0, 0], [40, 40, JOBS, 99]])
    assert np.isfinite(tuned[1].predict(rows)).all()


def test_the_columns_keep_their_names_and_kinds():
    booster = make_optimizer().fit({**PARAMS, "num_boost_round": 60})
    assert booster.feature_name() == NAMES
    tree_info = [tree["tree_structure"] for tree in booster.dump_model()["tree_info"]]
    kinds = set(re.findall(r"'split_feature': (\d+).*?'decision_type': '(..)'", str(tree_info)))
    assert kinds == {(str(column), "<=") for column in range(4)}  # codes are numbers to it


def loss(optimizer: BaseOptimizer, params: dict = PARAMS) -> float:
    """Return the loss of a trial."""
    return optimizer.holdout.evaluate(params)[0]["loss"]


def test_classes_are_weighed_only_when_asked(tuned):
    plain, weighed = make_optimizer(), make_optimizer(is_unbalance=True)
    sixty = {**PARAMS, "num_boost_round": 60}
    assert plain.fit(sixty).predict(X).mean() == pytest.approx(Y.mean(), abs=0.01)
    assert weighed.fit(sixty).predict(X).mean() > Y.mean() + 0.05
    assert loss(weighed) > loss(plain) + 0.01


def test_subsample_has_an_effect():
    optimizer = make_optimizer()
    half, whole = ({**PARAMS, "subsample": share} for share in (0.5, 1.0))
    assert loss(optimizer, half) != loss(optimizer, whole)
    assert trees(optimizer.fit(half)) != trees(optimizer.fit(whole))


# Rows that repeat


def divided(groups: list[int], y: list[int], folds: int = 5, seed: int = 1) -> tuple:
    """Return the two parts that split_rows() makes of rows in these groups, and checks each."""
    hashes, outcomes = np.array(groups, np.uint64), np.array(y, np.int8)
    parts = split_rows(hashes, outcomes, folds, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(y)))
    assert all(set(outcomes[part]) == {0, 1} for part in parts)
    return parts


def test_equal_rows_are_in_one_part_and_the_seed_decides_which():
    groups, y = np.repeat(np.arange(500), 4), np.tile([1, 0, 0, 0], 500)
    y[1000:] = 0  # of equal rows the outcomes may differ
    fitted, measured = divided(groups, y)
    assert not set(groups[fitted]) & set(groups[measured])
    assert len(measured) == 400
    assert y[measured].sum() == 50
    for again, same in ((divided(groups, y), True), (divided(groups, y, seed=2), False)):
        assert np.array_equal(again[1], measured) == same


@pytest.mark.parametrize(
    ("groups", "y", "measured"),
    [
        pytest.param([7] * 100, [0, 1] * 50, 20, id="all rows equal: single rows are divided"),
        pytest.param([7] * 50 + [8] * 50, [0] * 50 + [1] * 50, 20, id="one group an outcome"),
        pytest.param([1] * 50 + [*range(2, 52)], [0, 1] * 50, 20, id="one group is half of all"),
        pytest.param([1, 2, 3, 4] * 25, [0, 1, 0, 1] * 25, 50, id="two groups an outcome"),
        pytest.param([1, 2, 3, 4], [0, 1, 0, 1], 2, id="four rows"),
    ],
)
def test_few_groups_still_make_two_parts_with_both_outcomes(groups, y, measured):
    for seed in range(20):
        parts = divided(groups, y, seed=seed)
        assert len(parts[1]) == measured


@both
def test_rows_that_are_all_equal_make_a_model_of_their_rate(kind):
    equal = np.repeat(X[:1], 200, axis=0)
    y = np.tile([0.0, 0, 0, 1], 50)
    optimizer = kind(equal, y, split(equal, y), NAMES, num_threads=1)
    assert optimizer.optimize(2).predict(equal) == pytest.approx(np.full(200, 0.25), abs=0.01)


def test_early_stopping_does_not_see_copies_of_the_rows_it_fits():
    """A row and its copies are told apart from others by a column that says nothing else."""
    X_, y = make_data(400)
    X_[:, 0] = np.random.default_rng(1).permutation(400)
    five = np.tile(X_, (5, 1)), np.tile(y, 5)
    once, repeated = (
        LGBOptimizer(*rows, split(*rows), NAMES, num_threads=1).holdout.evaluate(PARAMS)[0]
        for rows in ((X_, y), five)
    )
    assert repeated["rounds"] < 100
    assert repeated["loss"] > once["loss"] / 2


# What optimize leaves behind


def test_best_is_a_trial_with_its_rounds(tuned):
    optimizer, booster = tuned
    best = optimizer.best_trial()
    assert optimizer.best_loss == best["loss"]
    assert optimizer.best == {**best["params"], "num_boost_round": best["rounds"]}
    # A round adds no tree if the columns drawn for it allow no split.
    assert best["rounds"] * 0.9 < booster.num_trees() <= best["rounds"]


@pytest.mark.parametrize(
    ("gain", "known", "best"), [(0.11, True, 1), (0.09, True, 0), (0.09, False, 1)]
)
def test_the_known_point_stays_unless_another_one_is_better_beyond_noise(
    gain, known, best, monkeypatch
):
    optimizer, losses = make_optimizer(), np.tile([0.0, 1.0], 50)  # the standard error is 0.05
    given = iter([0.5, 0.5 - gain])

    def evaluate(params: dict, **limits) -> tuple[dict, np.ndarray]:
        loss = next(given)
        trial = {"params": params, "loss": loss, "penalized_loss": loss, "decisions": 1.0}
        return trial | {"rounds": 1, "seconds": 0.0, "pruned": False}, losses * (0.5 - loss) / gain

    monkeypatch.setattr(optimizer.holdout, "evaluate", evaluate)
    optimizer.optimize(2, known_points=[PARAMS] if known else [])
    assert optimizer.trials[1]["noise"] == pytest.approx(0.05)
    assert optimizer.trials.index(optimizer.best_trial()) == best


def test_trials_and_best_are_plain_json(tuned):
    optimizer = tuned[0]
    search = optimizer.study_attributes()
    for value in (optimizer.best, optimizer.best_loss, optimizer.trials, search):
        assert json.loads(json.dumps(value)) == value
    kinds = {name: type(value) for name, value in optimizer.best.items()}
    integers = {"num_boost_round", "num_leaves"}
    names = {*SPACE, "num_boost_round"}
    assert kinds == {name: int if name in integers else float for name in names}
    assert [sorted(trial) for trial in optimizer.trials] == [
        ["curve", "decisions", "loss", "noise", "params"]
        + ["penalized_loss", "pruned", "rounds", "seconds"]
    ] * 5


def test_a_second_optimize_starts_from_the_beginning():
    optimizer = make_optimizer()
    first, trials = optimizer.optimize(2), without_time(optimizer.trials)
    second = optimizer.optimize(2)
    assert without_time(optimizer.trials) == trials
    assert second.model_to_string() == first.model_to_string()


# The search


def measure_distance(optimizer, monkeypatch) -> None:
    """Let the loss be the distance from a learning rate of 0.1 and a subsample of 0.6."""

    def evaluate(params: dict, **limits) -> tuple[dict, np.ndarray]:
        loss = abs(params["learning_rate"] - 0.1) + abs(params["subsample"] - 0.6)
        kept = {"rounds": 1, "decisions": 1.0, "seconds": 0.0, "pruned": False}
        return {"params": params, "loss": loss, "penalized_loss": loss, **kept}, np.array([loss])

    monkeypatch.setattr(optimizer.holdout, "evaluate", evaluate)


@both
def test_the_search_keeps_its_bounds_and_learns_from_the_losses(kind, monkeypatch):
    optimizer = make_optimizer(kind)
    measure_distance(optimizer, monkeypatch)
    optimizer.optimize(60)
    for trial in optimizer.trials:
        assert set(trial["params"]) == set(SPACE)
        assert all(trial["params"][name] in bounds for name, bounds in SPACE.items())
    losses = [trial["loss"] for trial in optimizer.trials]
    assert len(losses) == 60
    assert np.mean(losses[20:]) < 0.75 * np.mean(losses[:12])  # 12 are random


@both
def test_known_points_come_first_and_those_outside_the_space_not_at_all(kind):
    optimizer = make_optimizer(kind)
    outside = [{**PARAMS, "num_leaves": 10**6}, {"learning_rate": 0.1}, {}]
    second = {**PARAMS, "learning_rate": 0.15}
    as_in_a_card = {**PARAMS, "num_boost_round": 60}
    optimizer.optimize(4, known_points=[*outside, as_in_a_card, PARAMS, second])
    assert [trial["params"] for trial in optimizer.trials[:2]] == [PARAMS, second]
    assert len(optimizer.trials) == 4


@both
def test_one_evaluation_goes_to_the_known_point(kind):
    optimizer = make_optimizer(kind)
    optimizer.optimize(1, known_points=[PARAMS])
    assert [trial["params"] for trial in optimizer.trials] == [PARAMS]


@both
def test_when_time_is_up_the_first_evaluation_is_finished_and_no_other_begins(kind):
    optimizer = make_optimizer(kind)
    points = [{**PARAMS, "learning_rate": rate} for rate in (0.1, 0.09, 0.08)]
    optimizer.optimize(50, timeout=1e-6, known_points=points)
    assert [trial["params"] for trial in optimizer.trials] == [PARAMS]
    assert not optimizer.trials[0]["pruned"]


def test_a_hopeless_trial_is_pruned_and_a_good_one_is_not(tuned):
    optimizer, slow = make_optimizer(), {**PARAMS, "learning_rate": 0.02, "num_leaves": 8}
    to_beat = tuned[0].best_loss - 0.1  # out of reach
    evaluate = optimizer.holdout.evaluate
    pruned, whole = evaluate(slow, to_beat=to_beat)[0], evaluate(slow)[0]
    assert pruned["pruned"]
    assert not whole["pruned"]
    assert pruned["rounds"] < whole["rounds"]
    assert pruned["loss"] > to_beat
    again, _ = evaluate(slow, to_beat=whole["penalized_loss"] + 1e-9)
    assert {**again, "seconds": 0} == {**whole, "seconds": 0}


def test_what_is_hopeless_is_told_from_the_pace_of_the_last_rounds():
    falling = [0.5 - 0.001 * n for n in range(60)]  # 0.4405, and 100 rounds more

    assert not is_hopeless(falling, to_beat=0.3406)
    assert is_hopeless(falling, to_beat=0.3404)
    assert not is_hopeless(falling[:59], to_beat=0.0)  # too early to tell
    assert is_hopeless([0.5] * 60, to_beat=0.4999)


def test_an_evaluation_ends_at_the_deadline():
    trial, _ = make_optimizer().holdout.evaluate(PARAMS, deadline=0)
    assert trial["pruned"]
    assert trial["rounds"] == 1


def test_the_seed_decides_trials_and_model(tuned):
    again, other = make_optimizer(), make_optimizer(seed=2)
    assert again.optimize(5).model_to_string() == tuned[1].model_to_string()
    assert without_time(again.trials) == without_time(tuned[0].trials)
    other.optimize(1)
    assert other.trials[0]["params"] != again.trials[0]["params"]
    assert loss(other) != loss(again)  # other held-out rows too


def test_num_threads_is_honoured_and_does_not_change_the_model(monkeypatch):
    seen = []

    def spy(function):
        def call(params, *args, **kwargs):
            seen.append(params["num_threads"])
            return function(params, *args, **kwargs)

        return call

    monkeypatch.setattr(lgb, "Booster", spy(lgb.Booster))
    monkeypatch.setattr(lgb, "train", spy(lgb.train))
    boosters = [make_optimizer(num_threads=n).optimize(1, known_points=[PARAMS]) for n in (1, 2)]
    assert seen == [1, 1, 2, 2]
    assert "[num_threads: 2]" in boosters[1].model_to_string()
    assert "[deterministic: 1]" in boosters[1].model_to_string()
    assert trees(boosters[0]) == trees(boosters[1])


# What is shown


def test_nothing_is_printed_or_logged_unless_asked(capfd, caplog):
    caplog.set_level(logging.INFO)
    make_optimizer().optimize(1)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_progress_is_one_line_where_stderr_is_no_terminal(capfd):
    optimizer = make_optimizer()
    optimizer.optimize(1, progress=True)
    line = f"tuning: trials 1, best {optimizer.best_loss:.4f}\n"
    assert capfd.readouterr() == ("", line)


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capfd):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    optimizer = make_optimizer()
    optimizer.optimize(2, progress=True)
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert "2/2" in last
    assert f"best {optimizer.best_loss:.4f}" in last
    assert "trials 2" not in last
    assert capfd.readouterr() == ("", "")


# What is refused


@pytest.mark.parametrize("max_evals", [0, -1])
def test_max_evals_below_one_is_refused(max_evals):
    with pytest.raises(ValueError, match=f"^max_evals must be at least 1, got {max_evals}$"):
        make_optimizer().optimize(max_evals)


@pytest.mark.parametrize(
    ("ones", "message"), [(0, "40 of class 0, 0 of class 1"), (1, "39 of class 0, 1 of class 1")]
)
def test_too_few_rows_of_a_class_are_refused(ones, message):
    with pytest.raises(ValueError, match=f"^a model needs at least two rows .* got {message}$"):
        make_optimizer(y=np.array([1.0] * ones + [0.0] * (40 - ones)))


def test_two_rows_of_a_class_make_two_folds():
    y = np.array([1.0, 1.0] + [0.0] * 98)
    assert y[split(X[:100], y)[1]].sum() == 1
    optimizer = make_optimizer(y=y)
    booster = optimizer.optimize(1)
    assert np.isfinite(optimizer.best_loss)
    assert booster.predict(X[:100]).mean() == pytest.approx(0.02, abs=0.01)


# --hyper


def test_optimizer_class_knows_each_name():
    assert optimizer_class("hyperopt") is LGBOptimizer
    assert optimizer_class("optuna") is OptunaOptimizer
    assert [optimizer_class(name).hyper for name in OPTIMIZERS] == list(OPTIMIZERS)


@pytest.mark.parametrize("name", ["xyz", "", "Hyperopt"])
def test_an_unknown_name_is_refused_with_what_there_is(name):
    sentence = f"--hyper {name!r} is unknown; known: {', '.join(OPTIMIZERS)}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        optimizer_class(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hyper", "hyperparameterhunter"], "use --hyper optuna instead"),
        (["--max-evals", "0"], "--max-evals: expected a number above 0, got 0"),
        (["--timeout", "nan"], "--timeout: expected seconds above 0, got nan"),
        (["--timeout", "0"], "--timeout: expected seconds above 0, got 0"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_sentence(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["initialize.py", *arguments])
    with pytest.raises(SystemExit):
        parse_arguments("", max_evals=1, timeout=1)
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("train.retrain", {"hyperopt", "optuna", "lightgbm", "numpy", "kafka"}),
        (
            "utils.model_store.model, train.fit, train.judge, train.store.observations, train.rows,"
            "train.store.snapshot, train.trials, train.train_hyperopt, train.warm_start, pandas",
            {"kafka", "optuna", "hyperopt", "sqlalchemy", "sklearn"},  # the child's
        ),
        ("trainer", {"lightgbm", "sklearn", "pandas", "optuna", "hyperopt"}),
        ("predictor", {"sklearn", "pandas", "pyarrow"}),
        ("tools.models, utils.model_store.model", {"sklearn", "pandas", "pyarrow"}),
        ("utils.model_store.registry, utils.model_store.card", {"lightgbm", "kafka", "numpy"}),
    ],
)
def test_what_is_not_imported(modules, absent):
    """Each of these takes a tenth of a second or more at every start."""
    code = f"import sys, {modules}; print({absent} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_a_learning_curve_has_at_most_a_hundred_points_and_the_last_round():
    for rounds in (1, 2, 99, 100, 101, 250, 500):
        curve = thinned([[n + 1, 1 / (n + 1)] for n in range(rounds)])
        assert len(curve) <= CURVE_POINTS
        assert curve[-1] == [rounds, 1 / rounds]
        assert curve == sorted(curve)
        assert all(loss == 1 / number for number, loss in curve)
    assert len(thinned([[n, 0.1] for n in range(100)])) == CURVE_POINTS


def test_the_curve_of_a_trial_ends_with_its_loss(tuned):
    for trial in tuned[0].trials:
        assert trial["curve"][-1] == [trial["rounds"], pytest.approx(trial["loss"])]
