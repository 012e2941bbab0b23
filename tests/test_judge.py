"""Champion and challenger: what is held out, who is promoted, and what one bad batch can do."""

import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import closing
from copy import copy
from pathlib import Path

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from train.comparison import Comparison, estimates, weighted_medians
from train.fit import fit_model
from train.held_out import BY_VALUES, JUDGE_ONE_IN, Split, is_for_judge
from train.judge import explain, gain, judge
from train.row_hash import hash_frame
from train.rows import (
    LabeledRows,
    newest_of_equal,
    original_rows,
    training_data,
)
from train.store.observations import Observations
from train.store.snapshot import Snapshot, read_snapshot
from utils.datasets import dataset
from utils.datasets.adult import read_test_requests
from utils.datasets.shipped import SHIPPED
from utils.files import ROOT
from utils.messages import encode
from utils.metrics import log_losses
from utils.model_store.model import Model
from utils.model_store.registry import Registry
from utils.settings import settings

EVERY, WINDOW = 4_000, 6_000  # observations of a training; rows to train on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("adult.data", "adult.test"):
        packed = SHIPPED / f"{name}.xz"
        (folder / name).write_bytes(lzma.decompress(packed.read_bytes()))
    return folder


def observe(folder, batches: str, every: int = EVERY) -> tuple[list, list, list]:
    """Request ids, rows and outcomes of these batches: "." as it was, "x" upside down."""
    rows = read_test_requests(folder)
    ids, data, outcomes = [], [], []
    for number in range(len(batches) * every):
        row = dict(rows[number % len(rows)])
        outcome = dataset.target.outcome_of(row.pop(dataset.target.name))
        ids.append(f"request-{number}")
        data.append(row)
        outcomes.append(1 - outcome if batches[number // every] == "x" else outcome)
    return ids, data, outcomes


def snapshot(folder, batches: str, window: int, every: int = EVERY) -> Snapshot:
    """Return what a training reads when the last of these batches has made it due."""
    return snapshot_of(observe(folder, batches, every), len(batches), window)


def snapshot_of(observations: tuple[list, list, list], trainings: int, window: int) -> Snapshot:
    """Return what the last of these trainings reads, each of which adds as many observations."""
    ids, data, outcomes = observations
    observed = list(zip(ids, map(encode, data), outcomes, strict=True))
    every = len(observed) // trainings
    with tempfile.TemporaryDirectory() as store_folder:
        path = Path(store_folder) / "observations.db"
        with closing(Observations(path)) as store:
            for model_id in range(1, trainings + 1):
                store.add(observed[(model_id - 1) * every : model_id * every], 1, {})
                store.begin_training(model_id, at_least=model_id)
                if model_id < trainings:
                    store.end_training(model_id)
        return read_snapshot(path, window)


def fit(rows: LabeledRows, model_id: int) -> Model:
    rest = {"model_id": model_id, "hyper": "hyperopt", "max_evals": 1, "num_threads": 1}
    return fit_model(rows.frame, rows.outcomes, **rest)


def train(folder, batches: str, model_id: int = 1, window: int = WINDOW):
    rows = training_data(folder, snapshot(folder, batches, window), window)
    return fit(rows.training, model_id), rows


@pytest.fixture(scope="module")
def champion_and_rows(folder):
    return train(folder, "....")


@pytest.fixture(scope="module")
def champion(champion_and_rows):
    return champion_and_rows[0]


@pytest.fixture(scope="module")
def rows(champion_and_rows):
    return champion_and_rows[1]


@pytest.fixture(scope="module")
def weak(rows):
    """A model that has seen few rows: worse than the champion by a logloss of about 0.1."""
    return fit(rows.training[:300], 2)


def judge_all(champion, challenger, rows, anchor=None):
    return judge(champion, challenger, rows.judge, rows.judge_groups, anchor)


def decision(champion, challenger, rows, anchor=None) -> str:
    return judge_all(champion, challenger, rows, anchor).decision


@pytest.mark.parametrize(
    "window",
    [
        pytest.param(WINDOW, id="newest rows"),
        pytest.param(0, id="all rows", marks=pytest.mark.slow),
    ],
)
def test_one_poisoned_batch_is_rejected(folder, champion, window):
    if not window:
        champion, _ = train(folder, "....", window=0)
    challenger, rows = train(folder, "....x", window=window)
    assert decision(champion, challenger, rows) == "rejected"


@pytest.mark.slow
def test_a_change_that_lasts_is_accepted_within_five_trainings(folder, champion):
    anchor, _ = train(folder, "...", model_id=0)
    for last in range(1, 6):
        challenger, rows = train(folder, "...." + "x" * last)
        if decision(champion, challenger, rows, anchor) == "promoted":
            break
    assert last == 3  # when most of what the judge sees is of the new world


def test_more_of_the_same_is_promoted(folder, champion):
    challenger, rows = train(folder, ".....")
    verdict = judge(champion, challenger, rows.judge, rows.judge_groups)
    assert verdict.decision == "promoted"
    assert verdict.judgement.challenger["calibration_error"] < 0.05
    assert len(rows.judge) == 2_000
    assert verdict.judgement.observed > 1_900


def for_judge(data: list[dict]) -> np.ndarray:
    """Return which of these rows are for the judge, whatever types hold them."""
    frame = pd.DataFrame(data)[[*dataset.numeric, *dataset.categorical]]
    return is_for_judge(hash_frame(frame.astype(dict.fromkeys(dataset.categorical, "category"))))


def test_who_is_held_out_is_never_trained_on_and_judges(folder):
    _, data, _ = observe(folder, "..", every=1_000)
    rows = training_data(folder, snapshot(folder, "..", window=0, every=1_000), window=0)
    out = for_judge(data)
    assert 0.08 < out.mean() < 0.12
    assert len(rows.training) + rows.held_out == 32_561 + 2_000
    assert abs(rows.held_out * JUDGE_ONE_IN / (32_561 + 2_000) - 1) < 0.1
    assert len(rows.judge) == 2_000  # filled up with original rows
    assert (rows.judge_groups > 0).sum() == out.sum()
    judged = rows.judge.frame[rows.judge_groups > 0].reset_index(drop=True)
    sent = [row for row, held in zip(data, out, strict=True) if held]
    assert judged.to_dict("records") == [{name: row[name] for name in judged} for row in sent]


def test_the_window_takes_the_newest_rows(folder):
    _, data, _ = observe(folder, "..", every=100)
    rows = training_data(folder, snapshot(folder, "..", window=50, every=100), window=50)
    newest = zip(for_judge(data[-50:]), data[-50:], strict=True)
    kept = [row for held_out, row in newest if not held_out]
    found = rows.training.frame
    assert found.to_dict("records") == [{name: row[name] for name in found} for row in kept]


def values(rows) -> set[tuple]:
    """Return the distinct rows, without their outcomes."""
    return set(map(tuple, rows.frame.astype(object).to_numpy()))


def test_equal_rows_are_on_one_side_and_judge_once_a_training(folder):
    ids, data, outcomes = observe(folder, "..", every=1_000)
    repeated = ids, data[:400] * 5, outcomes[:400] * 5  # under new request ids
    rows = training_data(folder, snapshot_of(repeated, trainings=2, window=0), window=0)
    assert not values(rows.judge) & values(rows.training)
    out = for_judge(data[:400])
    assert out.sum() > 30
    observed = rows.judge[rows.judge_groups > 0]
    assert len(observed) == 2 * out.sum()  # all of them are in both trainings
    assert len(rows.judge) == 2_000


@pytest.mark.parametrize("judged", [False, True], ids=["in training", "held out"])
def test_a_visitor_who_is_half_of_all_is_on_one_side(folder, judged):
    ids, data, outcomes = observe(folder, ".", every=2_000)
    visitor = data[list(for_judge(data)).index(judged)]
    often = ids, [visitor if n % 2 else row for n, row in enumerate(data)], outcomes
    window = 1_900  # observations only
    rows = training_data(folder, snapshot_of(often, trainings=1, window=window), window)
    assert not values(rows.judge) & values(rows.training)
    assert (len(rows.training) > window / 2) == (not judged)
    assert set(rows.judge.outcomes) == set(rows.training.outcomes) == {0, 1}
    visits = values(rows.judge) & {tuple(visitor[name] for name in rows.judge.frame)}
    assert len(visits) == judged
    assert len(rows.judge) == 2_000  # the visitor once, other observations, original rows


def test_of_equal_rows_the_newest_in_each_group_judges():
    hashes, groups = np.array([7, 7, 8, 7, 7], np.uint64), np.array([1, 1, 1, 2, 2])
    assert newest_of_equal(hashes, groups).tolist() == [False, True, True, False, True]
    assert newest_of_equal(hashes[:0], groups[:0]).tolist() == []


@pytest.mark.slow
@pytest.mark.parametrize("split", ["", BY_VALUES])
def test_a_champion_of_another_split_is_replaced(first_model, tmp_path, split):
    """Rows that it was trained on judge: it would win for as long as these judge."""
    shutil.copytree(first_model, tmp_path, dirs_exist_ok=True)
    registry, attempt = Registry(tmp_path / "models"), tmp_path / "attempt"
    card = registry.card(0)
    assert card.split == BY_VALUES
    card.split = split
    registry.write_card(card)
    attempt.mkdir()
    with closing(Observations(tmp_path / "data" / "observations.db")) as store:
        store.begin_training(1, at_least=1)
    command = [sys.executable, "-m", "train.retrain", "--folder", attempt, "--model-id", "1"]
    command += ["--hyper", "hyperopt", "--max-evals", "1", "--timeout", "60"]
    changed = {"DATA_DIR": str(tmp_path / "data"), "MODELS_DIR": str(tmp_path / "models")}
    environment = os.environ | changed | {"PROMOTE": "unless-worse"}
    child = subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, env=environment)
    assert child.wait() == 0
    child.stdin.close()
    made = Registry(attempt).card(1)
    assert made.split == BY_VALUES
    if split == BY_VALUES:
        assert made.judge.rows == 2_000
    else:
        assert made.decision == "promoted"
        known = "not judged: model 0, made before a change, was trained on rows that judge now"
        assert (made.why, made.judge, made.anchor) == (known, None, None)


def test_only_what_the_last_five_trainings_brought_judges(folder):
    many = snapshot(folder, "........", window=0, every=3_000)
    rows = training_data(folder, many, window=0)
    assert set(rows.judge_groups) - {0} == {4, 5, 6, 7, 8}  # 0: original rows, where these are few


def test_equal_models_and_a_median_by_weight():
    groups = np.repeat([1, 2, 3], [10, 10, 10])
    differences = np.array([np.zeros(30), np.repeat([1.0, 1.0, -50.0], 10)])
    assert estimates(differences, groups, seed=1).tolist() == [[0, 0, 0], [1, 1, 1]]
    values = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 9.0]])
    assert weighted_medians(values, np.array([1, 1, 1])).tolist() == [2, 1]
    assert weighted_medians(values, np.array([5, 1, 1])).tolist() == [3, 1]
    assert weighted_medians(values, np.array([2, 1, 1])).tolist() == [
        2.5,
        1,
    ]  # half below, half above


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_of_two_equal_models_neither_is_favored(number):
    """By definition, and shown: a 95 % interval of equal models is below 0 as often as above."""
    groups = np.repeat(np.arange(number), 40)
    differences = np.random.default_rng(1).normal(size=(500, len(groups)))
    _, low, high = estimates(differences, groups, seed=1).T
    better, worse = (high < 0).mean(), (low > 0).mean()
    assert max(better, worse) < 0.05
    assert abs(better - worse) < 0.02
    swapped = estimates(-differences[:50], groups, seed=1)
    assert np.allclose(-swapped, estimates(differences[:50], groups, seed=1)[:, [0, 2, 1]])


