"""The store of trials: which past trials count, and that no crash loses them."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest

import train.optimizer
from tests.harness.pipeline import wait_until
from tests.test_train import NAMES, PARAMS, Y, both, make_optimizer, measure_distance
from tools import experiments
from train import optuna_tables
from train.space import SPACE, START, Range, as_point
from train.store.database import StoreError
from train.train_hyperopt import LGBOptimizer as HyperoptOptimizer
from train.train_optuna import LGBOptimizer as OptunaOptimizer
from train.train_optuna import distributions, open_storage, read_trials
from train.trials import TrialStore, best_points
from train.warm_start import (
    WIDER,
    WIDER_EVERY,
    champion_points,
    distinct_points,
    evaluations,
    known_points_to_try,
)
from utils.files import ROOT
from utils.model_store.card import Card
from utils.settings import settings


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trials.db"


def search(kind: type, path, monkeypatch, *, evals: int = 6, **settings):
    """Return an optimizer after a search that kept its trials in this store; no model is fitted."""
    optimizer = make_optimizer(kind, trials_path=path, **settings)
    measure_distance(optimizer, monkeypatch)
    monkeypatch.setattr(optimizer, "fit", lambda best: None)
    optimizer.optimize(evals)
    return optimizer


def points(optimizer) -> list[dict]:
    """Return the points that were evaluated, in order."""
    return [trial["params"] for trial in optimizer.trials]


def best_point(optimizer) -> dict:
    """Return the hyperparameters of the best trial, as they were drawn."""
    return min(optimizer.trials, key=lambda trial: trial["loss"])["params"]


def changed_data() -> np.ndarray:
    """Return y with one other outcome."""
    return np.where(np.arange(len(Y)) == 3, 1 - Y, Y)


# What is compatible


@both
def test_the_second_search_starts_with_what_the_first_has_learned(kind, path, monkeypatch):
    first = search(kind, path, monkeypatch)
    second = search(kind, path, monkeypatch)
    assert second.experiment_id == first.experiment_id
    assert second.data_id == first.data_id
    assert second.best_loss <= first.best_loss
    drawn = [point for point in points(second) if point not in points(first)]
    assert len(drawn) >= 3  # and does not repeat what the first has drawn


def test_hyperopt_evaluates_the_best_past_points_first(path, monkeypatch):
    first = search(HyperoptOptimizer, path, monkeypatch)
    second = search(HyperoptOptimizer, path, monkeypatch)
    ranked = sorted(first.trials, key=lambda trial: trial["loss"])
    assert points(second)[:3] == [trial["params"] for trial in ranked[:3]]


def test_optuna_goes_on_in_its_study_and_evaluates_the_best_past_point_again(path, monkeypatch):
    first = search(OptunaOptimizer, path, monkeypatch)
    second = search(OptunaOptimizer, path, monkeypatch, evals=1)
    assert second.best_loss == first.best_loss
    assert second.best == first.best
    assert points(second) == [best_point(first)]
    assert [study.study_name for study in open_storage(path).get_all_studies()] == [
        f"optuna-{first.experiment_id}-{first.data_id}-1"
    ]


@both
def test_the_known_point_is_evaluated_in_every_search_and_kept_within_noise(
    kind, path, monkeypatch
):
    rng = np.random.default_rng(3)

    def evaluate(params: dict, **limits) -> tuple[dict, np.ndarray]:
        losses = 0.3 + 0.1 * rng.standard_normal(150)  # all points are equally good
        kept = {"rounds": 1, "decisions": 1.0, "seconds": 0.0, "pruned": False}
        loss = float(losses.mean())
        return {"params": params, "loss": loss, "penalized_loss": loss, **kept}, losses

    for _ in range(3):
        optimizer = make_optimizer(kind, trials_path=path)
        monkeypatch.setattr(optimizer.holdout, "evaluate", evaluate)
        monkeypatch.setattr(optimizer, "fit", lambda best: None)
        optimizer.optimize(5, known_points=[START])
        assert points(optimizer)[0] == START
        lowest = min(optimizer.trials, key=lambda trial: trial["loss"])
        is_better = optimizer.trials[0]["loss"] - lowest["loss"] > 2 * lowest["noise"]
        assert optimizer.best_trial() is (lowest if is_better else optimizer.trials[0])


@both
def test_the_first_evaluation_of_a_later_search_is_finished_too(kind, path):
    make_optimizer(kind, trials_path=path).optimize(1, known_points=[PARAMS])
    again = make_optimizer(kind, trials_path=path)
    again.optimize(5, timeout=1e-6, known_points=[START])
    assert points(again) == [START]
    assert not again.trials[0]["pruned"]


@both
def test_changed_data_evaluates_the_old_best_point_again(kind, path, monkeypatch):
    first = search(kind, path, monkeypatch)
    second = search(kind, path, monkeypatch, y=changed_data())
    assert second.experiment_id == first.experiment_id
    assert second.data_id != first.data_id
    assert points(second)[0] == best_point(first)
    third = search(kind, path, monkeypatch)  # the first data again: its own trials count
    assert third.best_loss <= first.best_loss


@pytest.mark.parametrize(
    "kind", [HyperoptOptimizer, pytest.param(OptunaOptimizer, marks=pytest.mark.slow)]
)
def test_another_feature_list_penalty_or_space_is_another_experiment(kind, path, monkeypatch):
    first = search(kind, path, monkeypatch, evals=3)
    ids = {first.experiment_id}
    with monkeypatch.context() as patch:
        patch.setattr("tests.test_train.NAMES", [*NAMES[:3], "region"])
        ids.add((other := search(kind, path, patch, evals=3)).experiment_id)
    assert points(other) == points(first)  # as the same seed draws them from scratch
    ids.add(make_optimizer(kind, is_unbalance=True).experiment_id)
    with monkeypatch.context() as patch:
        patch.setattr(train.optimizer, "PENALTY", 1.0)
        ids.add(make_optimizer(kind).experiment_id)
    monkeypatch.setitem(SPACE, "subsample", Range(0.4, 1.0))
    ids.add((wider := search(kind, path, monkeypatch, evals=3)).experiment_id)
    assert points(wider) == points(search(kind, None, monkeypatch, evals=3))
    assert len(ids) == 5


def test_best_points_are_those_of_the_same_data_then_the_newest_best_of_other_data():
    def trial(data: str, loss: float, pruned: bool = False) -> dict:
        point = {"penalized_loss": loss, "params": {"loss": loss}}
        return {"data": data, "pruned": pruned} | point

    trials = [trial("old", 0.1), trial("old", 0.2), trial("same", 0.4), trial("same", 0.3)]
    trials += [trial("new", 0.6), trial("new", 0.5), trial("new", 0.01, pruned=True)]
    assert [point["loss"] for point in best_points(trials, "same")] == [0.3, 0.4, 0.5, 0.1]
    assert [point["loss"] for point in best_points(trials, "never seen")] == [0.5, 0.3, 0.1]


# What is kept


@both
def test_a_trial_is_kept_with_all_that_it_takes_to_repeat_it(kind, path):
    optimizer = make_optimizer(kind, trials_path=path)
    optimizer.optimize(2)
    [kept] = experiments.read_studies(path)
    for trial, measured in zip(kept, optimizer.trials, strict=True):
        # The learning curve of the best trial is in its model's card.
        stored = {name: value for name, value in measured.items() if name != "curve"}
        assert {name: trial[name] for name in stored} == stored
        assert trial["hyper"] == kind.hyper
        assert trial["seed"] == 1
        assert trial["data"] == optimizer.data_id
        assert trial["features"] == NAMES
        assert trial["metric"] == "binary_logloss"
        assert set(trial["libraries"]) == {"lightgbm", "numpy", kind.hyper}
    study = optuna.load_study(study_name=None, storage=open_storage(path))  # as Optuna reads it
    assert study.directions == [optuna.study.StudyDirection.MINIMIZE]
    assert all(trial.distributions == distributions() for trial in study.trials)
    assert [trial.number for trial in study.trials] == [0, 1]
    again = make_optimizer(kind).holdout.evaluate(kept[0]["params"])[0]
    assert again["loss"] == kept[0]["loss"]


@both
def test_without_a_path_nothing_is_kept(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(kind, None, monkeypatch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@both
def test_optunas_own_program_shows_every_study(kind, path, monkeypatch):
    optimizer = search(kind, path, monkeypatch)
    search(kind, path, monkeypatch, y=changed_data(), evals=2)
    program = Path(sys.executable).parent / "optuna"
    command = [program, "studies", "--storage", f"sqlite:///{path}", "-f", "json"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True)
    studies = json.loads(shown.stdout)
    assert [study["n_trials"] for study in studies] == [6, 2]
    assert {study["user_attrs"]["hyper"] for study in studies} == {kind.hyper}
    best = optuna.load_study(study_name=studies[0]["name"], storage=open_storage(path)).best_trial
    assert (best.value, best.params) == (optimizer.best_loss, best_point(optimizer))


def test_each_optimizer_begins_with_what_the_other_has_learned(path, monkeypatch):
    hyperopt = search(HyperoptOptimizer, path, monkeypatch)
    optuna_ = search(OptunaOptimizer, path, monkeypatch)
    assert points(optuna_)[0] == best_point(hyperopt)
    third = search(HyperoptOptimizer, path, monkeypatch, y=changed_data())
    assert points(third)[0] == best_point(optuna_)


def test_a_pruned_trial_is_kept_as_pruned_and_is_no_point_to_begin_with(path, monkeypatch):
    optimizer = make_optimizer(HyperoptOptimizer, trials_path=path)

    def evaluate(params: dict, **limits) -> tuple[dict, np.ndarray]:
        loss = 0.5 - 0.1 * bool(optimizer.trials)
        measured = {"loss": loss, "penalized_loss": loss, "rounds": 60, "decisions": 1.0}
        ended = {"seconds": 2.0, "pruned": bool(optimizer.trials)}
        return {"params": params, **measured, **ended}, np.array([loss])

    monkeypatch.setattr(optimizer.holdout, "evaluate", evaluate)
    monkeypatch.setattr(optimizer, "fit", lambda best: None)
    optimizer.optimize(2)
    [kept] = open_storage(path).get_all_studies()
    trials = open_storage(path).get_all_trials(kept._study_id)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED"]
    assert [trial.duration.total_seconds() for trial in trials] == [2, 2]
    again = search(HyperoptOptimizer, path, monkeypatch, evals=1)
    assert points(again) == points(optimizer)[:1]


# Crashes and several processes

SEARCH = """
import sys
from pathlib import Path
from tests.test_train import make_optimizer
from train import optimizer_class
path, hyper, seed, max_evals = sys.argv[1:]
kind = optimizer_class(hyper)
make_optimizer(kind, trials_path=Path(path), seed=int(seed)).optimize(int(max_evals))
"""


def start(path, kind: type, seed: int, count: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SEARCH, str(path), kind.hyper, str(seed), str(count)]
    return subprocess.Popen(command, cwd=ROOT)


@pytest.mark.slow
@both
def test_two_processes_create_and_use_the_store_at_once_and_survive_kill_9(kind, path):
    for searcher in [start(path, kind, 1, 4), start(path, kind, 2, 4)]:
        assert searcher.wait() == 0
    storage = open_storage(path)
    assert len(list(read_trials(storage))) == 8
    killed = start(path, kind, 3, 1000)
    wait_until(lambda: len(list(read_trials(storage))) > 10, what="trials of the third search")
    killed.kill()
    killed.wait()
    before = len(list(read_trials(storage)))
    assert start(path, kind, 3, 4).wait() == 0
    assert len(list(read_trials(storage))) >= before + 4


def test_writers_of_one_study_do_not_disturb_each_other(path):
    optuna_tables.prepare(path)
    attributes = make_optimizer().study_attributes()
    trial = {"params": PARAMS, "penalized_loss": 0.3, "pruned": False, "seconds": 1.0}
    trial |= dict.fromkeys(set(optuna_tables.KEPT) - set(trial))

    def write(_: int) -> None:
        for study in range(10):
            optuna_tables.add(path, f"study-{study}", attributes, trial)
            optuna_tables.delete_old_studies(path, 1000)

    with ThreadPoolExecutor() as pool:
        list(pool.map(write, range(4)))
    numbers = "SELECT study_id, number FROM trials ORDER BY study_id, number"
    expected = [(study, number) for study in range(1, 11) for number in range(4)]
    assert optuna_tables.query(path, numbers) == expected


def test_a_store_that_can_not_be_read_does_not_stop_a_training(path, monkeypatch, capsys):
    path.write_bytes(b"no database" * 100)
    sentence = f"{path} can't be used: file is not a database"
    with pytest.raises(StoreError, match=re.escape(sentence)):
        open_storage(path)
    optimizer = search(HyperoptOptimizer, path, monkeypatch)
    assert len(optimizer.trials) == 6
    said = f"Tuning continues without the store of trials: {sentence}"
    kept = "It is kept as trials.db.damaged; the next search begins a new one."
    assert capsys.readouterr().out == f"{said}\n{kept}\n"
    assert len(search(HyperoptOptimizer, path, monkeypatch).trials) == 6
    assert capsys.readouterr().out == ""
    assert len(list(read_trials(open_storage(path)))) == 6


@pytest.mark.parametrize("kind", [HyperoptOptimizer, OptunaOptimizer])
def test_a_store_with_damaged_pages_does_not_stop_a_training(kind, path, monkeypatch, capsys):
    search(kind, path, monkeypatch)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    assert len(search(kind, path, monkeypatch).trials) == 6
    said = capsys.readouterr().out
    assert said.count("Tuning continues without the store of trials: ") == 1
    assert said.endswith("It is kept as trials.db.damaged; the next search begins a new one.\n")
    search(kind, path, monkeypatch)
    assert len(list(read_trials(open_storage(path)))) == 6


def test_a_store_of_another_version_of_optuna_is_kept_and_a_new_one_begun(
    path, monkeypatch, capsys
):
    open_storage(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'v99.0.0.a'")
    for _ in range(2):
        assert len(search(HyperoptOptimizer, path, monkeypatch).trials) == 6
    assert capsys.readouterr().out.count("It is kept as trials.db.damaged") == 1
    assert len(list(read_trials(open_storage(path)))) == 6


MAKE_TABLES_AND_DIE = """
import os, signal, sys
from pathlib import Path
from optuna.storages._rdb.storage import _VersionManager
from train.optuna_tables import prepare
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
_VersionManager._set_alembic_revision = die  # the last of the tables
prepare(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_kill_9_while_the_tables_are_created_leaves_a_store_that_works(path, monkeypatch, capsys):
    killed = subprocess.run([sys.executable, "-c", MAKE_TABLES_AND_DIE, str(path)], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    search(HyperoptOptimizer, path, monkeypatch)
    assert capsys.readouterr().out == ""
    assert len(list(read_trials(open_storage(path)))) == 6


@pytest.mark.parametrize("table", ["alembic_version (version_num TEXT)", "studies (study_id)"])
def test_a_store_with_half_of_the_tables_is_kept_and_a_new_one_begun(table, path, capsys):
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE {table}")
    store = TrialStore(path, make_optimizer().study_attributes())
    assert store.past_points() == []
    assert capsys.readouterr().out.count("It is kept as trials.db.damaged") == 1
    assert list(read_trials(open_storage(path))) == []


def test_old_trials_are_deleted(path, monkeypatch):
    monkeypatch.setattr("train.trials.settings", settings.model_copy(update={"trials_keep": 4}))
    numbers = []
    for first_row in range(6):
        y = np.where(np.arange(len(Y)) == first_row, 1 - Y, Y)
        optimizer = search(HyperoptOptimizer, path, monkeypatch, y=y, evals=2)
        numbers.append(optimizer.store.last_trial())
    assert numbers == [2 * n for n in range(1, 7)]  # so that each search draws other points
    kept = list(read_trials(open_storage(path)))
    assert len(kept) == 6  # 4 when the last search began, and its own
    assert kept[-1]["data"] == optimizer.data_id
    with closing(sqlite3.connect(path)) as database:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table'"
        counts = {name: f"SELECT count(*) FROM {name}" for (name,) in database.execute(tables)}  # noqa: S608
        counts = {name: database.execute(count).fetchone()[0] for name, count in counts.items()}
    assert counts["studies"] == counts["study_directions"] == 3
    assert counts["trials"] == counts["trial_values"] == 6
    assert counts["trial_params"] == 6 * len(SPACE)


def test_a_search_reads_few_studies_of_many(path, monkeypatch):
    for first_row in range(5):
        y = np.where(np.arange(len(Y)) == first_row, 1 - Y, Y)
        search(HyperoptOptimizer, path, monkeypatch, y=y, evals=1)
    monkeypatch.setattr("train.optuna_tables.RECENT", 3)
    attributes, read = make_optimizer(HyperoptOptimizer).study_attributes(), []
    query = optuna_tables.query
    monkeypatch.setattr(
        optuna_tables,
        "query",
        lambda path, sql, *parameters: read.append(parameters) or query(path, sql, *parameters),
    )
    assert len(TrialStore(path, attributes).past_points()) > 0
    assert [study for (study,) in read[-3:]] == [3, 4, 5]
    assert len(read) == 5  # the version of the tables, and the studies' names


def test_a_study_whose_process_was_killed_at_once_is_ignored(path, monkeypatch):
    optuna.create_study(storage=open_storage(path), study_name="killed")
    search(HyperoptOptimizer, path, monkeypatch)
    assert len(search(HyperoptOptimizer, path, monkeypatch).trials) == 6


# The points to begin with


def card(parameters: dict, model_cost: str = "low") -> Card:
    return Card(
        model_id=4, rows=1, hyper="hyperopt", evaluations=1, experiment="", seed=1,
        parameters=parameters, tuning_loss=0.3, model_cost=model_cost,
    )  # fmt: skip


def test_a_retraining_starts_with_the_champions_hyperparameters():
    assert champion_points(card({**PARAMS, "num_boost_round": 60})) == [PARAMS]
    for unusable in ({}, {**PARAMS, "num_leaves": 9999}):
        assert champion_points(card(unusable)) == [START]


def test_after_a_change_of_model_cost_a_retraining_starts_with_the_point_for_it():
    for tuned_for in ("any", ""):  # "": by a version that did not record it
        assert champion_points(card(PARAMS, tuned_for)) == [START, PARAMS]
        assert champion_points(card({}, tuned_for))[0] == START


def test_no_more_points_are_read_than_are_needed():
    def known():
        yield from ({"learning_rate": 0.1}, PARAMS, PARAMS, START)
        raise AssertionError("one too many")

    assert distinct_points(known(), 2) == [PARAMS, START]


def test_every_tenth_retraining_searches_wider():
    numbers = [evaluations(model_id, 3) for model_id in range(1, 2 * WIDER_EVERY + 1)]
    assert numbers.count(3) == 2 * (WIDER_EVERY - 1)
    assert numbers[WIDER_EVERY - 1] == numbers[-1] == 3 * WIDER


def test_the_point_to_begin_with_is_one_of_the_space():
    assert as_point(START) == START


def test_some_evaluations_go_to_known_points_and_most_of_many_to_new_ones():
    assert [known_points_to_try(n) for n in (1, 2, 3, 5, 10, 50)] == [1, 1, 1, 2, 5, 5]


# python -m tools.experiments


def shown(capsys, monkeypatch, path, what: str) -> str:
    """Return what `python -m tools.experiments` prints."""
    monkeypatch.setattr(sys, "argv", ["experiments", what])
    monkeypatch.setattr(experiments, "TRIALS", path)
    experiments.main()
    return capsys.readouterr().out


def test_experiments_shows_what_both_optimizers_did(path, monkeypatch, capsys):
    done = [search(kind, path, monkeypatch) for kind in (HyperoptOptimizer, OptunaOptimizer)]
    done.append(search(HyperoptOptimizer, path, monkeypatch, y=changed_data()))
    listed = shown(capsys, monkeypatch, path, "list")
    for optimizer in done:
        experiment, data = optimizer.experiment_id[:8], optimizer.data_id[:8]
        row = rf"{optimizer.hyper} +{experiment} +{data} +2,000 +6 +0 +0\.\d{{4}}"
        assert len(re.findall(row, listed)) == 1
    said = shown(capsys, monkeypatch, path, "best")
    assert '\n    "hyper": "optuna",\n' in said  # a person can read it
    best = json.loads(said)
    assert {trial["hyper"]: trial["params"] for trial in best} == {
        "hyperopt": best_point(done[2]),
        "optuna": best_point(done[1]),
    }


def test_experiments_shows_trials_from_before_losses_were_penalized(path, monkeypatch, capsys):
    study = optuna.create_study(storage=open_storage(path), study_name="hyperopt-e-d-1")
    attributes = {"hyper": "hyperopt", "experiment": "e", "data": "d", "seed": 1, "rows": 10}
    for key, value in attributes.items():
        study.set_user_attr(key, value)
    measured = {"losses": [0.28], "rounds": 9, "seconds": 1.0, "pruned": False, "libraries": {}}
    trial = {"value": 0.28, "params": START, "distributions": distributions()}
    study.add_trial(optuna.trial.create_trial(**trial, user_attrs=measured))
    assert "0.2800" in shown(capsys, monkeypatch, path, "list")
    assert json.loads(shown(capsys, monkeypatch, path, "best"))[0]["loss"] == 0.28


def test_experiments_says_when_there_are_none(path, monkeypatch, capsys):
    with pytest.raises(
        SystemExit, match="holds no trial yet: python initialize.py makes the first"
    ):
        shown(capsys, monkeypatch, path, "list")
