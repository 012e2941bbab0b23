"""The tuning, with real LightGBM and Hyperopt on 2,000 generated rows."""

import io
import json
import logging
import re
import subprocess
import sys

import lightgbm as lgb
import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from train import OPTIMIZERS, optimizer_class
from train.train_hyperopt import LGBOptimizer

NAMES = ["age", "hours", "job", "country"]
CATEGORICAL = [2, 3]
JOBS = 6  # the codes of "job" are 0..5; 6 stands for a job never seen
BOUNDS = {
    "learning_rate": (0.01, 0.2),
    "num_boost_round": (50, 500),
    "num_leaves": (31, 256),  # multiples of 4: 255 itself rounds up
    "min_child_weight": (0.1, 10),
    "colsample_bytree": (0.5, 1),
    "subsample": (0.5, 1),
    "reg_alpha": (0.01, 0.1),
    "reg_lambda": (0.01, 0.1),
}
PARAMS = {
    "learning_rate": 0.1,
    "num_boost_round": 60,
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


def make_optimizer(y: np.ndarray = Y, **settings) -> LGBOptimizer:
    """Return an optimizer of the generated data, on one thread unless told otherwise."""
    return LGBOptimizer(X[: len(y)], y, NAMES, CATEGORICAL, **{"num_threads": 1, **settings})


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
    return lgb.Dataset(X, Y, feature_name=NAMES, categorical_feature=CATEGORICAL, params=params)


@pytest.fixture(scope="module")
def tuned() -> tuple[LGBOptimizer, lgb.Booster]:
    optimizer = make_optimizer()
    return optimizer, optimizer.optimize(5)


# What is tuned is what is fitted


def test_every_loss_is_that_of_an_independent_cross_validation(tuned):
    for trial in tuned[0].trials:
        params = oracle_params(trial["params"])
        losses = lgb.cv(
            {**params, "early_stopping_round": 20},
            oracle_dataset(params),
            num_boost_round=trial["params"]["num_boost_round"],
            nfold=3,
            seed=1,
        )["valid binary_logloss-mean"]
        assert (trial["loss"], trial["rounds"]) == (losses[-1], len(losses))


def test_the_loss_is_the_log_loss_of_probabilities_on_unseen_stratified_folds(tuned):
    best, params = tuned[0].best, oracle_params(tuned[0].best)
    full = oracle_dataset(params).construct()
    losses = []
    for known, unseen in StratifiedKFold(3, shuffle=True, random_state=1).split(X, Y):
        booster = lgb.train(params, full.subset(known), num_boost_round=best["num_boost_round"])
        losses.append(log_loss(Y[unseen], booster.predict(X[unseen])))
    assert np.mean(losses) == pytest.approx(tuned[0].best_loss, rel=1e-9)


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


def test_missing_numbers_and_unknown_categories_are_predicted(tuned):
    rows = np.array([[np.nan, np.nan, 0, 0], [40, 40, JOBS, 99]])
    assert np.isfinite(tuned[1].predict(rows)).all()


def test_the_columns_keep_their_names_and_kinds(tuned):
    assert tuned[1].feature_name() == NAMES
    tree_info = [tree["tree_structure"] for tree in tuned[1].dump_model()["tree_info"]]
    kinds = set(re.findall(r"'split_feature': (\d+).*?'decision_type': '(..)'", str(tree_info)))
    assert kinds == {("0", "<="), ("1", "<="), ("2", "=="), ("3", "==")}


def test_classes_are_weighed_only_when_asked(tuned):
    plain, weighed = make_optimizer(), make_optimizer(is_unbalance=True)
    assert plain.fit(PARAMS).predict(X).mean() == pytest.approx(Y.mean(), abs=0.01)
    assert weighed.fit(PARAMS).predict(X).mean() > Y.mean() + 0.05
    assert weighed.evaluate(PARAMS)["loss"] > plain.evaluate(PARAMS)["loss"] + 0.01


def test_subsample_has_an_effect():
    optimizer = make_optimizer()
    half, whole = ({**PARAMS, "subsample": share} for share in (0.5, 1.0))
    assert optimizer.evaluate(half)["loss"] != optimizer.evaluate(whole)["loss"]
    assert trees(optimizer.fit(half)) != trees(optimizer.fit(whole))


# What optimize leaves behind


def test_best_is_the_trial_with_the_lowest_loss_and_its_rounds(tuned):
    optimizer, booster = tuned
    best = min(optimizer.trials, key=lambda trial: trial["loss"])
    assert optimizer.best_loss == best["loss"]
    assert optimizer.best == {**best["params"], "num_boost_round": best["rounds"]}
    assert booster.current_iteration() == booster.num_trees() == best["rounds"]


def test_early_stopping_cuts_the_rounds(tuned):
    assert all(t["rounds"] <= t["params"]["num_boost_round"] for t in tuned[0].trials)
    assert any(t["rounds"] < t["params"]["num_boost_round"] for t in tuned[0].trials)


def test_trials_and_best_are_plain_json(tuned):
    optimizer = tuned[0]
    for value in (optimizer.best, optimizer.best_loss, optimizer.trials):
        assert json.loads(json.dumps(value)) == value
    kinds = {name: type(value) for name, value in optimizer.best.items()}
    integers = {"num_boost_round", "num_leaves"}
    assert kinds == {name: int if name in integers else float for name in BOUNDS}
    assert [sorted(trial) for trial in optimizer.trials] == [
        ["loss", "params", "rounds", "seconds"]
    ] * 5


def test_a_second_optimize_starts_afresh():
    optimizer = make_optimizer()
    first, trials = optimizer.optimize(2), without_time(optimizer.trials)
    second = optimizer.optimize(2)
    assert without_time(optimizer.trials) == trials
    assert second.model_to_string() == first.model_to_string()


# The search


def test_the_search_keeps_its_bounds_and_learns_from_the_losses(monkeypatch):
    """After its 20 random points TPE must come closer to the lowest loss, here at 0.1 and 0.6."""
    optimizer = make_optimizer()

    def evaluate(params: dict) -> dict:
        loss = abs(params["learning_rate"] - 0.1) + abs(params["subsample"] - 0.6)
        return {"params": params, "loss": loss, "rounds": 1, "seconds": 0.0}

    monkeypatch.setattr(optimizer, "evaluate", evaluate)
    optimizer.optimize(60)
    for trial in optimizer.trials:
        assert set(trial["params"]) == set(BOUNDS)
        assert all(low <= trial["params"][name] <= high for name, (low, high) in BOUNDS.items())
        assert trial["params"]["num_boost_round"] % 20 == trial["params"]["num_leaves"] % 4 == 0
    losses = [trial["loss"] for trial in optimizer.trials]
    assert len(losses) == 60
    assert np.mean(losses[20:]) < 0.75 * np.mean(losses[:20])  # a random search: 0.94


def test_the_seed_decides_trials_and_model(tuned):
    again, other = make_optimizer(), make_optimizer(seed=2)
    assert again.optimize(5).model_to_string() == tuned[1].model_to_string()
    assert without_time(again.trials) == without_time(tuned[0].trials)
    other.optimize(1)
    assert other.trials[0]["params"] != again.trials[0]["params"]
    assert other.evaluate(PARAMS)["loss"] != again.evaluate(PARAMS)["loss"]  # other folds too


def test_num_threads_is_honoured_and_does_not_change_the_model(monkeypatch):
    seen = []

    def spy(function):
        def call(params, *args, **kwargs):
            seen.append(params["num_threads"])
            return function(params, *args, **kwargs)

        return call

    monkeypatch.setattr(lgb, "cv", spy(lgb.cv))
    monkeypatch.setattr(lgb, "train", spy(lgb.train))
    boosters = [make_optimizer(num_threads=n).optimize(1) for n in (1, 2)]
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
    ("ones", "message"), [(0, "40 of 0 and 0 of 1"), (1, "39 of 0 and 1 of 1")]
)
def test_too_few_rows_of_a_class_are_refused(ones, message):
    with pytest.raises(ValueError, match=f"^y needs two rows of each class, got {message}$"):
        make_optimizer(np.array([1.0] * ones + [0.0] * (40 - ones)))


@pytest.mark.parametrize("wrong", [2.0, -1.0, 0.5, np.nan])
def test_other_outcomes_than_0_and_1_are_refused(wrong):
    with pytest.raises(ValueError, match="^y must hold nothing but 0 and 1$"):
        make_optimizer(np.array([0.0, 0.0, 1.0, 1.0, wrong]))


def test_two_rows_of_a_class_make_two_folds():
    optimizer = make_optimizer(np.array([1.0, 1.0] + [0.0] * 98))
    booster = optimizer.optimize(1)
    assert optimizer.folds == 2
    assert np.isfinite(optimizer.best_loss)
    assert booster.predict(X[:100]).mean() == pytest.approx(0.02, abs=0.01)


# --hyper


def test_optimizer_class_knows_hyperopt():
    assert optimizer_class("hyperopt") is LGBOptimizer


@pytest.mark.parametrize("name", ["xyz", "", "Hyperopt"])
def test_an_unknown_name_is_refused_with_what_there_is(name):
    sentence = f"--hyper {name!r} is not known; there is: {', '.join(OPTIMIZERS)}"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        optimizer_class(name)


def test_the_package_alone_imports_no_heavy_library():
    code = "import sys, train; print({'hyperopt', 'lightgbm', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