def test_groups_with_fewer_than_half_of_the_rows_do_not_count():
    groups = np.repeat([0, 1, 2], [21, 10, 10])
    original = np.random.default_rng(1).normal(size=21)
    opposite = [np.concatenate([original, np.full(20, value)]) for value in (-9, 9)]
    of_both = estimates(np.array(opposite), groups, seed=1)
    assert of_both[0].tolist() == of_both[1].tolist()


def sample(rows, size: int, seed: int) -> LabeledRows:
    """Random rows of the judge."""
    return rows.judge[np.random.default_rng(seed).permutation(len(rows.judge)) < size]


UNCERTAIN = (
    r"can't tell if it is worse than model 1 \(95 %: [\d.]+ better to [\d.]+ worse in log loss\) "
    r"on 34 held-out rows; a loss of [\d.]+ can't be ruled out: that takes about ([\d,]+) rows"
)


def test_a_judge_of_few_rows_keeps_the_champion_and_says_how_many_it_needs(champion, weak, rows):
    whole = judge_all(champion, weak, rows)
    assert whole.judgement.finding == "worse"
    assert whole.judgement.estimate > 0.05
    few = np.zeros(34, dtype=int)
    verdicts = [judge(champion, weak, sample(rows, 34, seed), few) for seed in range(20)]
    assert all(verdict.decision == "rejected" for verdict in verdicts)
    uncertain = [each.why for each in verdicts if each.judgement.finding == "can't tell"]
    needed = [re.fullmatch(UNCERTAIN, why)[1].replace(",", "") for why in uncertain]
    assert len(needed) > 5
    assert all(int(number) > 34 for number in needed)


