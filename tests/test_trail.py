"""What is remembered of past trials: which ones count, and that no crash loses them."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

import train.optimizer
from tests.harness.pipeline import wait_until
from tests.test_train import NAMES, PARAMS, Y, both, make_optimizer, measure_distance
from tools import experiments
from train.optimizer import known_points_to_try
from train.space import SPACE, START, Range, as_point
from train.trail import Trail, best_points
from train.train_hyperopt import LGBOptimizer as HyperoptOptimizer
from train.train_optuna import LGBOptimizer as OptunaOptimizer
from train.train_optuna import open_storage, read_trials
from train.warm_start import WIDER, WIDER_EVERY, champion_points, evaluations
from utils.files import ROOT
from utils.model_store.registry import Registry


def search(kind: type, folder, monkeypatch, *, evals: int = 6, **settings):
    """Return an optimizer after a search that kept its trials in the folder; no model is fitted."""
    optimizer = make_optimizer(kind, trail=folder, **settings)
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
def test_the_second_search_starts_with_what_the_first_has_learned(kind, tmp_path, monkeypatch):
    first = search(kind, tmp_path, monkeypatch)
    second = search(kind, tmp_path, monkeypatch)
    assert second.experiment_id == first.experiment_id
    assert second.data_id == first.data_id
    assert second.best_loss <= first.best_loss
    drawn = [point for point in points(second) if point not in points(first)]
    assert len(drawn) >= 3  # and does not repeat what the first has drawn


def test_hyperopt_evaluates_the_best_past_points_first(tmp_path, monkeypatch):
    first = search(HyperoptOptimizer, tmp_path, monkeypatch)
    second = search(HyperoptOptimizer, tmp_path, monkeypatch)
    ranked = sorted(first.trials, key=lambda trial: trial["loss"])
    assert points(second)[:3] == [trial["params"] for trial in ranked[:3]]


def test_optuna_goes_on_in_its_study_and_believes_its_losses(tmp_path, monkeypatch):
    first = search(OptunaOptimizer, tmp_path, monkeypatch)
    second = search(OptunaOptimizer, tmp_path, monkeypatch, evals=1)
    assert second.best_loss == first.best_loss
    assert second.best == first.best
    assert best_point(first) not in points(second)
    assert [study.study_name for study in open_storage(tmp_path).get_all_studies()] == [
        f"{first.experiment_id}-{first.data_id}-1"
    ]


@both
def test_changed_data_evaluates_the_old_best_point_again(kind, tmp_path, monkeypatch):
    first = search(kind, tmp_path, monkeypatch)
    second = search(kind, tmp_path, monkeypatch, y=changed_data())
    assert second.experiment_id == first.experiment_id
    assert second.data_id != first.data_id
    assert points(second)[0] == best_point(first)
    assert second.past_trials == []
    third = search(kind, tmp_path, monkeypatch)  # the first data again: its own trials count
    assert third.best_loss <= first.best_loss


@pytest.mark.parametrize(
    "kind", [HyperoptOptimizer, pytest.param(OptunaOptimizer, marks=pytest.mark.slow)]
)
def test_another_feature_list_metric_or_space_is_another_experiment(kind, tmp_path, monkeypatch):
    first = search(kind, tmp_path, monkeypatch, evals=3)
    ids = {first.experiment_id}
    for target, value in (("NAMES", [*NAMES[:3], "region"]), ("CATEGORICAL", [3])):
        with monkeypatch.context() as patch:
            patch.setattr(f"tests.test_train.{target}", value)
            ids.add((other := search(kind, tmp_path, patch, evals=3)).experiment_id)
        assert points(other) == points(first)  # as the same seed draws them from scratch
    ids.add(make_optimizer(kind, is_unbalance=True).experiment_id)
    with monkeypatch.context() as patch:
        patch.setattr(train.optimizer, "METRIC", "auc")
        ids.add(make_optimizer(kind).experiment_id)
    monkeypatch.setitem(SPACE, "subsample", Range(0.4, 1.0))
    ids.add((wider := search(kind, tmp_path, monkeypatch, evals=3)).experiment_id)
    assert points(wider) == points(search(kind, None, monkeypatch, evals=3))
    assert len(ids) == 6


def test_best_points_are_those_of_the_same_data_then_the_newest_best_of_other_data():
    def trial(data: str, loss: float, pruned: bool = False) -> dict:
        return {"data": data, "loss": loss, "params": {"loss": loss}, "pruned": pruned}

    trials = [trial("old", 0.1), trial("old", 0.2), trial("same", 0.4), trial("same", 0.3)]
    trials += [trial("new", 0.6), trial("new", 0.5), trial("new", 0.01, pruned=True)]
    assert [point["loss"] for point in best_points(trials, "same")] == [0.3, 0.4, 0.5, 0.1]
    assert [point["loss"] for point in best_points(trials, "never seen")] == [0.5, 0.3, 0.1]


# What is kept


@both
def test_a_trial_is_kept_with_all_that_it_takes_to_repeat_it(kind, tmp_path):
    optimizer = make_optimizer(kind, trail=tmp_path)
    optimizer.optimize(2)
    kept = experiments.read_all(tmp_path)
    for trial, measured in zip(kept, optimizer.trials, strict=True):
        assert {name: trial[name] for name in measured} == measured
        assert trial["hyper"] == kind.hyper
        assert trial["seed"] == 1
        assert trial["data"] == optimizer.data_id
        assert trial["features"] == NAMES
        assert trial["metric"] == "binary_logloss"
        assert len(trial["losses"]) == 1
        assert set(trial["libraries"]) == {"lightgbm", "numpy", kind.hyper}
    again = make_optimizer(kind).evaluate(kept[0]["params"])
    assert again["loss"] == kept[0]["loss"]


@both
def test_without_a_folder_nothing_is_kept(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    search(kind, None, monkeypatch)
    assert list(tmp_path.iterdir()) == []


# Crashes and company

APPEND = """
import sys
from pathlib import Path
from train.trail import Trail
number = 0
while number < int(sys.argv[3]):
    number += 1
    trial = {"experiment": "e", "data": sys.argv[2], "params": {"n": number}, "loss": 0.5}
    Trail(Path(sys.argv[1])).append({**trial, "long": "x" * 20_000})
    print(number, flush=True)
