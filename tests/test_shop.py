"""utils/datasets/shop.py: the probabilities are what they are said to be, and can be learned."""

import hashlib
import json
from itertools import islice

import numpy as np
import pytest

from tests.harness.another_dataset import LOSSES, WIRE, run_with
from utils.datasets.shop import (
    AT_ONCE,
    DAY,
    LONGEST,
    NAMES,
    PERIOD,
    TEST,
    TRAINING,
    dataset,
    requests,
    visits,
)

LABELS = dataset.target.labels
HIDDEN = {"season", "session"}


def outcomes_of(rows) -> np.ndarray:
    return dataset.checked(rows, "visits()")[1]


def loss(rows, scores: np.ndarray) -> float:
    return float(dataset.target.losses(outcomes_of(rows), scores).mean())


@pytest.fixture(scope="module")
def many():
    """100,000 visits; tests only read them."""
    return visits(0, 100_000, seed=5)


# Columns


def test_the_columns_and_classes_are_as_documented(many):
    assert dataset.numeric == ("price", "discount", "views", "seconds", "hour")
    assert dataset.categorical == ("item", "category", "device", "source", "visitor")
    assert dataset.defaults == {"discount": 0}
    assert LABELS == ("ignored", "liked", "basket", "bought")
    assert set(many) == {*dataset.names, "reaction", *HIDDEN}


def test_values_are_in_their_ranges(many):
    for name, known in NAMES.items():
        assert set(many[name]) == set(known)
    assert 8.9 < many["price"].min() < many["price"].max() < 162.4
    assert set(many["discount"]) == {0, 0.1, 0.2, 0.3, 0.4, 0.5}
    assert set(many["views"]) == set(range(1, LONGEST + 1))
    assert set(many["hour"]) == set(range(24))
    assert many["seconds"].min() >= 0
    assert (many["seconds"] < 64 * many["views"]).all()


def test_an_item_has_one_category_and_about_one_price(many):
    of_item = many.groupby("item")
    assert (of_item["category"].nunique() == 1).all()
    prices = of_item["price"].agg(["min", "max"])
    assert (prices["max"] / prices["min"] < 1.1 / 0.9 + 0.01).all()
    assert prices["max"].max() > 10 * prices["max"].min()


@pytest.mark.parametrize(
    ("read", "length"), [(dataset.training, TRAINING), (dataset.test, TEST)], ids=["train", "test"]
)
def test_rows_are_as_declared_and_most_recommendations_are_ignored(tmp_path, read, length):
    frame, outcomes = read(tmp_path)
    assert list(frame) == list(dataset.names)
    assert len(frame) == len(outcomes) == length
    shares = np.bincount(outcomes.astype(int)) / length
    assert 0.65 < shares[0] < 0.75
    assert shares[1] > shares[2] > shares[3] > 0.03


def test_rows_of_training_of_the_test_and_of_visitors_are_different_ones(tmp_path):
    training, test = dataset.training(tmp_path)[0], dataset.test(tmp_path)[0]
    visitors = visits(0, 5_000, seed=5)[[*dataset.names]]
    values = [set(rows.itertuples(index=False, name=None)) for rows in (training, test, visitors)]
    for n in range(3):
        assert len(values[n] & values[n - 1]) < 10  # by chance


# The probabilities


def test_probabilities_add_up_to_1_and_none_is_0(many):
    scores = dataset.true_scores(many)
    assert scores.shape == (len(many), len(LABELS))
    assert dataset.target.are_scores(scores)
    assert scores.min() > 1e-6


@pytest.mark.parametrize("drift_at", [None, 0])
@pytest.mark.parametrize("by", [["hour"], ["item"], ["category", "source"], ["device", "visitor"]])
def test_reactions_have_the_known_probabilities(by, drift_at):
    rows = visits(0, 50_000, seed=6, drift_at=drift_at)
    scores = dataset.true_scores(rows)
    happened = outcomes_of(rows)[:, None] == np.arange(len(LABELS))
    group = rows.groupby(by).ngroup().to_numpy()
    surprise = np.array([np.bincount(group, each) for each in (happened - scores).T])
    variance = np.array([np.bincount(group, each) for each in (scores * (1 - scores)).T])
    deviations = surprise / np.sqrt(variance)
    assert np.abs(deviations).max() < 4.5
    assert 0.8 < deviations.std() < 1.2  # neither biased nor too regular


def test_no_other_scores_have_a_lower_loss(many):
    many = many[:50_000]
    best = dataset.true_scores(many)
    least = loss(many, best)
    assert least == pytest.approx(-(best * np.log(best)).sum(axis=1).mean(), abs=0.005)
    for exponent in (0.8, 1.25):  # less sure, surer
        changed = best**exponent
        assert loss(many, changed / changed.sum(axis=1, keepdims=True)) > least + 0.001
    for column, other in {"season": 0.05, "price": 20, "seconds": 30, "views": 1}.items():
        changed = dataset.true_scores(many.assign(**{column: many[column] + other}))
        assert loss(many, changed) > least + 0.0005
    assert loss(many, dataset.target.constant(outcomes_of(many))) > least + 0.15