def test_a_better_model_wins_before_a_judge_of_few_rows(champion, weak, rows):
    found = judge(weak, champion, sample(rows, 200, 1), np.zeros(200, dtype=int))
    assert (found.decision, found.judgement.finding) == ("promoted", "better")


@pytest.mark.parametrize(
    ("size", "why"),
    [
        (0, "not judged: no rows are held out"),
        (100, "not judged: all 100 held-out rows have the same outcome"),
    ],
)
def test_without_rows_that_can_judge_the_newer_model_is_promoted(champion, weak, rows, size, why):
    refused = rows.judge[np.flatnonzero(rows.judge.outcomes == 0)[:size]]
    verdict = judge(champion, weak, refused, np.zeros(size, dtype=int))
    assert verdict == ("promoted", why, None, champion.model_id)
    verdict = judge(weak, weak, refused, np.zeros(size, dtype=int), anchor=champion)
    assert verdict.anchor == champion.model_id  # an attack can't begin a new anchor in this way


def test_copies_judge_where_few_rows_are_distinct(monkeypatch, folder, champion, weak):
    """Such as a data set of three columns with few categories each."""
    original = original_rows(folder)
    held_out = original.held_out(Split.of_first_model(original.frame))
    few = np.concatenate([np.flatnonzero(held_out)[:20], np.flatnonzero(~held_out)[:180]])
    copies = original[np.tile(few, 100)]
    copies.outcomes = (
        np.random.default_rng(1).random(20_000) < champion.predict(copies.frame)
    ) * 1.0
    monkeypatch.setattr("train.rows.original_rows", lambda folder: copies)
    data = training_data(folder, snapshot(folder, ".", window=0, every=1), window=0)
    assert len(data.judge) >= 2_000
    verdict = judge_all(weak, champion, data)
    assert verdict.decision == "promoted"
    distinct = len(values(data.judge))
    assert verdict.why.endswith(f" held-out rows; only {distinct} of these rows are distinct")