"""


def append(folder, writer: str, count: int = 10**9) -> subprocess.Popen:
    """Start a process that appends long lines and prints the number of each one that is kept."""
    command = [sys.executable, "-c", APPEND, str(folder), writer, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_two_processes_append_at_once(tmp_path):
    writers = [append(tmp_path, name, count=100) for name in "ab"]
    assert [writer.communicate()[0].split()[-1] for writer in writers] == ["100", "100"]
    trials = Trail(tmp_path).read()
    for name in "ab":
        numbers = [trial["params"]["n"] for trial in trials if trial["data"] == name]
        assert numbers == list(range(1, 101))


def test_kill_9_loses_no_trial_that_was_kept(tmp_path):
    for name in "ab":
        writer = append(tmp_path, name)
        for _ in range(20):
            writer.stdout.readline()
        os.kill(writer.pid, signal.SIGKILL)
        kept = 20 + len(writer.communicate()[0].splitlines())
        numbers = [t["params"]["n"] for t in Trail(tmp_path).read() if t["data"] == name]
        assert numbers[:kept] == list(range(1, kept + 1))


def test_a_line_that_broke_off_is_left_out_and_ended(tmp_path):
    trial = {"experiment": "e", "data": "d", "params": {}, "loss": 0.5}
    trail = Trail(tmp_path)
    trail.append({**trial, "n": 1})
    whole = trail.path.read_bytes()
    for length in (1, 30, len(whole) - 1):
        trail.path.write_bytes(whole + whole[:length])
        trail.append({**trial, "n": 2})
        found = [read["n"] for read in trail.read()]
        assert found == ([1, 2] if length < len(whole) - 1 else [1, 1, 2])


@pytest.mark.parametrize("line", ["", "null", "[]", '{"experiment": "e"}', "\\x00\\xff", '{"a"'])
def test_a_line_that_is_no_trial_is_left_out(tmp_path, line):
    trail = Trail(tmp_path)
    trail.append({"experiment": "e", "data": "d", "params": {}, "loss": 0.5})
    trail.path.write_bytes(line.encode() + b"\n" + trail.path.read_bytes())
    assert len(trail.read()) == 1


SEARCH = """
import sys
from pathlib import Path
from tests.test_train import make_optimizer
from train.train_optuna import LGBOptimizer
folder, seed, max_evals = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
make_optimizer(LGBOptimizer, trail=folder, seed=seed).optimize(max_evals)
"""


@pytest.mark.slow
def test_two_processes_make_and_use_optunas_database_at_once_and_survive_kill_9(tmp_path):
    def start(seed: int, count: int = 4) -> subprocess.Popen:
        command = [sys.executable, "-c", SEARCH, str(tmp_path), str(seed), str(count)]
        return subprocess.Popen(command, cwd=ROOT)

    for searcher in [start(1), start(2)]:
        assert searcher.wait() == 0
    killed = start(3, count=1000)
    storage = open_storage(tmp_path)
    wait_until(lambda: len(list(read_trials(storage))) > 10, what="trials of the third search")
    killed.kill()
    killed.wait()
    before = len(list(read_trials(storage)))
    assert start(3).wait() == 0
    assert len(list(read_trials(storage))) >= before + 4


# The champion's card


def test_a_retraining_starts_with_the_champions_hyperparameters(tmp_path):
    assert champion_points(tmp_path) == [START]
    card = tmp_path / "model_4.json"
    card.write_text(json.dumps({"parameters": {**PARAMS, "num_boost_round": 60}}))
    assert champion_points(tmp_path) == [START]
    Registry(tmp_path).promote(4)
    assert champion_points(tmp_path) == [PARAMS]
    for unusable in ({}, {"parameters": {**PARAMS, "num_leaves": 9999}}, {"parameters": None}):
        card.write_text(json.dumps(unusable))
        assert champion_points(tmp_path) == [START]


def test_every_so_many_th_retraining_searches_wider():
    numbers = [evaluations(model_id, 3) for model_id in range(1, 2 * WIDER_EVERY + 1)]
    assert numbers.count(3) == 2 * (WIDER_EVERY - 1)
    assert numbers[WIDER_EVERY - 1] == numbers[-1] == 3 * WIDER


def test_the_point_to_begin_with_is_one_of_the_space():
    assert as_point(START) == START


def test_some_evaluations_go_to_known_points_and_most_of_many_to_new_ones():
    assert [known_points_to_try(n) for n in (1, 2, 3, 5, 10, 50)] == [1, 1, 1, 2, 5, 5]


# python -m tools.experiments


def shown(capsys, monkeypatch, folder, what: str) -> str:
    """Return what `python -m tools.experiments` prints."""
    monkeypatch.setattr(sys, "argv", ["experiments", what])
    monkeypatch.setattr(experiments, "TRAIL", folder)
    experiments.main()
    return capsys.readouterr().out


def test_experiments_shows_what_both_optimizers_did(tmp_path, monkeypatch, capsys):
    done = [search(kind, tmp_path, monkeypatch) for kind in (HyperoptOptimizer, OptunaOptimizer)]
    done.append(search(HyperoptOptimizer, tmp_path, monkeypatch, y=changed_data()))
    listed = shown(capsys, monkeypatch, tmp_path, "list")
    for optimizer in done:
        experiment, data = optimizer.experiment_id[:8], optimizer.data_id[:8]
        row = rf"{optimizer.hyper} +{experiment} +{data} +2,000 +6 +0 +0\.\d{{4}}"
        assert len(re.findall(row, listed)) == 1
    best = [json.loads(line) for line in shown(capsys, monkeypatch, tmp_path, "best").splitlines()]
    assert {trial["hyper"]: trial["params"] for trial in best} == {
        "hyperopt": best_point(done[2]),
        "optuna": best_point(done[1]),
    }


def test_experiments_says_when_there_are_none(tmp_path, monkeypatch, capsys):
    with pytest.raises(
        SystemExit, match="holds no trial yet: python initialize.py makes the first"
    ):
        shown(capsys, monkeypatch, tmp_path, "list")