def test_popularity_changes_slowly():
    rows = visits(0, 10_000, seed=6)
    now = dataset.true_scores(rows)
    for visits_later, change in {DAY: (0.001, 0.05), PERIOD: (0, 1e-9)}.items():
        later = dataset.true_scores(rows.assign(season=rows["season"] + visits_later / PERIOD))
        assert change[0] <= np.abs(later - now).mean() <= change[1]


# Drift


def test_a_drift_changes_the_best_action_and_makes_old_knowledge_worse_than_none():
    before, after = (visits(0, 10_000, seed=6, drift_at=at) for at in (None, 5_000))
    assert before[:5_000].equals(after[:5_000])
    assert before[[*dataset.names]].equals(after[[*dataset.names]])
    before, after = before[5_000:], after[5_000:]
    old, new = dataset.true_scores(before), dataset.true_scores(after)
    assert (old.argmax(axis=1) != new.argmax(axis=1)).mean() > 0.1
    assert loss(after, old) > loss(after, dataset.target.constant(outcomes_of(after)))
    assert loss(after, new) < loss(after, old) - 0.3


# Sessions


def test_sessions_are_those_of_one_visitor(many):
    sessions = many[many["session"] >= 0].groupby("session")
    assert (sessions[["device", "source", "visitor"]].nunique() == 1).all(axis=None)
    assert (sessions["views"].first() == 1).all()
    assert set(sessions["views"].diff().dropna()) == {1}
    assert sessions["seconds"].diff().dropna().min() >= 0
    length = sessions.size()
    assert 2 < length.mean() < 4
    assert 0.2 < (length == 1).mean() < 0.4
    assert length.max() == LONGEST


def test_many_visitors_are_there_at_the_same_time(many):
    assert many["session"][:AT_ONCE].nunique() == AT_ONCE
    assert many["session"][: 10 * AT_ONCE].nunique() > 2 * AT_ONCE


# Reproducible


def test_visits_are_the_same_made_at_once_or_in_parts():
    at_once = visits(-1_000, 2_000, seed=7, drift_at=100)
    for first, count in ((-1_000, 1), (-999, 998), (-1, 3), (37, 1), (38, 962)):
        part = visits(first, count, seed=7, drift_at=100)
        assert part.equals(at_once[first + 1_000 :][:count].reset_index(drop=True))


def test_visits_are_the_same_on_every_machine():
    content = json.dumps(list(requests(-500, 1_000, seed=1, drift_at=0))).encode()
    assert hashlib.sha256(content).hexdigest()[:16] == "841e2a0fcaa546c4"


def test_another_seed_has_other_visitors():
    assert not visits(0, 100, seed=1).equals(visits(0, 100, seed=2))


# Visitors


def test_visitors_are_others_in_each_run_and_go_on_without_end(tmp_path):
    runs = [list(islice(dataset.visitors(tmp_path), 2 * DAY + 10)) for _ in range(2)]
    assert [len(run) for run in runs] == [2 * DAY + 10] * 2
    assert runs[0][:10] != runs[1][:10]
    assert runs[0][:DAY] != runs[0][DAY : 2 * DAY]


def test_visitors_lack_what_a_shop_would_not_send():
    visitors, rows = list(requests(0, 1_000, seed=5)), visits(0, 1_000, seed=5)
    names = {*dataset.names, "reaction"}
    assert {frozenset(visitor) for visitor in visitors} == {
        frozenset(names),
        frozenset(names - {"discount"}),
    }
    defaults = [dataset.defaults | visitor for visitor in visitors]
    assert defaults == rows.drop(columns=[*HIDDEN]).to_dict("records")


@pytest.mark.parametrize(("drift_at", "least", "most"), [(None, 0.4, 1), (0, 0, 0.2)])
def test_what_was_popular_is_not_after_a_drift(tmp_path, drift_at, least, most):
    before = visits(0, 20_000, seed=6)
    ignored = (before["reaction"] == "ignored").groupby(before["item"]).mean()
    popular = set(ignored.nsmallest(10).index)
    visitors = islice(dataset.visitors(tmp_path, drift_at), DAY)
    reactions = [visitor["reaction"] for visitor in visitors if visitor["item"] in popular]
    assert least < np.mean([reaction != "ignored" for reaction in reactions]) < most


def test_a_shop_says_what_it_does():
    data = {"item": "item-07", "price": 49.9}
    assert dataset.describe(data) == "item-07, 49.90"
    assert dataset.action("bought", None) == "reserve one"
    assert len({dataset.action(label, None) for label in LABELS}) == len(LABELS)


# With the rest of the project


def test_visitors_are_valid_requests(tmp_path):
    path = tmp_path / "visitors.json"
    path.write_text(json.dumps(list(islice(dataset.visitors(tmp_path, 100), 500))))
    assert run_with("shop", WIRE, path) == "500\n"


@pytest.mark.slow
def test_a_model_learns_most_of_what_there_is_to_learn(tmp_path):
    found = json.loads(run_with("shop", LOSSES, tmp_path, 1))
    least, most = found["best possible"], found["always the same"]
    assert least < found["model"] < least + 0.25 * (most - least)
    assert found["model"] < found["plain LightGBM"] < most