@pytest.fixture(scope="module")
def dearer(champion, rows):
    """The champion with as many trees again, which change almost nothing."""
    encoded = champion.features.transform(rows.training.frame[:2_000])
    booster = lgb.train(
        {"objective": "binary", "learning_rate": 1e-6, "verbosity": -1, "num_threads": 1},
        lgb.Dataset(encoded, rows.training.outcomes[:2_000]),
        champion.booster.num_trees(),
        init_model=champion.booster,
    )
    card = copy(champion.card)
    card.model_id, card.decisions_per_row = 2, 0.0  # as in the card of an older version
    return Model(champion.features, booster, card)


def test_a_model_that_is_as_good_but_dearer_is_rejected(monkeypatch, champion, dearer, rows):
    verdict = judge_all(champion, dearer, rows)
    assert (verdict.decision, verdict.judgement.finding) == ("rejected", "dearer")
    assert verdict.why.startswith("as good as model 1 (95 %: ")
    cost = verdict.judgement.cost
    assert verdict.why.endswith(
        f" better to 0.0000 worse in log loss) on {len(rows.judge):,} held-out rows, but its "
        f"predictions cost {cost:.1f} times those of model 1 (MODEL_COST=low)"
    )
    assert judge_all(dearer, champion, rows).judgement.finding == "as good"
    any_cost = settings.model_copy(update={"model_cost": "any"})
    monkeypatch.setattr("train.judge.settings", any_cost)
    assert judge_all(champion, dearer, rows).decision == "promoted"


def test_a_dearer_model_that_is_better_is_promoted(champion, weak, rows):
    verdict = judge_all(weak, champion, rows)
    assert verdict.judgement.cost > 1.5
    assert (verdict.decision, verdict.judgement.finding) == ("promoted", "better")


def test_costs_do_not_creep_up_past_the_anchor(champion, dearer, rows):
    verdict = judge_all(dearer, dearer, rows, anchor=champion)
    assert verdict.judgement.cost == 1
    assert (verdict.decision, verdict.judgement.finding) == ("rejected", "dearer")


def test_a_model_as_good_as_a_bad_champion_is_worse_than_the_anchor(champion, weak, rows):
    verdict = judge_all(weak, weak, rows, anchor=champion)
    assert (verdict.decision, verdict.judgement.finding) == ("rejected", "worse than the anchor")
    assert verdict.why.startswith("as good as model 2 (95 %: 0.0000 better to 0.0000 worse")
    assert "held-out rows, but worse by 0." in verdict.why
    assert verdict.why.endswith(" than model 1, the best of the earlier champions")
    assert verdict.judgement.anchor == 1


def test_a_model_between_a_bad_champion_and_the_anchor_is_promoted(champion, weak, rows):
    challenger = fit(rows.training[:2_000], 3)
    verdict = judge_all(weak, challenger, rows, anchor=champion)
    assert (verdict.decision, verdict.judgement.finding) == ("promoted", "better")
    assert verdict.judgement.anchor_difference[0] > 0
    assert verdict.anchor == 1  # the anchor stays until a champion is better beyond noise


def test_a_champion_that_is_better_beyond_noise_becomes_the_anchor(champion, weak, rows):
    assert judge_all(champion, champion, rows, anchor=weak).anchor == 1
    assert judge_all(champion, champion, rows).anchor == 1  # the first one
    same = copy(champion.card)
    same.model_id = 0
    equal = Model(champion.features, champion.booster, same)
    assert judge_all(champion, champion, rows, anchor=equal).anchor == 0


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (
            (-0.0031, -0.0049, -0.0012),
            "better by 0.0031 in log loss (95 %: 0.0012 to 0.0049) than model 3",
        ),
        (
            (0.0031, 0.0012, 0.0049),
            "worse by 0.0031 in log loss (95 %: 0.0012 to 0.0049) than model 3",
        ),
        (
            (0.0002, -0.0012, 0.0020),
            "as good as model 3 (95 %: 0.0012 better to 0.0020 worse in log loss)",
        ),
    ],
)
def test_a_comparison_says_how_good_by_how_much_and_than_whom(limits, words):
    compared = [Comparison(3, *limits, mean=limits[0], cost=1)]
    assert str(compared[0]) == words
    groups = np.zeros(2_000, dtype=int)
    assert explain("", compared, groups, 0.03) == f"{words} on 2,000 held-out rows"


def test_a_mean_over_all_rows_that_disagrees_is_explained():
    compared = [Comparison(3, 0.48, 0.46, 0.5, mean=-0.1, cost=1)]
    assert explain("worse", compared, np.repeat([1, 2, 3], 100), 0.03) == (
        "worse by 0.4800 in log loss (95 %: 0.4600 to 0.5000) than model 3 on 300 held-out rows "
        "in the median of 3 groups by training (over all rows 0.1000 better)"
    )


def test_after_a_drift_the_champions_gain_is_that_of_the_median_group():
    rng = np.random.default_rng(1)
    outcomes = (rng.random(1_500) < 0.3).astype(float)
    sure = np.where(rng.random(1_500) < 0.05, 1 - outcomes, outcomes) * 0.9 + 0.05
    probabilities = np.concatenate([1 - sure[:600], sure[600:]])  # wrong before the drift
    losses = log_losses(outcomes, probabilities)
    groups = np.repeat([1, 2, 3, 4, 5], 300)
    assert losses.mean() > log_losses(outcomes, outcomes.mean()).mean()
    assert gain(outcomes, losses, groups) > 0.3
